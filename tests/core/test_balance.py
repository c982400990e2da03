"""Streams balanced by moving averages of their losses."""

import json
import math

import pytest
import torch

from flowgen.core.interfaces import MASK, STREAM_LOSSES, LossWithBalance
from flowgen.core.losses import EDM, FlowMatching, ddpm, rectified_flow, score_matching
from flowgen.core.losses.balance import StreamAverages
from flowgen.core.random import Randomness
from flowgen.core.tree import tree_map

B = 16
G = torch.Generator().manual_seed(3)
X1 = {"sound": torch.randn(B, 6, 2, generator=G), "picture": 40 * torch.randn(B, 3, 4, 1, generator=G)}
R = Randomness(5, 2, B)
KINDS = [FlowMatching, EDM, ddpm, rectified_flow, score_matching]


class Scaled(torch.nn.Module):
    """A parameter for each stream; refuses conditions that are none of its own."""

    def __init__(self):
        super().__init__()
        self.own = torch.nn.ParameterDict({k: torch.nn.Parameter(torch.full((1,), 0.5)) for k in X1})

    def forward(self, x, t, cond):
        assert cond.keys() <= {MASK}
        return {k: x[k] * self.own[k] for k in x}


def shown(**averages):
    return {STREAM_LOSSES: {k: torch.full((B,), v) for k, v in averages.items()}}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("weights", [None, {"sound": 1.0, "picture": 3.0}])
def test_each_stream_is_divided_by_its_average_and_logged_as_it_is(kind, weights):
    plain = kind(weights=weights)(Scaled(), X1, {}, R)
    loss = kind(weights=weights, balance=0.9)
    assert isinstance(loss, LossWithBalance)
    out = loss(Scaled(), X1, shown(sound=2.0, picture=500.0), R)
    w = weights or {"sound": 1.0, "picture": 1.0}
    expected = (w["sound"] * plain.by_stream["sound"] / 2 + w["picture"] * plain.by_stream["picture"] / 500) / sum(
        w.values()
    )
    torch.testing.assert_close(out.total, expected)
    for name in X1:
        assert torch.equal(out.by_stream[name], plain.by_stream[name])
    # what has no average yet counts as it is, and so does everything in validation
    first = loss(Scaled(), X1, shown(picture=500.0), R).total
    expected = (w["sound"] * plain.by_stream["sound"] + w["picture"] * plain.by_stream["picture"] / 500) / sum(
        w.values()
    )
    torch.testing.assert_close(first, expected)
    assert torch.equal(loss(Scaled(), X1, {}, R).total, plain.total)


def test_balanced_streams_pull_alike_whatever_their_scale():
    """The gradient of a stream by the logarithm of its own loss; without balance it is the scale that counts."""

    def gradients(factor, balanced):
        x1 = {**X1, "picture": factor * X1["picture"]}
        network, averages = Scaled(), StreamAverages(0.9)
        loss = FlowMatching(predicts="data", balance=0.9)
        if balanced:
            with torch.no_grad():
                averages.update({k: float(v.mean()) for k, v in loss(network, x1, {}, R).by_stream.items()})
        loss(network, x1, averages.shown(B), R).total.mean().backward()
        return {k: float(p.grad) for k, p in network.own.items()}

    one, other = gradients(1.0, True), gradients(30.0, True)
    assert one["sound"] == pytest.approx(other["sound"])
    assert one["picture"] == pytest.approx(other["picture"], rel=0.01)  # of strong data the noise is a part
    one, other = gradients(1.0, False), gradients(30.0, False)
    assert other["picture"] / one["picture"] > 100


def test_averages_are_those_of_the_steps_in_which_a_stream_was_there():
    generator = torch.Generator().manual_seed(0)
    losses = {name: (5 * torch.rand(40, generator=generator)).tolist() for name in "ab"}
    there = {"a": [True] * 40, "b": [i % 3 == 1 for i in range(40)]}
    averages = StreamAverages(0.9)
    for i in range(40):
        before = averages.values
        averages.update({n: losses[n][i] if there[n][i] else math.nan for n in "ab"} if i % 2 else
                        {n: losses[n][i] for n in "ab" if there[n][i]})  # fmt: skip
        if not there["b"][i]:
            assert averages.values.get("b") == before.get("b")
    for name in "ab":
        own = [loss for loss, was in zip(losses[name], there[name], strict=True) if was]
        weights = [0.9 ** (len(own) - 1 - i) for i in range(len(own))]
        expected = sum(w * loss for w, loss in zip(weights, own, strict=True)) / sum(weights)
        assert averages.values[name] == pytest.approx(expected, rel=1e-12)


def test_averages_go_on_exactly_from_their_state():
    whole, begun = StreamAverages(0.99), StreamAverages(0.99)
    for i in range(30):
        whole.update({"a": 1 / (3 + i)})
        begun.update({"a": 1 / (3 + i)})
        if i == 11:
            state = json.loads(json.dumps(begun.state()))
            begun = StreamAverages(0.99)
            begun.load(state)
    assert begun.values == whole.values


def test_a_stream_that_is_learned_exactly_is_not_divided_by_zero():
    averages = StreamAverages(0.9)
    averages.update({"sound": 0.0, "picture": 1.0})
    total = FlowMatching(balance=0.9)(Scaled(), tree_map(torch.zeros_like, X1), averages.shown(B), R).total
    assert bool(total.isfinite().all())


@pytest.mark.parametrize("kind", [FlowMatching, EDM])
def test_one_stream_has_nothing_to_balance(kind):
    with pytest.raises(ValueError, match="balance is of several streams"):
        kind(balance=0.9)(lambda x, t, cond: x, X1["sound"], {}, R)

"""Preferences: the margin in closed form, what bounds it, and that swapped labels lead the other way."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from flowgen.core.couplings import OptimalTransport
from flowgen.core.flow import NetworkFlow, Shifted
from flowgen.core.interfaces import MASK, REJECTED, LossWithPairs, LossWithTeacher
from flowgen.core.losses import EDM, FlowDPO
from flowgen.core.paths import Cosine, Linear
from flowgen.core.random import Randomness
from flowgen.core.tree import left, tree_map

B = 6
BETA = 40.0


def reference(x, t, cond):
    return tree_map(lambda x: 0.5 * x, x)


def loss_of(predicts="velocity", **options):
    loss = FlowDPO("run", BETA, predicts=predicts, **options)
    return loss.with_teacher(NetworkFlow(reference, loss.path, predicts), {})


def clips(seed=0, shape=(B, 5, 2)):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=g), torch.randn(shape, generator=g)


def pair(lost, **cond):
    return {REJECTED: {"x": lost}, **cond}


def moved(by):
    """The reference, moved; and what it is shown."""
    shown = []

    def network(x, t, cond):
        shown.append((x, t, cond))
        return tree_map(lambda r: r + by, reference(x, t, cond))

    return network, shown


def test_it_says_what_it_needs():
    loss = FlowDPO("run")
    assert isinstance(loss, LossWithTeacher)
    assert isinstance(loss, LossWithPairs)


def test_at_the_reference_the_loss_is_log_2():
    won, lost = clips()
    found = loss_of()(reference, won, pair(lost), Randomness(0, 0, B))
    torch.testing.assert_close(found.total, torch.full((B,), math.log(2)))
    assert not found.parts["margin"].any()
    assert not found.parts["drift"].any()
    assert (found.parts["accuracy"] == 0.5).all()
    assert found.t.shape == (B,)


@pytest.mark.parametrize("predicts", ["velocity", "data"])
def test_the_margin_is_that_of_the_paper(predicts):
    """Equation 14 of Diffusion-DPO by hand, both clips at one time with one noise, in velocity whatever is predicted."""
    won, lost = clips()
    network, shown = moved(0.3)
    found = loss_of(predicts)(network, won, pair(lost), Randomness(0, 0, B))
    (x, t, _), (y, again, _) = shown
    assert torch.equal(t, again)
    noise = (x - left(t, won) * won) / left(1 - t, won)
    torch.testing.assert_close(noise, (y - left(t, won) * lost) / left(1 - t, won), rtol=1e-3, atol=1e-3)

    def error(x1, x, by):
        said = 0.5 * x + by
        v = said if predicts == "velocity" else (said - x) / left(1 - t, x)
        return (v - (x1 - noise)).square().flatten(1).mean(1)

    gained = [error(x1, x, 0.3) - error(x1, x, 0.0) for x1, x in ((won, x), (lost, y))]
    margin = -BETA / 2 * (gained[0] - gained[1])
    near = {"rtol": 1e-3, "atol": 2e-3}
    torch.testing.assert_close(found.parts["margin"], margin, **near)
    torch.testing.assert_close(found.parts["preferred"], gained[0], **near)
    torch.testing.assert_close(found.parts["rejected"], gained[1], **near)
    torch.testing.assert_close(found.total, -torch.log(torch.sigmoid(margin.double())).float(), **near)
    torch.testing.assert_close(found.parts["accuracy"], (margin > 0).float())
    size = 0.09 if predicts == "velocity" else 0.09 / (1 - t) ** 2
    torch.testing.assert_close(found.parts["drift"], torch.as_tensor(size).expand(B), **near)


def trained(won, lost, steps=60, **options):
    """A constant that is added to the reference, trained on one pair of sets; the parts of the loss at its end."""
    shift = nn.Parameter(torch.zeros(()))
    loss = loss_of(**options)
    optimizer = torch.optim.SGD([shift], lr=0.02)
    for step in range(steps):
        optimizer.zero_grad()
        loss(moved(shift)[0], won, pair(lost), Randomness(0, step, len(won))).total.mean().backward()
        optimizer.step()
    return shift, loss


def test_it_leads_to_what_was_preferred_and_swapped_labels_lead_away():
    """Clips about 1 were preferred to clips about -1: their error falls, and rises where the labels are swapped."""
    won, lost = clips(shape=(64, 5, 2))
    won, lost = 0.3 * won + 1, 0.3 * lost - 1
    found = {}
    for name, pairs in (("right", (won, lost)), ("swapped", (lost, won))):
        shift, loss = trained(*pairs)
        parts = loss(moved(shift.detach())[0], won, pair(lost), Randomness(1, 0, 64)).parts
        found[name] = shift.item(), parts["preferred"].mean().item(), parts["accuracy"].mean().item()
    assert found["right"][0] > 0.05
    assert found["right"][1] < 0
    assert found["right"][2] > 0.9
    assert found["swapped"][0] < -0.05
    assert found["swapped"][1] > 0
    assert found["swapped"][2] < 0.1


def gradient(loss, by, won, lost):
    shift = torch.full((B, 1, 1), by, requires_grad=True)
    total = loss(moved(shift)[0], won, pair(lost), Randomness(0, 0, B)).total
    return torch.autograd.grad(total.sum(), shift)[0].flatten(), total.detach()


def test_a_pair_beyond_the_cap_pulls_no_more():
    won, lost = clips()
    won, lost = won + 1, lost - 1
    free, _ = gradient(loss_of(), 0.3, won, lost)
    held, total = gradient(loss_of(cap=0.5), 0.3, won, lost)
    margin = loss_of()(moved(0.3)[0], won, pair(lost), Randomness(0, 0, B)).parts["margin"]
    beyond = margin > 0.5
    assert beyond.any()
    assert (free < 0).all()
    assert not held[beyond].any()
    torch.testing.assert_close(total[beyond], torch.full_like(total[beyond], math.log1p(math.exp(-0.5))))
    torch.testing.assert_close(held[~beyond], free[~beyond])


def test_drift_is_bounded():
    won, lost = clips()
    won, lost = won + 1, lost - 1
    assert not gradient(loss_of(max_drift=0.05), 0.3, won, lost)[0].any()  # the drift is 0.09
    assert gradient(loss_of(max_drift=0.1), 0.3, won, lost)[0].all()
    free, total = gradient(loss_of(), 0.3, won, lost)
    held, more = gradient(loss_of(drift_weight=2.0), 0.3, won, lost)
    torch.testing.assert_close(more, total + 2 * 0.09)
    torch.testing.assert_close(held, free + 2 * 2 * 0.3)
    ends = [trained(won, lost, drift_weight=weight)[0].item() for weight in (0.0, 10.0)]
    assert 0 < ends[1] < 0.5 * ends[0]


def test_beta_goes_from_its_start_to_its_end():
    loss = loss_of(beta_end=10.0, anneal=100)
    assert [loss.beta_at(step) for step in (-1, 0, 50, 100, 1000)] == [40, 40, 25, 10, 10]
    won, lost = clips()
    margins = [
        loss_of(**options)(moved(0.3)[0], won, pair(lost), Randomness(0, 0, B)).parts["margin"]
        for options in ({}, {"beta_end": 10.0, "anneal": 100})
    ]
    torch.testing.assert_close(*margins)


def test_padding_of_either_clip_carries_no_loss():
    won, lost = clips()
    masks = torch.arange(5).expand(B, 5) < 4, torch.arange(5).expand(B, 5) < 3

    def found(won, lost, network):
        cond = {REJECTED: {"x": lost, MASK: masks[1]}, MASK: masks[0]}
        return loss_of()(network, won, cond, Randomness(0, 0, B)).total

    network, shown = moved(0.3)
    here = found(won, lost, network)
    for (_, _, cond), mask in zip(shown, masks, strict=True):
        assert cond.keys() == {MASK}
        assert torch.equal(cond[MASK], mask)
    spoiled = [torch.where(mask[..., None], x, 9.0) for x, mask in zip((won, lost), masks, strict=True)]
    torch.testing.assert_close(found(*spoiled, network), here)
    assert not torch.allclose(found(won, lost, moved(0.4)[0]), here)


@pytest.mark.parametrize("predicts", ["velocity", "data"])
def test_given_positions_are_shown_and_carry_no_loss(predicts):
    won, lost = clips()
    known = torch.arange(5).expand(B, 5) < 2
    network, shown = moved(torch.where(torch.arange(5) < 2, 7.0, 0.3)[:, None])
    loss = loss_of(predicts)
    found = loss(network, won, pair(lost), Randomness(0, 0, B), known)
    for (x, t, _), x1 in zip(shown, (won, lost), strict=True):
        assert torch.equal(x[known], x1[known])
        assert (t[:, :2] == 1).all()
    same = loss(moved(0.3)[0], won, pair(lost), Randomness(0, 0, B), known)
    torch.testing.assert_close(found.total, same.total)
    assert found.total.isfinite().all()


def test_a_pair_is_the_same_on_any_ranks():
    won, lost = clips()
    network, _ = moved(0.3)
    whole = loss_of()(network, won, pair(lost), Randomness(3, 1, B)).total
    parts = [
        loss_of()(network, won[rows], pair(lost[rows]), Randomness(3, 1, B, rows)).total
        for rows in (torch.arange(2), torch.arange(2, B))
    ]
    torch.testing.assert_close(torch.cat(parts), whole)


def test_conditions_are_those_of_both():
    won, lost = clips()
    network, shown = moved(0.3)
    loss_of()(network, won, pair(lost, digit=torch.arange(B)), Randomness(0, 0, B))
    assert [cond.keys() for _, _, cond in shown] == [{"digit"}] * 2
    assert all(torch.equal(cond["digit"], torch.arange(B)) for _, _, cond in shown)


def test_streams_count_by_their_weights_and_have_times_of_their_own():
    won, lost = ({"a": x, "b": x[:, :3]} for x in clips())
    options = {"shift": {"a": 3.0, "b": 1.0}, "weights": {"a": 1.0, "b": 0.0}}
    loss = FlowDPO("run", BETA, **options)
    flow = Shifted(NetworkFlow(reference, Linear()), {"a": 3.0, "b": 1.0})
    network, shown = moved(0.3)
    found = loss.with_teacher(flow, {})(network, won, pair(lost), Randomness(0, 0, B))
    _, times, _ = shown[0]
    assert set(found.t) == {"a", "b"}
    assert not torch.allclose(times["a"], times["b"])
    torch.testing.assert_close(found.parts["drift"], torch.full((B,), 0.09))
    at_reference = loss.with_teacher(flow, {})(reference, won, pair(lost), Randomness(0, 0, B))
    torch.testing.assert_close(at_reference.total, torch.full((B,), math.log(2)))  # asked at the times of each stream
    gained = []
    for (states, seen, _), x1 in zip(shown, (won, lost), strict=True):
        x, t = states["a"], left(seen["a"], states["a"])
        target = x1["a"] - (x - t * x1["a"]) / (1 - t)
        errors = [(0.5 * x + by - target).square().flatten(1).mean(1) for by in (0.3, 0.0)]
        gained.append(errors[0] - errors[1])
    torch.testing.assert_close(found.parts["margin"], -BETA / 2 * (gained[0] - gained[1]), rtol=1e-3, atol=2e-3)


def test_what_it_does_not_take_is_refused():
    won, lost = clips()
    with pytest.raises(ValueError, match="leave the coupling independent"):
        FlowDPO("run", coupling=OptimalTransport())
    with pytest.raises(ValueError, match="beta_end goes with anneal"):
        FlowDPO("run", beta_end=1.0)
    with pytest.raises(ValueError, match="call with_teacher first"):
        FlowDPO("run")(reference, won, pair(lost), Randomness(0, 0, B))
    with pytest.raises(ValueError, match="got no rejected clips"):
        loss_of()(reference, won, {}, Randomness(0, 0, B))
    with pytest.raises(ValueError, match="was trained on the path Cosine"):
        FlowDPO("run").with_teacher(NetworkFlow(reference, Cosine()), {})
    with pytest.raises(ValueError, match="the reference predicts data, and this velocity"):
        FlowDPO("run").with_teacher(NetworkFlow(reference, Linear(), "data"), {})
    with pytest.raises(ValueError, match="edm preconditions it"):
        FlowDPO("run").with_teacher(EDM().flow(reference), {})

"""Guidance by the other streams."""

import pytest
import torch

from flowgen.core.flow import NetworkFlow, Shifted
from flowgen.core.guidance import CFG, CrossStream
from flowgen.core.interfaces import MASK
from flowgen.core.paths import Linear
from flowgen.core.sampler import sample
from flowgen.core.solvers import Heun
from flowgen.core.times import uniform_grid
from flowgen.core.tree import tree_map
from flowgen.media.regions import KnownFlow

B = 5
G = torch.Generator().manual_seed(1)
X = {
    "sound": torch.randn(B, 6, 2, generator=G),
    "picture": torch.randn(B, 3, 4, 1, generator=G),
    "force": torch.randn(B, 7, 1, generator=G),
}
T = torch.tensor(0.4, dtype=torch.float64)
COND = {"a": torch.arange(B) + 1.0}
NULL = {"a": torch.zeros(B)}


def network(x, t, cond):
    """Each stream from itself, the condition, and the mean of the others that are there."""
    mask = cond.get(MASK) or tree_map(lambda x: torch.ones(x.shape[:-1], dtype=torch.bool), x)
    said = {n: (v * mask[n][..., None]).flatten(1).mean(1) for n, v in x.items()}

    def leaf(name):
        heard = sum(v for n, v in said.items() if n != name) + 0.1 * cond["a"]
        return 0.5 * x[name] + heard.reshape(-1, *[1] * (x[name].ndim - 1))

    return {name: leaf(name) for name in x}


FLOW = NetworkFlow(network, Linear())


def absent(*names):
    return {n: torch.full(v.shape[:-1], n not in names) for n, v in X.items()}


def without(name):
    """The estimate of a stream for clips that lack all others."""
    return FLOW(X, T, {**COND, MASK: absent(*(X.keys() - {name}))}).value[name]


def test_scale_one_is_the_flow_itself():
    for scale in (1.0, {"sound": 1.0, "picture": 1.0}, {}):
        assert CrossStream(scale)(FLOW, NULL) is FLOW


@pytest.mark.parametrize("scale", [0.0, 0.5, 2.0, -1.0])
def test_each_stream_is_led_away_from_what_it_would_be_alone(scale):
    guided, plain = CrossStream(scale)(FLOW, NULL)(X, T, COND).value, FLOW(X, T, COND).value
    for name in X:
        torch.testing.assert_close(guided[name], without(name) + scale * (plain[name] - without(name)))
        assert not torch.allclose(plain[name], without(name), atol=1e-2)
    if scale == 0:
        assert all(torch.equal(guided[name], without(name)) for name in X)


def test_streams_have_scales_of_their_own_and_those_not_named_are_plain():
    guided, plain = CrossStream({"sound": 3.0})(FLOW, NULL)(X, T, COND).value, FLOW(X, T, COND).value
    torch.testing.assert_close(guided["sound"], 3 * plain["sound"] - 2 * without("sound"))
    assert torch.equal(guided["picture"], plain["picture"])
    asked = []

    def counted(x, t, cond):
        asked.append(len(x["sound"]))
        return network(x, t, cond)

    flow = NetworkFlow(counted, Linear())
    for scale, branches in (({"sound": 3.0}, 2), ({"sound": 3.0, "picture": 1.0}, 2), (3.0, 4)):
        CrossStream(scale)(flow, NULL)(X, T, COND)
        assert asked.pop() == branches * B


def test_a_clip_that_lacks_the_others_has_nothing_to_be_led_away_from():
    cond = {**COND, MASK: absent("picture", "force")}
    kept = {name: mask.clone() for name, mask in cond[MASK].items()}
    torch.testing.assert_close(CrossStream(3.0)(FLOW, NULL)(X, T, cond).value["sound"], without("sound"))
    assert all(torch.equal(cond[MASK][name], kept[name]) for name in kept)


@pytest.mark.parametrize("order", ["within", "around"])
def test_it_chains_with_the_guidance_of_conditions(order):
    """Both are affine in the branches, so that either order gives the four estimates these weights."""
    cross, cfg = CrossStream({"sound": 2.5}), CFG(3.0)
    chained = cfg(cross(FLOW, NULL), NULL) if order == "within" else cross(cfg(FLOW, NULL), NULL)
    guided = chained(X, T, COND).value["sound"]

    def said(cond, mask):
        return FLOW(X, T, {**cond, MASK: mask}).value["sound"]

    alone = absent("picture", "force")
    expected = sum(
        w * (2.5 * said(cond, absent()) - 1.5 * said(cond, alone)) for w, cond in ((3.0, COND), (-2.0, NULL))
    )
    torch.testing.assert_close(guided, expected)


def test_a_given_stream_guides_and_stays_as_it_is():
    known = {n: torch.full(v.shape[:-1], n == "picture") for n, v in X.items()}
    grid, options = uniform_grid(4), {"solver": Heun(), "cond": COND}

    def end(picture, scale):
        kept = KnownFlow(FLOW, {**X, "picture": picture}, known)
        return kept.restore(sample(CrossStream(scale)(kept, NULL), X, grid, **options))

    other = X["picture"] + 1
    for scale in (0.0, 1.0, 2.0):
        assert torch.equal(end(X["picture"], scale)["picture"], X["picture"])
    assert torch.equal(end(X["picture"], {"sound": 0.0})["sound"], end(other, {"sound": 0.0})["sound"])
    moved = [(end(other, {"sound": s})["sound"] - end(X["picture"], {"sound": s})["sound"]).mean() for s in (1.0, 2.0)]
    assert moved[1] > 1.5 * moved[0] > 0


def test_it_is_in_force_in_an_interval_and_goes_by_clocks_of_streams():
    flow = Shifted(FLOW, {"sound": 3.0, "picture": 1.0, "force": 1.0})
    rule = CrossStream(2.0, start=0.3, end=0.6)
    for t, inside in ((0.2, False), (0.5, True), (0.7, False)):
        t = torch.tensor(t, dtype=torch.float64)
        same = torch.equal(rule(flow, NULL)(X, t, COND).value["sound"], flow(X, t, COND).value["sound"])
        assert same != inside


def test_what_it_cannot_guide_is_refused():
    with pytest.raises(ValueError, match="the latents are one"):
        CrossStream()(FLOW, NULL)(X["sound"], T, COND)
    with pytest.raises(ValueError, match=r"scale names smell; the streams are sound, picture, force"):
        CrossStream({"smell": 2.0})(FLOW, NULL)(X, T, COND)
    with pytest.raises(ValueError, match="start < end"):
        CrossStream(start=0.5, end=0.5)

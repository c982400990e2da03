"""Properties of the networks over several streams."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from flowgen.core.flow_map import jvp
from flowgen.core.interfaces import END_TIME, SECOND_TIME
from flowgen.media.conditions import ClassCondition, TextCondition, encode_conditions
from flowgen.media.streams import Axis, StreamSpec
from flowgen.nn import CommonPositions, ExchangeTransformer, StreamTransformer

SPEC = {
    "sound": StreamSpec(2, (Axis("time", 8, 4.0),)),
    "picture": StreamSpec(3, (Axis("time", 4, 2.0), Axis("height", 4), Axis("width", 2))),
    "title": StreamSpec(5),
}
CONDITIONS = {"kind": ClassCondition(("a", "b")), "text": TextCondition(8)}
PATCHES = {"sound": (2,), "picture": (1, 2, 2)}


@pytest.fixture(params=[StreamTransformer, ExchangeTransformer], autouse=True)
def kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Each of them in every test."""
    monkeypatch.setitem(globals(), "Kind", request.param)
    return request.param


Kind: Any = StreamTransformer


def build(**options: Any) -> Any:
    """A small network away from its initialisation, in which nothing is zero."""
    options = {"width": 32, "depth": 2, "heads": 2, "patches": PATCHES, **options}
    torch.manual_seed(0)
    net = Kind(SPEC, CONDITIONS, options.pop("inputs", ()), **options)
    g = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in net.parameters():
            p.add_(0.1 * torch.randn(p.shape, generator=g))
    return net


def given(batch: int = 3) -> tuple[dict[str, Tensor], Tensor, dict[str, Any]]:
    g = torch.Generator().manual_seed(7)
    x = {name: torch.randn(batch, *spec.shape, generator=g) for name, spec in SPEC.items()}
    values = [{"kind": "a", "text": "hi"}, {"kind": "b"}, {}][:batch]
    return x, torch.rand(batch, generator=g), encode_conditions(CONDITIONS, values)


def whole(batch: int = 3) -> dict[str, Tensor]:
    return {name: torch.ones(batch, *spec.shape[:-1], dtype=torch.bool) for name, spec in SPEC.items()}


def gap(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
    return max(float((a[name] - b[name]).detach().abs().max()) for name in a)


def test_a_new_network_says_zero_and_keeps_the_shapes() -> None:
    x, t, cond = given()
    out = Kind(SPEC, CONDITIONS, width=32, depth=1, heads=2, patches=PATCHES)(x, t, cond)
    assert {n: v.shape for n, v in out.items()} == {n: v.shape for n, v in x.items()}
    assert all(v.count_nonzero() == 0 for v in out.values())


def test_every_parameter_learns_and_every_stream_sees_the_others() -> None:
    net, (x, t, cond) = build(), given()
    x = {name: leaf.requires_grad_() for name, leaf in x.items()}
    out = net(x, t, cond)
    for name in SPEC:
        grads = torch.autograd.grad(out[name].square().mean(), list(x.values()), retain_graph=True)
        assert all(float(g.abs().max()) > 0 for g in grads), name
    sum(leaf.square().mean() for leaf in out.values()).backward()
    silent = [name for name, p in net.named_parameters() if p.grad is None or not p.grad.abs().max() > 0]
    assert not silent


def test_one_time_is_that_time_for_every_stream_and_position() -> None:
    net, (x, t, cond) = build(), given()
    each = {n: t.reshape(-1, *[1] * (leaf.ndim - 2)).expand(leaf.shape[:-1]) for n, leaf in x.items()}
    assert gap(net(x, t, cond), net(x, dict.fromkeys(x, t), cond)) == 0
    assert gap(net(x, t, cond), net(x, each, cond)) < 1e-5
    other = {**dict.fromkeys(x, t), "sound": 1 - t}
    assert gap(net(x, t, cond), net(x, other, cond)) > 1e-3


def test_an_absent_stream_is_unseen_and_its_own_parameters_do_not_learn() -> None:
    net, (x, t, cond) = build(), given()
    mask = {**whole(), "sound": torch.zeros(3, 8, dtype=torch.bool)}
    out = net(x, t, {**cond, "mask": mask})
    moved = net({**x, "sound": torch.randn(3, 8, 2) * 9}, t, {**cond, "mask": mask})
    assert gap({n: out[n] for n in ("picture", "title")}, {n: moved[n] for n in ("picture", "title")}) == 0
    (out["picture"].square().mean() + out["title"].square().mean()).backward()
    own = {n: p.grad for n, p in net.named_parameters() if "sound" in n.split(".")}
    assert len(own) > 8
    for name, grad in own.items():
        assert grad is None or grad.abs().max() == 0, name
    assert net.embed["picture"].weight.grad.abs().max() > 0  # type: ignore[union-attr, operator]
    assert bool(torch.isfinite(out["sound"]).all())


def test_padding_changes_nothing() -> None:
    """A clip beside a longer one, padded, is as it is alone, up to the rounding of other shapes."""
    net, (x, t, cond) = build(), given(1)
    short = {"sound": x["sound"][:, :4], "picture": x["picture"][:, :2], "title": x["title"]}
    mask = whole(1)
    mask["sound"] = torch.arange(8)[None] < 4
    mask["picture"] = (torch.arange(4) < 2).reshape(1, 4, 1, 1).expand(1, 4, 4, 2)
    alone, padded = net(short, t, cond), net(x, t, {**cond, "mask": mask})
    assert gap(alone, {n: padded[n][tuple(map(slice, leaf.shape))] for n, leaf in alone.items()}) < 1e-5
    assert gap(alone, {n: net(x, t, cond)[n][tuple(map(slice, leaf.shape))] for n, leaf in alone.items()}) > 1e-3


def test_tokens_of_one_moment_have_one_angle() -> None:
    """The angles of the time are frequencies times seconds, whatever rate and patch."""
    axes = {name: spec.axes for name, spec in SPEC.items()}
    patches = {**PATCHES, "title": ()}
    positions = CommonPositions(axes, patches, 8)
    grids = {"sound": (4,), "picture": (4, 2, 1), "title": ()}
    table = torch.view_as_complex(positions(grids))[:, 0, 0]
    pairs = positions.shares["time"]
    seconds = torch.tensor([0.25, 0.75, 1.25, 1.75])
    turns = torch.polar(torch.ones(4, pairs), seconds[:, None] * positions.frequencies[:pairs])
    torch.testing.assert_close(table[:4, :pairs], turns)
    torch.testing.assert_close(table[4:12:2, :pairs], turns)
    torch.testing.assert_close(table[-1], torch.ones(8, dtype=torch.complex64))
    assert len(table) == 4 + 8 + 1


def test_a_second_time_comes_in_at_zero_and_is_differentiable() -> None:
    x, t, cond = given()
    net = Kind(SPEC, CONDITIONS, [SECOND_TIME], width=32, depth=1, heads=2, patches=PATCHES)
    torch.nn.init.normal_(net.out["sound"].weight)  # type: ignore[arg-type]
    assert gap(net(x, t, cond), net(x, t, {**cond, END_TIME: 0.5 + t / 2})) == 0
    net = build(inputs=[SECOND_TIME])
    s = 0.5 + t / 2
    _, slope = jvp(lambda s: net(x, t, {**cond, END_TIME: s}), (s,), (torch.ones_like(s),))
    after, before = (net(x, t, {**cond, END_TIME: s + d}) for d in (1e-3, -1e-3))
    for name in SPEC:
        difference = (after[name] - before[name]) / 2e-3
        assert float((slope[name] - difference).detach().norm() / slope[name].detach().norm()) < 0.05
        assert float(slope[name].detach().norm()) > 1e-3


def test_recomputed_blocks_learn_the_same() -> None:
    grads = []
    for checkpoint in (False, True):
        net, (x, t, cond) = build(checkpoint=checkpoint), given()
        sum(leaf.square().mean() for leaf in net(x, t, cond).values()).backward()
        grads.append([p.grad for p in net.parameters()])
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b)


def test_what_it_does_not_take_is_refused() -> None:
    with pytest.raises(ValueError, match="use transformer"):
        Kind(SPEC["sound"], {})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="patches names smell"):
        Kind(SPEC, {}, patches={"smell": (1,)})
    with pytest.raises(ValueError, match="which a patch of 3 does not divide"):
        Kind(SPEC, {}, patches={"sound": (3,)})
    net, (x, t, cond) = build(), given()
    with pytest.raises(ValueError, match="takes the streams sound, picture, title"):
        net({"sound": x["sound"]}, t, cond)

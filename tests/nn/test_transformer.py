"""Properties of the transformer on 1, 2 and 3 axes, full and factorised."""

from __future__ import annotations

import copy
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from flowgen.media.conditions import ClassCondition, NumberCondition, TextCondition, encode_conditions, null_conditions
from flowgen.media.streams import Axis, StreamSpec
from flowgen.nn import Transformer
from flowgen.nn.overlap import crossfade, span

AXES = (Axis("time", 8, 4.0), Axis("height", 6), Axis("width", 4))
CONDITIONS = {"kind": ClassCondition(("a", "b")), "level": NumberCondition(0, 1), "text": TextCondition(8)}
VALUES = [{"kind": "a", "level": 0.3, "text": "hi"}, {"kind": "b", "text": "longer"}, {}]
CASES = [(n, kind) for n, kind in product((1, 2, 3), ("full", "factorised")) if n > 1 or kind == "full"]
every_case = pytest.mark.parametrize(("n", "attention"), CASES)


def spec(n: int) -> StreamSpec:
    return StreamSpec(3, AXES[:n])


def build(n: int, attention: str = "full", size: int = 2, **options: Any) -> Transformer:
    """A small network away from its initialisation, in which nothing is zero."""
    g = torch.Generator().manual_seed(n)
    options = {"width": 32, "depth": 2, "heads": 2, "patch": (size,) * n, **options}
    net = Transformer(spec(n), CONDITIONS, attention=attention, **options)  # type: ignore[arg-type]
    with torch.no_grad():
        for p in net.parameters():
            p.add_(0.1 * torch.randn(p.shape, generator=g))
    return net


def inputs(n: int, batch: int = 3) -> tuple[Tensor, Tensor, dict[str, Any]]:
    g = torch.Generator().manual_seed(7)
    x = torch.randn(batch, *spec(n).shape, generator=g)
    return x, torch.rand(batch, generator=g), encode_conditions(CONDITIONS, VALUES[:batch])


def gap(a: Tensor, b: Tensor) -> float:
    return float((a - b).detach().abs().max())


@every_case
def test_a_new_network_says_zero_and_keeps_the_shape(n: int, attention: str) -> None:
    net = Transformer(spec(n), {}, width=32, depth=1, heads=2, attention=attention)  # type: ignore[arg-type]
    x, t, _ = inputs(n)
    assert net(x, t, {}).shape == x.shape
    assert net(x, t, {}).count_nonzero() == 0


@every_case
def test_every_parameter_learns(n: int, attention: str) -> None:
    net, (x, t, cond) = build(n, attention), inputs(n)
    net(x, t, cond).square().mean().backward()
    idle = [name for name, p in net.named_parameters() if p.grad is None or p.grad.count_nonzero() == 0]
    assert idle == []


@every_case
def test_samples_of_a_batch_do_not_meet(n: int, attention: str) -> None:
    net, (x, t, cond) = build(n, attention), inputs(n)
    alone = net(x[1:2], t[1:2], {k: v[1:2] for k, v in cond.items()})
    assert gap(net(x, t, cond)[1:2], alone) < 1e-5


@every_case
@pytest.mark.parametrize("changed", ["t", *CONDITIONS])
def test_it_depends_on_time_and_on_every_condition(n: int, attention: str, changed: str) -> None:
    net, (x, t, cond) = build(n, attention), inputs(n)
    before = net(x, t, cond)
    null = null_conditions(CONDITIONS, len(x))
    after = net(x, 1 - t, cond) if changed == "t" else net(x, t, cond | {changed: null[changed]})
    assert gap(before[0], after[0]) > 1e-3


@every_case
def test_every_position_reaches_every_other(n: int, attention: str) -> None:
    net, (x, t, cond) = build(n, attention), inputs(n)
    last = (slice(None), *[-1] * n)
    moved = x.clone()
    moved[last] += 1
    assert ((net(x, t, cond) - net(moved, t, cond)).abs().flatten(1, -2).amax((0, 2)) > 1e-6).all()


@every_case
@pytest.mark.parametrize("patch", [1, 2, "overlapping"])
@pytest.mark.parametrize("times", ["sample", "time", "position"])
@pytest.mark.parametrize("masked", ["time", "position"])
def test_padding_changes_nothing(n: int, attention: str, patch: int | str, times: str, masked: str) -> None:
    overlap = tuple(axis.name for axis in AXES[:n]) if patch == "overlapping" else ()
    patch = patch if isinstance(patch, int) else 2
    net, (x, _, cond) = build(n, attention, patch, overlap=overlap), inputs(n)
    lead = {"sample": 0, "time": 1, "position": n}[times]
    t = torch.rand(x.shape[: 1 + lead], generator=torch.Generator().manual_seed(1))
    lengths = torch.tensor([5, 8, 6])
    mask = torch.arange(8) < lengths[:, None]
    if masked == "position":
        mask = mask.reshape(3, 8, *[1] * (n - 1)).expand(x.shape[:-1]).clone()
        if n > 1:
            mask[..., 3:] = False  # a narrower picture as well
    valid = mask.reshape(mask.shape + (1,) * (x.ndim - mask.ndim)).expand(x.shape)
    before = net(x, t, cond | {"mask": mask})

    filled = torch.where(valid, x, 1e3)
    t_filled = t if lead == 0 else t.clone()
    if lead:
        t_filled[0, 5:] = 0.0
    assert gap(before[valid], net(filled, t_filled, cond | {"mask": mask})[valid]) == 0

    # the first clip alone, on a grid cut to its length (as a multiple of the patch)
    short = 5 + 5 % patch
    cut = net(
        x[:1, :short],
        t[:1, :short] if lead else t[:1],
        {k: v[:1] for k, v in cond.items()} | {"mask": mask[:1, :short]},
    )
    assert gap(cut[valid[:1, :short]], before[:1, :short][valid[:1, :short]]) < 1e-5


@every_case
def test_a_full_mask_is_no_mask_and_an_empty_one_is_finite(n: int, attention: str) -> None:
    net, (x, t, cond) = build(n, attention), inputs(n)
    mask = torch.ones(x.shape[:2], dtype=torch.bool)
    assert gap(net(x, t, cond), net(x, t, cond | {"mask": mask})) < 1e-5
    mask[0] = False
    out = net(x, t, cond | {"mask": mask})
    assert out.isfinite().all()
    out.sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in net.parameters())


@every_case
def test_equal_times_may_be_given_per_sample_or_per_position(n: int, attention: str) -> None:
    net, (x, t, cond) = build(n, attention), inputs(n)
    out = net(x, t, cond)
    for k in range(1, n + 1):
        per_token = t.reshape(-1, *[1] * k).expand(x.shape[: 1 + k])
        assert gap(out, net(x, per_token, cond)) < 1e-5


@every_case
def test_a_time_is_felt_where_it_stands(n: int, attention: str) -> None:
    """With attention and MLP switched off, only the final norm sees time, and only its own token's."""
    net, (x, t, cond) = build(n, attention), inputs(n)
    net.blocks = nn.ModuleList()
    times = t[:, None].expand(-1, 8).clone()
    before = net(x, times, cond)
    times[:, 2] = 0.0  # of the token of positions 2 and 3
    moved = (net(x, times, cond) - before).abs().flatten(2).amax((0, 2)) > 1e-6
    assert moved.tolist() == [False, False, True, True, False, False, False, False]
    times[:, 3] = 1.0  # given: the token's time is still that of what is to be made
    assert gap(net(x, times, cond)[:, 2:4], before[:, 2:4]) > 1e-6
    given = times.clone()
    given[:, 3] = 0.5
    assert gap(net(x, times, cond), net(x, given, cond)) == 0


@every_case
def test_it_runs_on_other_grids(n: int, attention: str) -> None:
    net, (_, t, cond) = build(n, attention), inputs(n)
    for sizes in ((16, 6, 4), (4, 12, 8)):
        x = torch.randn(3, *sizes[:n], 3)
        assert net(x, t, cond).isfinite().all()


@every_case
def test_checkpointing_changes_no_number(n: int, attention: str) -> None:
    net, (x, t, cond) = build(n, attention), inputs(n)
    grads = []
    for on in (False, True):
        net.checkpoint = on
        net.zero_grad()
        out = net(x, t, cond)
        out.square().mean().backward()
        grads.append([out.detach(), *(p.grad.clone() for p in net.parameters() if p.grad is not None)])
    assert all(torch.equal(a, b) for a, b in zip(*grads, strict=True))


@every_case
def test_a_state_dict_is_the_whole_network(n: int, attention: str) -> None:
    net, (x, t, cond) = build(n, attention), inputs(n)
    other = Transformer(
        spec(n),
        CONDITIONS,
        width=32,
        depth=2,
        heads=2,
        patch=(2,) * n,
        attention=attention,  # type: ignore[arg-type]
    )
    other(x, t, cond)  # its tables are made; loading must not be fooled by them
    other.load_state_dict(net.state_dict())
    assert torch.equal(net(x, t, cond), other(x, t, cond))
    assert torch.equal(net(x, t, cond), copy.deepcopy(net)(x, t, cond))
    keys = net.state_dict().keys()
    assert not any("table" in key and "position" in key for key in keys)


@every_case
def test_bfloat16_autocast_stays_close(n: int, attention: str) -> None:
    net, (x, t, cond) = build(n, attention), inputs(n)
    exact = net(x, t, cond)
    with torch.autocast("cpu", torch.bfloat16):
        out = net(x, t, cond)
    assert out.dtype == torch.float32
    assert gap(out, exact) < 0.1 * float(exact.std()) + 0.05
    out.square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())


def test_the_residual_stream_is_float32_under_autocast() -> None:
    net, (x, t, cond) = build(2), inputs(2)
    seen = []
    for block in net.blocks:
        block.register_forward_hook(lambda module, args, out: seen.append(out.dtype))
    with torch.autocast("cpu", torch.bfloat16):
        net(x, t, cond)
    assert seen == [torch.float32] * 2


def test_a_derivative_by_time_agrees_with_a_difference() -> None:
    """Flow-map losses differentiate through the network by (x, t)."""
    net, (x, t, cond) = build(2).double(), inputs(2)
    net.eval()
    x, v = x.double(), torch.randn_like(x).double()
    with torch.no_grad(), torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        _, slope = torch.func.jvp(lambda x: net(x, t, cond), (x,), (v,))
        h = 1e-3
        difference = (net(x + h * v, t, cond) - net(x - h * v, t, cond)) / (2 * h)
    assert gap(slope, difference) < 1e-2 * float(difference.abs().max())


def test_a_sampling_pass_first_does_not_spoil_training() -> None:
    net, (x, t, cond) = build(2), inputs(2)
    with torch.inference_mode():
        net(x, t, cond)
    net(x, t, cond).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())


def test_declared_capabilities_name_real_modules() -> None:
    net = build(2)
    for name in (*Transformer.repeated_blocks, *Transformer.keep_float32):
        assert isinstance(net.get_submodule(name), nn.Module)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"patch": (3,)}, "axis 'time' has 8 steps, which a patch of 3 does not divide"),
        ({"patch": (2, 2)}, "2 sizes for the 1 axes"),
        ({"attention": "factorised"}, "at least 2 axes"),
        ({"width": 30, "heads": 4}, "4 heads"),
    ],
)
def test_what_does_not_fit_is_refused_in_words(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Transformer(spec(1), {}, **options)
    with pytest.raises(ValueError, match="at least 1 axis"):
        Transformer(StreamSpec(2), {})


def test_a_grid_or_conditions_that_do_not_fit_are_refused() -> None:
    net, (x, t, cond) = build(1), inputs(1)
    with pytest.raises(ValueError, match="axis 'time' has 7 steps"):
        net(x[:, :7], t, cond)
    with pytest.raises(ValueError, match="takes the conditions"):
        net(x, t, {"kind": cond["kind"]})
    with pytest.raises(ValueError, match="takes the conditions"):
        net(x, t, cond | {"colour": cond["kind"]})


@pytest.mark.parametrize(
    ("option", "value"),
    [("width", 64), ("depth", 1), ("heads", 1), ("patch", (1, 1)), ("mlp_ratio", 2.0), ("attention", "factorised")],
)
def test_every_option_changes_the_result(option: str, value: Any) -> None:
    x, t, cond = inputs(2)
    assert gap(build(2)(x, t, cond), build(2, **{option: value})(x, t, cond)) > 1e-3


@pytest.mark.parametrize("patch", [2, 3, 4])
def test_overlapping_tokens_leave_no_seam(patch: int) -> None:
    g = torch.Generator().manual_seed(0)
    said = torch.randn(2, 50, 1, 1, generator=g).expand(2, 50, span(patch), 1)  # each token another level
    steps = crossfade(said, torch.ones(2, 50), (patch,))[:, patch:-patch, 0].diff(dim=1).abs()
    borders = (torch.arange(steps.shape[1]) + 1) % patch == 0
    assert float(steps[:, borders].mean() / steps[:, ~borders].mean()) == pytest.approx(1, abs=0.1)
    apart = said[:, :, :patch].flatten(1, 2)[..., 0].diff(dim=1).abs()
    assert float(apart[:, (torch.arange(apart.shape[1]) + 1) % patch != 0].max()) == 0  # all of it at the borders
    # the same on every axis of a grid, whatever the others are
    x = torch.randn(2, 5, span(patch), 3, 2, 4, generator=g)
    one = crossfade(x, torch.ones(2, 5, 3), (patch, 2))
    rows = [crossfade(x[..., i, j, :], torch.ones(2, 5), (patch,)) for i in range(3) for j in range(2)]
    torch.testing.assert_close(one, torch.stack(rows, 2))

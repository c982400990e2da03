"""What a loss is, and what all of them do first: draw noise and times, and say which positions count."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Literal, NamedTuple, TypeAlias

import torch
from torch import Tensor
from torch.nn import functional as F

from flowgen.core.couplings import Independent, condition_groups
from flowgen.core.interfaces import (
    MASK,
    SOURCE,
    Bridge,
    Cond,
    Coupling,
    DrawsPairs,
    LeavesOutEnds,
    LossOutput,
    Paths,
    Predictions,
    SourceCoupling,
    Times,
)
from flowgen.core.paths import velocity_bounded
from flowgen.core.random import Randomness
from flowgen.core.times import Shifts, row_factors, shift
from flowgen.core.tree import State, first_leaf, left, tree_map

NoiseLevels: TypeAlias = Literal["shared", "independent"] | Mapping[str, str]
"""Whether streams are equally noisy in training: one level for all, one for each, or the name of each stream's level."""


class Draw(NamedTuple):
    """Noise paired with the data, times [B] (or by stream), the times the network is shown, and the conditions it is shown."""

    x0: State
    t: Any
    times: Any
    cond: Cond


def draw(
    x1: State,
    cond: Cond,
    random: Randomness,
    known: State | None,
    times: Times | Mapping[str, Times],
    coupling: Coupling,
    warp: Shifts,
    levels: NoiseLevels = "shared",
) -> Draw:
    """What a training step on x1 starts from, for a loss to which all pairs count alike; see `draw_weighted`."""
    refuse_bridges("this loss", coupling)
    return draw_weighted(x1, cond, random, known, times, coupling, warp, levels)[0]


def draw_weighted(
    x1: State,
    cond: Cond,
    random: Randomness,
    known: State | None,
    times: Times | Mapping[str, Times],
    coupling: Coupling,
    warp: Shifts,
    levels: NoiseLevels = "shared",
) -> tuple[Draw, Tensor | None]:
    """What a training step on x1 starts from, and what each pair counts for [B]; None: all alike.

    ValueError: x1 holds what is not a number, or the coupling refuses.

    Streams are at one time, unless one of times, shift and noise levels is given by stream. Streams of one noise level
    are at one quantile of their times; the quantiles of different levels are independent.
    """
    order: Tensor | None = None
    weight: Tensor | None = None
    if not isinstance(coupling, SourceCoupling):
        x0 = random.normal(x1)
        if not isinstance(coupling, Independent):
            order = coupling(x0, x1, condition_groups(cond))
    else:
        x0 = coupling.source(cond)
        cond = {k: v for k, v in cond.items() if k != SOURCE}
        if isinstance(coupling, DrawsPairs):
            order, weight = coupling.draw_pairs(x0, x1, condition_groups(cond), random)
    if order is not None:
        at = order
        x0 = tree_map(lambda x: x[_sent(at, x.device)], x0)
    device = first_leaf(x1).device
    t: Any
    if levels == "shared" and not isinstance(times, Mapping) and not isinstance(warp, Mapping):
        t = times(random.uniform(stratified=True))
        t = _sent(shift(t, row_factors(warp, x1, cond.get(MASK))).float(), device)
    else:
        t = _times_by_stream(x1, cond.get(MASK), random, times, warp, levels)
    shown = t if known is None else tree_map(lambda k, t: torch.where(k, 1.0, left(t, k)), known, t)
    return Draw(x0, t, shown, cond), None if weight is None else _sent(weight.float(), device)


def _sent(small: Tensor, device: torch.device) -> Tensor:
    """What was drawn on the host, where the network is; the host does not wait for the device to have it."""
    return small.to(device, non_blocking=True)


def _times_by_stream(
    x1: State,
    mask: State | None,
    random: Randomness,
    times: Times | Mapping[str, Times],
    warp: Shifts,
    levels: NoiseLevels,
) -> dict[str, Tensor]:
    if not isinstance(x1, Mapping):
        raise ValueError("times, shift or noise levels are given by stream, and the latents are one stream; give one")
    found = {}
    for name, leaf in x1.items():
        level = level_of(levels, name)
        u = random.uniform(f"times/{level}" if level else "times", stratified=True)
        t = (times[name] if isinstance(times, Mapping) else times)(u)
        own = (leaf, None if mask is None else mask[name]) if isinstance(warp, Mapping) else (x1, mask)  # type: ignore[index]
        k = row_factors(warp[name] if isinstance(warp, Mapping) else warp, *own)
        found[name] = _sent(shift(t, k).float(), leaf.device)
    return found


def level_of(levels: NoiseLevels, stream: str) -> str:
    """The name of a stream's noise level; "" is the one that all share."""
    if isinstance(levels, Mapping):
        return levels[stream]
    return stream if levels == "independent" else ""


def refuse_bridges(loss: str, coupling: Coupling) -> None:
    """ValueError: pairs of the coupling are weighted or a bridge leads between them, of which this loss knows nothing."""
    weighted = isinstance(coupling, DrawsPairs) and coupling.weighted
    if weighted or isinstance(coupling, Bridge):
        what = "weighted pairs" if weighted else "a Brownian bridge"
        raise ValueError(f"{loss} does not take the coupling {type(coupling).__name__} ({what}): train flow-matching")


def refuse_infinite(paths: Paths, predicts: Predictions, times: Times | Mapping[str, Times] | None, ways: str) -> None:
    """ValueError: a squared error of a velocity without bound, of which the mean over the times is infinite.

    Args:
        times: None, where t = 1 itself is taken.
        ways: what to do, besides other times.
    """
    given: tuple[Any, ...] = (paths, predicts, times)
    names = {name: None for tree in given if isinstance(tree, Mapping) for name in tree} or {"": None}
    for name in names:
        path, said, drawn = (tree.get(name) if isinstance(tree, Mapping) else tree for tree in given)
        if path is None or said != "velocity" or velocity_bounded(path):
            continue
        if not (isinstance(drawn, LeavesOutEnds) and drawn.leaves_out_ends):
            what = f"{type(path).__name__}, the path of {name}," if name else type(path).__name__
            raise ValueError(
                f"the velocity of {what} is infinite at t = 1, and so is the mean of its squared error: {ways}"
                + ("" if times is None else ", or draw times that leave out t = 1 (times: logit-normal)")
            )


def refuse_by_stream(loss: str, **settings: Any) -> None:
    """ValueError: one of the settings is given by stream, and this loss has one time for all."""
    for name, value in settings.items():
        if isinstance(value, Mapping):
            raise ValueError(f"{loss} has one time for all streams: give one {name} instead of one a stream")


def check_balance(balance: float | None, x1: State) -> None:
    """ValueError: streams are to be balanced, and there is one."""
    if balance is not None and not isinstance(x1, Mapping):
        raise ValueError("balance is of several streams, and the latents are one stream; leave it out")


def check_streams(weights: Mapping[str, float] | None, levels: NoiseLevels, times: Times | Mapping[str, Times]) -> None:
    """ValueError: weights or noise levels that are none, or streams of one level with different distributions of times.

    Sampling takes such streams through the same times, which training would never show together.
    """
    if weights is not None and not (min(weights.values(), default=0) >= 0 < sum(weights.values())):
        raise ValueError(f"weights must be positive, or 0 for some streams, got {weights}")
    if isinstance(levels, str) and levels not in ("shared", "independent"):
        raise ValueError(f"noise_levels is shared, independent or a name for each stream, got {levels!r}")
    if not isinstance(times, Mapping):
        return
    seen: dict[str, tuple[str, Times]] = {}
    for name, own in times.items():
        other, theirs = seen.setdefault(level_of(levels, name), (name, own))
        if theirs != own:
            raise ValueError(
                f"the streams {other} and {name} share a noise level and have different times; give them one "
                f"distribution, or noise levels of their own (noise_levels: independent)"
            )


def check_named(named: Mapping[str, Collection[str]], x1: State) -> None:
    """ValueError: an option names streams, and they are not those of the data."""
    for option, streams in named.items():
        said = ", ".join(sorted(streams))
        if not isinstance(x1, Mapping):
            raise ValueError(f"{option} is given by stream ({said}), and the latents are one stream; give one value")
        if set(streams) != set(x1):
            raise ValueError(f"{option} names the streams {said}; those of the latents are {', '.join(sorted(x1))}")


def by_name(**options: Any) -> dict[str, Collection[str]]:
    """Of options, those that are given by stream: the streams that each names."""
    return {name: value.keys() for name, value in options.items() if isinstance(value, Mapping)}


def valid(mask: State | None, known: State | None, x1: State) -> Any:
    """1 where a position counts, a leaf for each of x1; None where all count."""
    if mask is None and known is None:
        return tree_map(lambda x: None, x1)

    def leaf(x: Tensor, mask: Tensor | None, known: Tensor | None) -> Tensor:
        w = torch.ones((), dtype=x.dtype, device=x.device).expand(x.shape)
        if mask is not None:
            w = w * left(mask, x)
        return w if known is None else w * ~left(known, x)

    return tree_map(leaf, x1, mask, known)


def valid_in(cond: Mapping[str, Any], known: State | None, x1: State) -> Any:
    return valid(cond.get(MASK), known, x1)


def mean_error(
    predicted: Tensor, target: Tensor, weight: Tensor | None, ratio: Tensor | None = None, huber: float | None = None
) -> Tensor:
    """Mean squared error of each sample [B], over the positions that count; 0 for a sample in which none does.

    Args:
        ratio: [B], by which errors are multiplied first.
        huber: beyond this size errors count linearly (Huber's loss, scaled so that it is the square within).
    """
    precise = torch.promote_types(target.dtype, torch.float32)
    predicted, target = predicted.to(precise), target.to(precise)
    if huber is not None:
        if ratio is not None:
            predicted, target = left(ratio, predicted) * predicted, left(ratio, target) * target
            ratio = None
        error = 2 * F.huber_loss(predicted, target, reduction="none", delta=huber)
    else:
        error = F.mse_loss(predicted, target, reduction="none")
    if weight is None:
        each = error.flatten(1).mean(1)
    else:
        each = (error * weight).flatten(1).sum(1) / weight.flatten(1).sum(1).clamp(min=1)
    return each if ratio is None else each * ratio.square()


def output(
    each: Any,
    t: Any,
    counts: Any = None,
    weights: Mapping[str, float] | None = None,
    averages: Mapping[str, Tensor] | None = None,
) -> LossOutput:
    """Per-sample losses, one leaf a stream, as a `LossOutput`.

    `total` is the mean over the streams, weighted by `weights` where given. A stream that a clip lacks adds 0 to it and
    leaves the share of the others as it is, so a clip counts for as much as is known of it.

    Args:
        counts: what `valid` says, a leaf for each stream.
        averages: by stream, what its loss is divided by in the total [B]; 1 for those that are missing.
    """
    if isinstance(each, Tensor):
        return LossOutput(each, t, {})
    parts = {name: e / averages[name] if averages and name in averages else e for name, e in each.items()}
    if weights is None:
        total = torch.stack(list(parts.values())).mean(0)
    else:
        total = sum(w * parts[name] for name, w in weights.items()) / sum(weights.values())

    def leaf(each: Tensor, counts: Tensor | None) -> Tensor:
        return each if counts is None else torch.where(counts.flatten(1).any(1), each, torch.nan)

    return LossOutput(total, t, tree_map(leaf, each, counts))

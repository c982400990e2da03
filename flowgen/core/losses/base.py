"""What a loss is, and what all of them do first: draw noise and times, and say which positions count."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from flowgen.core.couplings import Independent, condition_groups
from flowgen.core.interfaces import MASK, SOURCE, Cond, Coupling, LossOutput, Times
from flowgen.core.random import Randomness
from flowgen.core.times import Shift, row_factors, shift
from flowgen.core.tree import State, first_leaf, leaves, left, tree_map


class Draw(NamedTuple):
    """Noise paired with the data, times [B], the times the network is shown, and the conditions it is shown."""

    x0: State
    t: Tensor
    times: Any
    cond: Cond


def draw(
    x1: State,
    cond: Cond,
    random: Randomness,
    known: State | None,
    times: Times,
    coupling: Coupling,
    warp: Shift,
) -> Draw:
    """What a training step on x1 starts from. ValueError: x1 holds what is not a number, or the coupling refuses."""
    source = getattr(coupling, "source", None)
    if source is None:
        x0 = random.normal(x1)
        order = None if isinstance(coupling, Independent) else coupling(x0, x1, condition_groups(cond))
        if order is not None:
            x0 = tree_map(lambda x: x[order.to(x.device)], x0)
    else:
        x0 = source(cond)
        cond = {k: v for k, v in cond.items() if k != SOURCE}
    t = times(random.uniform(stratified=True))
    t = shift(t, row_factors(warp, x1, cond.get(MASK))).float().to(first_leaf(x1).device)
    shown = t if known is None else tree_map(lambda k: torch.where(k, 1.0, left(t, k)), known)
    return Draw(x0, t, shown, cond)


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


def output(each: Any, t: Tensor) -> LossOutput:
    """Per-sample losses, one leaf a stream, as a `LossOutput`: the streams count alike."""
    if isinstance(each, Tensor):
        return LossOutput(each, t, {})
    return LossOutput(torch.stack(list(leaves(each))).mean(0), t, each)

"""Guidance that a distilled network has learned: one evaluation, the scale being shown to it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from flowgen.core.estimate import Estimate
from flowgen.core.flow import AroundFlow
from flowgen.core.interfaces import GUIDANCE_SCALE, Cond, Flow, GuidedFlow
from flowgen.core.ranges import Real
from flowgen.core.tree import State, first_leaf


@dataclass(frozen=True)
class FoldedFlow(AroundFlow):
    """A flow whose network is shown a guidance scale: the lowest that it knows, unless `Folded` names another."""

    scales: tuple[float, float]

    def __call__(self, x: State, t: Any, cond: Cond | None = None) -> Estimate:
        return self.flow(x, t, {GUIDANCE_SCALE.name: _each(x, self.scales[0]), **(cond or {})})


@dataclass(frozen=True)
class Folded:
    """Show a distilled network this guidance scale (Meng et al. 2023, section 3.1). It costs no further evaluation.

    ValueError: the network has not learned it.
    """

    scale: Real = 2.0

    def __call__(self, flow: Flow, null: Cond) -> Flow:
        check_scale(flow, self.scale)
        return _Shown(flow, self.scale)


@dataclass(frozen=True)
class _Shown(AroundFlow):
    scale: float

    def __call__(self, x: State, t: Any, cond: Cond | None = None) -> Estimate:
        return self.flow(x, t, {**(cond or {}), GUIDANCE_SCALE.name: _each(x, self.scale)})


def check_scale(flow: Flow, scale: float) -> None:
    """ValueError: the flow is known to have been trained with other scales alone."""
    if isinstance(flow, GuidedFlow) and not flow.scales[0] <= scale <= flow.scales[1]:
        low, high = flow.scales
        raise ValueError(
            f"the network was distilled with guidance scales from {low:g} to {high:g}; {scale:g} is none of them"
        )


def check_folded(flow: Flow, guidance: Sequence[object]) -> None:
    """ValueError: a chain of guidance that is not for this flow, be it folded or not."""
    if isinstance(flow, GuidedFlow):
        other = [type(g).__name__ for g in guidance if not isinstance(g, Folded)]
        if other:
            raise ValueError(
                f"guidance is learned by this network and would count twice with {other[0]}: use guidance: "
                f"{{type: folded, scale: {flow.scales[0]:g}}}, or none"
            )
        for each in guidance:
            check_scale(flow, each.scale)  # type: ignore[attr-defined]
    elif any(isinstance(g, Folded) for g in guidance):
        raise ValueError(
            "this network was not shown a guidance scale in training: use guidance: {type: cfg, scale: ...}"
        )


def _each(x: State, scale: float) -> torch.Tensor:
    like = first_leaf(x)
    return torch.full((len(like),), scale, device=like.device)

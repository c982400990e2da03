"""Guidance: wrappers that take a Flow and are a Flow."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from flowgen.estimate import Estimate
from flowgen.flow import Cond, Flow
from flowgen.tree import State, concat, first_leaf, lincomb, tree_map


class Guidance(Protocol):
    def __call__(self, flow: Flow, null: Cond) -> Flow:
        """`flow`, guided away from the conditions `null` ([B, ...] by name; what it lacks stays as given)."""


@dataclass(frozen=True)
class CFG:
    """Classifier-free guidance, u + scale (c - u) (Ho and Salimans 2022, eq. 6), in an interval of t (Kynkaanniemi et al. 2024).

    scale 1 is the plain conditional flow. At t = 0 the push is one constant vector for all x, so it is off there by
    default. Both branches run as one batch.
    """

    scale: float = 2.0
    start: float = 0.1
    end: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.start < self.end <= 1:
            raise ValueError(f"expected 0 <= start < end <= 1, got start={self.start}, end={self.end}")

    def __call__(self, flow: Flow, null: Cond) -> Flow:
        def guided(x: State, t: Tensor, cond: Cond | None = None) -> Estimate:
            if self.scale == 1 or not self.start <= float(first_leaf(t)) <= self.end:
                return flow(x, t, cond)
            positive = dict(cond or {})
            negative = {**positive, **null}
            times = tree_map(lambda t: t if t.ndim == 0 else concat([t, t]), t)
            both = flow(concat([x, x]), times, concat([positive, negative]))
            halves = tree_map(lambda v: v.chunk(2), both.value)
            c, u = (tree_map(lambda h, i=i: h[i], halves) for i in (0, 1))
            return Estimate(both.path, x, t, both.prediction, lincomb((self.scale, c), (1 - self.scale, u)))

        return guided

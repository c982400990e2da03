"""Flow maps learned from data alone: u(x, t, s), the average velocity on the way from t to s, by an identity that it obeys."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from flowgen.core.couplings import Independent
from flowgen.core.flow import check_output
from flowgen.core.flow_map import MapFlow, NetworkFlowMap, jvp
from flowgen.core.interfaces import (
    END_TIME,
    MASK,
    SECOND_TIME,
    Cond,
    Coupling,
    Flow,
    LossOutput,
    NetworkInput,
    Paths,
    Prediction,
    Times,
)
from flowgen.core.losses.base import draw, mean_error, output, refuse_by_stream, valid_in
from flowgen.core.paths import Linear, noised
from flowgen.core.random import Randomness
from flowgen.core.ranges import NonNegative, Positive, Share
from flowgen.core.times import Shift, Uniform, row_factors, shift
from flowgen.core.tree import State, lincomb, tree_map

Average = Callable[[State, Tensor, Tensor], State]
"""u(x, t, s)."""


@dataclass(frozen=True)
class FlowMapMatching:
    """Squared error of an identity of the flow map, v being the conditional velocity and sg "no gradient".

    target:
        "mean-flow": u against sg[v + (s - t) du/dt], du/dt along (v, 1, 0) (Geng et al. 2025a, eq. 6).
        "improved-mean-flow": u - (s - t) sg[du/dt] against v, du/dt along the velocity that the network says (Geng et al.
            2025b): the noise of v is out of the derivative.
        "lagrangian": u + (s - t) du/ds against sg[u(X_{t->s}, s, s)], the gradient going through du/ds (Boffi et al. 2025,
            Lagrangian self-distillation).
        "semigroup": u against sg[the two jumps over a time m between] (Frans et al. 2024, with any m).

    Args:
        derivative: "difference", a central one of width 2 `epsilon`; or "jvp", exact, and what bfloat16 needs.
        still: the share of samples with s = t, for which this is flow matching.
        power: each sample is weighted by 1/(error + floor)^power; by default 1 for the mean flows, which it helps, and 0
            for the others, which it leads to a wrong map.
    """

    path: Paths = field(default_factory=Linear)
    times: Times = field(default_factory=Uniform)
    coupling: Coupling = field(default_factory=Independent)
    shift: Shift = 1.0
    target: Literal["mean-flow", "improved-mean-flow", "lagrangian", "semigroup"] = "lagrangian"
    derivative: Literal["difference", "jvp"] = "difference"
    epsilon: Positive = 1e-3
    still: Share = 0.5
    power: NonNegative | None = None
    floor: Positive = 1e-2
    predicts: ClassVar[Prediction] = "velocity"
    inputs: ClassVar[tuple[NetworkInput, ...]] = (SECOND_TIME,)

    def __post_init__(self) -> None:
        refuse_by_stream("the flow-map loss", times=self.times, shift=self.shift)
        if not 0 <= self.still <= 1:
            raise ValueError(f"still is a share in [0, 1], got {self.still}")
        if self.epsilon <= 0 or self.floor <= 0:
            raise ValueError(f"epsilon and floor must be positive, got {self.epsilon} and {self.floor}")

    def flow(self, network: Callable[..., State]) -> Flow:
        return MapFlow(NetworkFlowMap(network, self.path))

    def __call__(
        self, network: Callable[..., State], x1: State, cond: Cond, random: Randomness, known: State | None = None
    ) -> LossOutput:
        if known is not None:
            raise ValueError("a flow map is trained without known regions: leave `known` out of the config")
        x0, a, _, cond = draw(x1, cond, random, None, self.times, self.coupling, self.shift)
        b = shift(self.times(random.uniform("end times")), row_factors(self.shift, x1, cond.get(MASK))).to(a)
        t, s = torch.minimum(a, b), torch.maximum(a, b)
        s = torch.where(random.uniform("still").to(a) < self.still, t, s)
        x, v = noised(self.path, x1, x0, t)

        def u(x: State, t: Tensor, s: Tensor) -> State:
            value = network(x, t, {**cond, END_TIME: s})
            check_output(value, x)
            return value

        share = random.uniform("between").to(a)
        said, target = self._sides(u, x, v, t, s, t + share * (s - t))
        each = tree_map(mean_error, said, target, valid_in(cond, None, x1))
        power = (1.0 if "mean-flow" in self.target else 0.0) if self.power is None else self.power
        return output(tree_map(lambda e: e / (e.detach() + self.floor) ** power, each), t)

    def _sides(self, u: Average, x: State, v: State, t: Tensor, s: Tensor, m: Tensor) -> tuple[State, State]:
        """What is trained, and what it is compared with."""
        one, zero, h = torch.ones_like(t), torch.zeros_like(t), s - t
        match self.target:
            case "mean-flow":
                with torch.no_grad():
                    slope = self._slope(u, (x, t, s), (v, one, zero))
                return u(x, t, s), lincomb((1.0, v), (h, slope))
            case "improved-mean-flow":
                with torch.no_grad():
                    slope = self._slope(u, (x, t, s), (u(x, t, t), one, zero))
                return lincomb((1.0, u(x, t, s)), (-h, slope)), v
            case "lagrangian":
                said = u(x, t, s)
                slope = self._slope(u, (x, t, s), (tree_map(torch.zeros_like, x), zero, one))
                with torch.no_grad():
                    there = u(lincomb((1.0, x), (h, said)), s, s)
                return lincomb((1.0, said), (h, slope)), _where(h == 0, v, there)
            case _:
                with torch.no_grad():
                    first = u(x, t, m)
                    second = u(lincomb((1.0, x), (m - t, first)), m, s)
                    part = (m - t) / torch.where(h == 0, 1.0, h)
                    both = lincomb((part, first), (1 - part, second))
                return u(x, t, s), _where(h == 0, v, both)

    def _slope(self, u: Average, at: tuple[Any, ...], along: tuple[Any, ...]) -> State:
        """The derivative of u at (x, t, s) along (dx, dt, ds)."""
        if self.derivative == "jvp":
            return jvp(u, at, along)[1]
        e = self.epsilon
        after, before = (u(*(lincomb((1.0, p), (k * e, d)) for p, d in zip(at, along, strict=True))) for k in (1, -1))  # type: ignore[arg-type]
        return lincomb((0.5 / e, after), (-0.5 / e, before))


def _where(still: Tensor, v: State, other: State) -> State:
    """v for the samples that stand still, and other for the rest."""
    return tree_map(lambda v, o: torch.where(still.reshape(-1, *[1] * (o.ndim - 1)), v.to(o.dtype), o), v, other)

"""Flow maps learned from data alone: u(x, t, s), the average velocity on the way from t to s, by an identity that it obeys."""

from __future__ import annotations

import math
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
from flowgen.core.losses.base import (
    draw,
    mean_error,
    output,
    refuse_bridges,
    refuse_by_stream,
    refuse_infinite,
    valid_in,
)
from flowgen.core.losses.spans import along_end, distance, held, span, unmoved
from flowgen.core.paths import Linear, interpolate, velocity
from flowgen.core.random import Randomness
from flowgen.core.ranges import Count, NonNegative, Positive, Share
from flowgen.core.times import Shift, Uniform
from flowgen.core.tree import State, left, lincomb, tree_map

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
        "alpha": u against sg[a v + (1 - a) u(x + h v, t + h, s)], h = a (s - t), weighted by 1/a: flow matching for a = 1,
            the mean flow in the limit of 0, with no derivative (Zhang et al. 2025, eq. 9). a falls from 1 to 0.005 on a
            sigmoid over the first `anneal` steps.

    Args:
        derivative: "difference", a central one of width 2 `epsilon`; or "jvp", exact, and what bfloat16 needs.
        still: the share of samples with s = t, for which this is flow matching.
        from_noise, to_end: the shares that begin at t = 0, and that end at s = 1.
        anneal: for the target alpha: about half of all steps.
        power: each sample is weighted by 1/(error + floor)^power; by default 1 for the mean flows, which it helps, and 0
            for the others, which it leads to a wrong map.
    """

    path: Paths = field(default_factory=Linear)
    times: Times = field(default_factory=Uniform)
    coupling: Coupling = field(default_factory=Independent)
    shift: Shift = 1.0
    target: Literal["mean-flow", "improved-mean-flow", "lagrangian", "semigroup", "alpha"] = "lagrangian"
    derivative: Literal["difference", "jvp"] = "difference"
    epsilon: Positive = 1e-3
    still: Share = 0.5
    from_noise: Share = 0.0
    to_end: Share = 0.0
    anneal: Count | None = None
    power: NonNegative | None = None
    floor: Positive = 1e-2
    predicts: ClassVar[Prediction] = "velocity"
    inputs: ClassVar[tuple[NetworkInput, ...]] = (SECOND_TIME,)

    def __post_init__(self) -> None:
        refuse_by_stream("the flow-map loss", times=self.times, shift=self.shift)
        refuse_bridges("the flow-map loss", self.coupling)
        if not 0 <= self.still <= 1:
            raise ValueError(f"still is a share in [0, 1], got {self.still}")
        if self.epsilon <= 0 or self.floor <= 0:
            raise ValueError(f"epsilon and floor must be positive, got {self.epsilon} and {self.floor}")
        if (self.target == "alpha") != (self.anneal is not None):
            raise ValueError("anneal, a number of steps, goes with the target alpha: give both or neither")

    def check_limits(self) -> None:
        times = None if self.still and self.to_end else self.times  # such a share stands still at t = 1 itself
        refuse_infinite(self.path, self.predicts, times, "train on another path, as linear or cosine")

    def flow(self, network: Callable[..., State]) -> Flow:
        return MapFlow(NetworkFlowMap(network, self.path))

    def __call__(
        self, network: Callable[..., State], x1: State, cond: Cond, random: Randomness, known: State | None = None
    ) -> LossOutput:
        self.check_limits()
        x0, a, _, cond = draw(x1, cond, random, None, self.times, self.coupling, self.shift)
        shares = {"still": self.still, "from_noise": self.from_noise, "to_end": self.to_end}
        t, s = span(a, x1, cond, random, self.times, self.shift, **shares)
        begin = held(t, known)
        x, v = interpolate(self.path, x1, x0, begin), unmoved(velocity(self.path, x1, x0, t), known)

        def u(x: State, t: Tensor, s: Tensor) -> State:
            value = network(x, held(t, known), {**cond, END_TIME: held(s, known)})
            check_output(value, x)
            return value

        between = t + random.uniform("between").to(a) * (s - t)
        ways = _Ways(u, x, v, t, s, known, self)
        said, target = ways.sides(between, random.step)
        counts = valid_in(cond, known, x1)
        each = tree_map(mean_error, said, target, counts)
        power = (1.0 if "mean-flow" in self.target else 0.0) if self.power is None else self.power
        each = tree_map(lambda e: e / (e.detach() + self.floor) ** power, each)
        return output(each, t, counts if known is not None else None)


@dataclass(frozen=True)
class _Ways:
    """What is trained and what it is compared with, by each identity; times [B], given positions going nowhere."""

    u: Average
    x: State
    v: State
    t: Tensor
    s: Tensor
    known: State | None
    loss: FlowMapMatching

    def sides(self, between: Tensor, step: int) -> tuple[State, State]:
        match self.loss.target:
            case "mean-flow":
                return self.u(self.x, self.t, self.s), lincomb((1.0, self.v), (self.h, self._slope_at(self.v)))
            case "improved-mean-flow":
                with torch.no_grad():
                    along = unmoved(self.u(self.x, self.t, self.t), self.known)
                said = self.u(self.x, self.t, self.s)
                return lincomb((1.0, said), (tree_map(torch.neg, self.h), self._slope_at(along))), self.v
            case "lagrangian":
                said, slope = self._along_s()
                with torch.no_grad():
                    there = self.u(lincomb((1.0, self.x), (self.h, said)), self.s, self.s)
                return lincomb((1.0, said), (self.h, slope)), self._or_velocity(there)
            case "semigroup":
                with torch.no_grad():
                    both = self._two_jumps(between)
                return self.u(self.x, self.t, self.s), self._or_velocity(both)
            case _:
                a = _annealed(step, self.loss.anneal or 1)
                with torch.no_grad():
                    middle = self.t + a * (self.s - self.t)
                    moved = lincomb((1.0, self.x), (self._distance(middle), self.v))
                    target = lincomb((a, self.v), (1 - a, self.u(moved, middle, self.s)))
                root = a**-0.5
                return lincomb((root, self.u(self.x, self.t, self.s))), lincomb((root, self._or_velocity(target)))

    @property
    def h(self) -> Any:
        """s - t of each position."""
        return self._distance(self.s)

    def _distance(self, s: Tensor) -> Any:
        return distance(held(self.t, self.known), held(s, self.known))

    def _two_jumps(self, m: Tensor) -> State:
        first = self.u(self.x, self.t, m)
        second = self.u(lincomb((1.0, self.x), (self._distance(m), first)), m, self.s)
        part = (m - self.t) / torch.where(self.s == self.t, 1.0, self.s - self.t)
        return lincomb((part, first), (1 - part, second))

    def _or_velocity(self, target: State) -> State:
        """v for the samples that stand still, and the target for the rest."""

        def leaf(v: Tensor, target: Tensor) -> Tensor:
            return torch.where(left(self.s == self.t, v), v.to(target.dtype), target)

        return tree_map(leaf, self.v, target)

    @torch.no_grad()
    def _slope_at(self, v: State) -> State:
        """du/dt along (v, 1, 0)."""
        one, zero = torch.ones_like(self.t), torch.zeros_like(self.t)
        if self.loss.derivative == "jvp":
            return jvp(self.u, (self.x, self.t, self.s), (v, one, zero))[1]
        e = self.loss.epsilon
        after, before = (self.u(lincomb((1.0, self.x), (d, v)), self.t + d, self.s) for d in (e, -e))
        return lincomb((0.5 / e, after), (-0.5 / e, before))

    def _along_s(self) -> tuple[State, State]:
        """u, and du/ds."""

        def at(s: Tensor) -> State:
            return self.u(self.x, self.t, s)

        return along_end(at, self.t, self.s, None if self.loss.derivative == "jvp" else self.loss.epsilon)


def _annealed(step: int, steps: int) -> float:
    """a of a step: 1, then a sigmoid down to 0.005 (Zhang et al. 2025, appendix)."""
    return max(0.005, 1 / (1 + math.exp(min(700.0, 12 * (step / steps - 0.5)))))

"""Continuous-time consistency models: the jump to the data, from every time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from flowgen.core.couplings import Independent
from flowgen.core.estimate import Estimate
from flowgen.core.flow import AroundFlow, NetworkFlow, check_output
from flowgen.core.flow_map import jvp
from flowgen.core.interfaces import END_TIME, Cond, Coupling, Flow, LossOutput, Paths, Prediction, Times
from flowgen.core.losses.base import draw, mean_error, output, refuse_bridges, refuse_by_stream, valid_in
from flowgen.core.losses.spans import held, unmoved
from flowgen.core.paths import Linear, interpolate, velocity
from flowgen.core.random import Randomness
from flowgen.core.ranges import NonNegative, Positive, Whole
from flowgen.core.times import Shift, Uniform
from flowgen.core.tree import State, first_leaf, lincomb, tree_map


@dataclass(frozen=True)
class Consistency:
    """f(x, t) = x + (1 - t) u(x, t) is the same all along a trajectory: u against sg[v + (1 - t) du/dt], on the linear path.

    Consistency training in continuous time (Song et al. 2023, section 5; Lu and Song 2024, eq. 6, with its warm-up of the
    derivative and its weight). The network has no second time: it jumps to the data, so sample it by `solver: {type:
    flow-map, gamma: 1}`, which takes fresh noise between two jumps.

    Args:
        derivative: du/dt along (v, 1), by a central "difference" of width 2 `epsilon`, or exact ("jvp").
        warmup: steps over which the derivative comes in; before, it is flow matching.
        power: each sample is weighted by 1/(error + floor)^power.
    """

    path: Paths = field(default_factory=Linear)
    times: Times = field(default_factory=Uniform)
    coupling: Coupling = field(default_factory=Independent)
    shift: Shift = 1.0
    derivative: Literal["difference", "jvp"] = "difference"
    epsilon: Positive = 1e-3
    warmup: Whole = 1000
    power: NonNegative = 1.0
    floor: Positive = 1e-2
    predicts: ClassVar[Prediction] = "velocity"

    def __post_init__(self) -> None:
        refuse_by_stream("consistency", path=self.path, times=self.times, shift=self.shift)
        refuse_bridges("consistency", self.coupling)
        if not isinstance(self.path, Linear):
            raise ValueError(f"consistency is trained on the linear path, got {self.path}")

    def flow(self, network: Callable[..., State]) -> Flow:
        return ToData(NetworkFlow(network, self.path))

    def __call__(
        self, network: Callable[..., State], x1: State, cond: Cond, random: Randomness, known: State | None = None
    ) -> LossOutput:
        x0, t, times, cond = draw(x1, cond, random, known, self.times, self.coupling, self.shift)
        x, v = interpolate(self.path, x1, x0, times), unmoved(velocity(self.path, x1, x0, t), known)

        def u(x: State, t: Tensor) -> State:
            value = network(x, held(t, known), cond)
            check_output(value, x)
            return value

        share = 1.0 if not self.warmup else min(1.0, random.step / self.warmup)
        reach = tree_map(lambda t: share * (1 - t), times)
        target = v if share == 0 else lincomb((1.0, v), (reach, self._slope(u, x, t, v)))
        counts = valid_in(cond, known, x1)
        each = tree_map(mean_error, u(x, t), target, counts)
        each = tree_map(lambda e: e / (e.detach() + self.floor) ** self.power, each)
        return output(each, t, counts if known is not None else None)

    @torch.no_grad()
    def _slope(self, u: Callable[[State, Tensor], State], x: State, t: Tensor, v: State) -> State:
        if self.derivative == "jvp":
            return jvp(u, (x, t), (v, torch.ones_like(t)))[1]
        e = self.epsilon
        after, before = (u(lincomb((1.0, x), (d, v)), t + d) for d in (e, -e))
        return lincomb((0.5 / e, after), (-0.5 / e, before))


@dataclass(frozen=True)
class ToData(AroundFlow):
    """A flow map that jumps to t = 1 from anywhere. ValueError: it is asked for a jump to another time."""

    def __call__(self, x: State, t: Any, cond: Cond | None = None) -> Estimate:
        given = dict(cond or {})
        end = given.pop(END_TIME, None)
        if end is None or bool((first_leaf(end) < 1).any()):
            raise ValueError(
                "a consistency model jumps from noise to data and to nowhere between: use solver: {type: flow-map, gamma: 1}"
            )
        return self.flow(x, t, given)

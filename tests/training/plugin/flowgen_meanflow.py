"""MeanFlow as a plugin: one file, one loss.

Geng et al. 2025, "Mean Flows for One-step Generative Modeling", algorithm 1, with t = 0 the noise: the network learns
u(x, t, s), the average velocity on the way from t to s, by u = v + (s - t) du/dt along the flow (their eq. 6).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from flowgen.core.couplings import Independent
from flowgen.core.flow_map import MapFlow, NetworkFlowMap, jvp
from flowgen.core.interfaces import END_TIME, SECOND_TIME, Cond, Coupling, Flow, LossOutput, Paths, Times
from flowgen.core.losses.base import draw, mean_error, output, valid_in
from flowgen.core.paths import Linear, noised
from flowgen.core.random import Randomness
from flowgen.core.times import Shift, Uniform
from flowgen.core.tree import State, lincomb, tree_map
from flowgen.plugins import Component, hookimpl

FLOWGEN_API = 2


@hookimpl
def flowgen_components() -> list[Component]:
    return [Component("loss", "mean-flow", "flowgen_meanflow:MeanFlow", "average velocities, for few evaluations")]


@dataclass(frozen=True)
class MeanFlow:
    """Squared error of u against sg[v + (s - t) du/dt], each sample weighted by 1/(error + floor)^power (their eq. 22).

    Args:
        still: the share of samples with s = t, for which this is flow matching.
    """

    path: Paths = field(default_factory=Linear)
    times: Times = field(default_factory=Uniform)
    coupling: Coupling = field(default_factory=Independent)
    shift: Shift = 1.0
    still: float = 0.5
    power: float = 1.0
    floor: float = 1e-2
    predicts: ClassVar = "velocity"
    inputs: ClassVar = (SECOND_TIME,)

    def flow(self, network: Callable[..., State]) -> Flow:
        return MapFlow(NetworkFlowMap(network, self.path))

    def __call__(
        self, network: Callable[..., State], x1: State, cond: Cond, random: Randomness, known: State | None = None
    ) -> LossOutput:
        if known is not None:
            raise ValueError("mean-flow knows no known regions: leave `known` out")
        x0, a, _, cond = draw(x1, cond, random, known, self.times, self.coupling, self.shift)
        b = self.times(random.uniform("end times")).to(a)
        t, s = torch.minimum(a, b), torch.maximum(a, b)
        s = torch.where(random.uniform("still").to(a) < self.still, t, s)
        x, v = noised(self.path, x1, x0, t)

        def u(x: State, t: Tensor) -> State:
            return network(x, t, {**cond, END_TIME: s})

        with torch.no_grad():
            _, slope = jvp(u, (x, t), (v, torch.ones_like(t)))
            target = lincomb((1.0, v), (s - t, slope))
        each = tree_map(mean_error, u(x, t), target, valid_in(cond, known, x1))
        weighted = tree_map(lambda e: e / (e.detach() + self.floor) ** self.power, each)
        return output(weighted, t)

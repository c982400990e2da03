"""Sampling by the jumps of a flow map."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from flowgen.core.flow_map import jump
from flowgen.core.interfaces import Coefficients, Cond, Flow, Noise, Path
from flowgen.core.paths import coefficients
from flowgen.core.ranges import Share
from flowgen.core.solvers.base import Stateless, at
from flowgen.core.tree import State, lincomb, tree_map


@dataclass(frozen=True)
class FlowMapSolver(Stateless):
    """x_s = X_{t->s}(x_t), one evaluation of a flow map for each step of any grid.

    With `gamma` > 0 a step jumps beyond s, to where the noise is sqrt(1 - gamma^2) of that at s for the same data, and takes
    fresh noise for the rest (Kim et al. 2023, algorithm 3). gamma 1 is multistep consistency sampling (Song et al. 2023,
    algorithm 1): to the data, and back.

    The steps of an exact map add no error; that of a network that knows its velocity alone is Euler's.
    """

    gamma: Share = 0.0
    order = 1
    evaluations = 1

    def __post_init__(self) -> None:
        if not 0 <= self.gamma <= 1:
            raise ValueError(f"gamma must lie in [0, 1], got {self.gamma}")

    def step(
        self, flow: Flow, x: State, t: Tensor, s: Tensor, state: Any, noise: Noise, cond: Cond | None
    ) -> tuple[State, Any]:
        if s < t:
            raise ValueError("a flow map is trained to go forward; invert with an ODE solver such as heun")
        if not self.gamma or s == 1:
            return jump(flow, x, t, s, cond), None
        paths = flow.path
        beyond = tree_map(lambda path: self._beyond(path, s), paths)
        landed = jump(flow, x, t, beyond, cond)

        def leaf(x: Tensor, z: Tensor, then: Coefficients, over: Coefficients) -> State:
            return lincomb((then.alpha / over.alpha, x), (self.gamma * then.sigma, z))

        over = tree_map(lambda path, beyond: coefficients(path, beyond), paths, beyond)
        return tree_map(leaf, landed, noise(x, t, s), at(paths, s), over), None

    def _beyond(self, path: Path, s: Tensor) -> Tensor:
        """The time at which alpha/sigma is that of s over sqrt(1 - gamma^2)."""
        kept = math.sqrt(1 - self.gamma**2)
        now = path(s)
        return path.time_of_snr(now.alpha / now.sigma / kept).clamp(s, s.new_ones(())) if kept else s.new_ones(())

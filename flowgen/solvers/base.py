"""What a solver is: a pure `init` and `step` with threaded state."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, TypeAlias

from torch import Tensor

from flowgen.flow import Cond, Flow
from flowgen.tree import State

Noise: TypeAlias = Callable[[State, Tensor, Tensor], State]
"""noise(x, t, s): standard normal noise with the structure of x for the step from t to s."""


class Solver(Protocol):
    order: int
    """Order of convergence of the error at t = 1 in the step size."""
    evaluations: int
    """Evaluations of the flow in one step."""

    def init(self, x: State) -> Any:
        """What the first step starts from besides x."""

    def step(
        self, flow: Flow, x: State, t: Tensor, s: Tensor, state: Any, noise: Noise, cond: Cond | None
    ) -> tuple[State, Any]:
        """The state at s given x at t (scalars, float64), and what the next step wants to know."""

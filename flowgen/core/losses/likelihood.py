"""Maximum likelihood: a continuous normalising flow trained through its ODE."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import torch

from flowgen.core.flow import NetworkFlow
from flowgen.core.interfaces import MASK, Cond, Flow, LossOutput, Paths, Prediction
from flowgen.core.likelihood import log_prob
from flowgen.core.losses.base import refuse_by_stream
from flowgen.core.paths import Linear
from flowgen.core.random import Randomness
from flowgen.core.ranges import Count
from flowgen.core.solvers import RK4, Midpoint
from flowgen.core.times import Shift, shift_factor, uniform_grid
from flowgen.core.tree import State, first_leaf, leaves


@dataclass(frozen=True)
class Likelihood:
    """-log p(x1) per dimension, by `steps` solver steps from data to noise (Chen et al. 2018; Grathwohl et al. 2018).

    It needs no path between noise and data, only that the velocity ends in the prior; `path` says how sampling reads the
    network. Memory grows with the evaluations: steps times those of the solver. Fixed times of a `Randomness` do not
    matter here.

    Args:
        divergence: the exact trace costs one backward pass a dimension, Hutchinson's estimate one in all.
    """

    path: Paths = field(default_factory=Linear)
    shift: Shift = 1.0
    steps: Count = 8
    solver: Literal["midpoint", "rk4"] = "midpoint"
    divergence: Literal["exact", "hutchinson"] = "hutchinson"
    predicts: Prediction = "velocity"

    def __post_init__(self) -> None:
        refuse_by_stream("maximum likelihood", shift=self.shift)
        if self.steps < 1:
            raise ValueError(f"expected at least 1 step, got {self.steps}")

    def flow(self, network: Callable[..., State]) -> Flow:
        return NetworkFlow(network, self.path, self.predicts)

    def __call__(
        self, network: Callable[..., State], x1: State, cond: Cond, random: Randomness, known: State | None = None
    ) -> LossOutput:
        if known is not None or cond.get(MASK) is not None:
            raise ValueError(
                "the likelihood is that of a whole clip: train with it on clips of one length and without known regions"
            )
        solver: Any = RK4() if self.solver == "rk4" else Midpoint()
        grid = uniform_grid(self.steps, shift_factor(self.shift, x1))
        probe = random.rademacher(x1) if self.divergence == "hutchinson" else None
        found = log_prob(self.flow(network), x1, grid, solver=solver, cond=cond, probe=probe, gradient=True)
        size = sum(leaf.shape[1:].numel() for leaf in leaves(x1))
        each = -found.log_prob / size
        return LossOutput(each, torch.zeros(len(each), device=first_leaf(x1).device), {})

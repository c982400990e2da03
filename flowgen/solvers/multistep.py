"""Solvers that remember earlier evaluations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from flowgen.flow import Cond, Flow
from flowgen.paths import Path
from flowgen.solvers.base import Noise
from flowgen.tree import State, lincomb, tree_map


@dataclass(frozen=True)
class DPMSolverPP2M:
    """DPM-Solver++(2M) of Lu et al. 2022 (algorithm 2), log-free.

    x_s = (sigma_s/sigma_t) x_t + (alpha_s - alpha_t sigma_s/sigma_t) D with D the data estimate, extrapolated in
    lambda = log(alpha/sigma) from the step before. Finite at alpha = 0 and at sigma = 0.
    """

    order = 2
    evaluations = 1

    def init(self, x: State) -> None:
        return None

    def step(
        self, flow: Flow, x: State, t: Tensor, s: Tensor, state: Any, noise: Noise, cond: Cond | None
    ) -> tuple[State, Any]:
        estimate = flow(x, t, cond)
        data = estimate.data
        previous, t_previous = state if state is not None else (data, None)

        def leaf(x: Tensor, data: Tensor, previous: Tensor, path: Path) -> State:
            now, then = path(t), path(s)
            ratio = then.sigma / now.sigma
            r = _extrapolation(path, t_previous, t, s)
            weight = then.alpha - now.alpha * ratio
            return lincomb((ratio, x), (weight * (1 + r), data), (-weight * r, previous))

        return tree_map(leaf, x, data, previous, estimate.path), (data, t)


def _extrapolation(path: Path, t_previous: Tensor | None, t: Tensor, s: Tensor) -> Tensor:
    """(lambda_s - lambda_t) / (2 (lambda_t - lambda_previous)), 0 where an end of it is infinite."""
    if t_previous is None:
        return torch.zeros_like(t)
    before, now, then = (torch.log(c.alpha / c.sigma) for c in (path(t_previous), path(t), path(s)))
    r = (then - now) / (2 * (now - before))
    finite = torch.isfinite(before) & torch.isfinite(then)
    return torch.where(finite, r, torch.zeros_like(r))

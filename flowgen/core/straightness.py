"""How straight the ways are that a flow carries noise along: straight ones need one step."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor

from flowgen.core.interfaces import Cond, Flow, Solver
from flowgen.core.sampler import Grid, check_grid, sample
from flowgen.core.tree import State, leaves


def straightness(
    flow: Flow, x: State, grid: Grid = 64, *, solver: Solver | str | None = None, cond: Cond | None = None
) -> Tensor:
    """The mean of |(x1 - x0) - dx/dt|² along each trajectory, relative to |x1 - x0|²; float64 [B] (Liu et al. 2022, eq. 7).

    0: a straight line at even speed, which one step of Euler follows. The trajectory is solved on the grid from x [B, ...] at
    grid[0]; within a step it counts as straight, so that a coarse grid gives too little.

    Raises ValueError as `sample`.
    """
    grid = check_grid(grid)
    passed: list[State] = [x]
    sample(flow, x, grid, solver=solver, cond=cond, on_step=lambda i, t, x: passed.append(x))
    whole, energy = _squares(passed[0], passed[-1]), torch.zeros((), dtype=torch.float64)
    for (t, s), (a, b) in zip(pairwise(grid.tolist()), pairwise(passed), strict=True):
        energy = energy + _squares(a, b) / (s - t)
    span = float(grid[-1] - grid[0])
    return (span * energy / whole - 1).clamp(min=0)


def _squares(a: State, b: State) -> Tensor:
    """|b - a|² of each sample, over all its numbers, float64 [B] on the host."""
    parts = [
        (y.double() - x.double()).square().flatten(1).sum(1).cpu() for x, y in zip(leaves(a), leaves(b), strict=True)
    ]
    return torch.stack(parts).sum(0)

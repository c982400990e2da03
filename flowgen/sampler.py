"""The one loop in which flow, solver and grid meet."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor

from flowgen.flow import Cond, Flow
from flowgen.solvers import Euler, Noise, Solver
from flowgen.tree import State, leaves, tree_map


def sample(
    flow: Flow,
    x: State,
    grid: Tensor,
    *,
    solver: Solver | None = None,
    cond: Cond | None = None,
    noise: Noise | None = None,
    on_step: Callable[[int, float, State], None] | None = None,
) -> State:
    """Carry x from grid[0] to grid[-1] along `flow`.

    Args:
        x: the state at grid[0] [B, ...]; standard normal noise where grid[0] = 0. Kept in float32 or float64.
        grid: increasing times with both ends in it, [steps + 1], on the host.
        noise: what a stochastic solver draws from; unseeded normal numbers by default.
        on_step: called after each step with its number, the time reached and the state.

    Raises ValueError for a grid that is no grid.
    """
    _check_grid(grid)
    solver = solver or Euler()
    noise = noise or (lambda x, t, s: tree_map(torch.randn_like, x))
    grid = grid.to(device="cpu", dtype=torch.float64)
    state = solver.init(x)
    with torch.no_grad():
        for i, (t, s) in enumerate(pairwise(grid)):
            x, state = solver.step(flow, x, t, s, state, noise, cond)
            if on_step is not None:
                on_step(i, float(s), x)
    for leaf in leaves(x):
        if not torch.isfinite(leaf).all():
            raise ValueError(
                "sampling gave values that are not finite; check the network's weights and the grid's ends"
            )
    return x


def _check_grid(grid: Tensor) -> None:
    if grid.ndim != 1 or len(grid) < 2:
        raise ValueError(f"a grid is a vector of at least 2 times, got shape {tuple(grid.shape)}")
    if not bool((grid.diff() > 0).all()):
        raise ValueError("a grid must increase from noise (0) to data (1)")
    if float(grid[0]) < 0 or float(grid[-1]) > 1:
        raise ValueError(f"times lie in [0, 1], got a grid from {float(grid[0]):g} to {float(grid[-1]):g}")

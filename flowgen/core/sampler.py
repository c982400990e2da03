"""The one loop in which flow, solver and grid meet."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Any, TypeAlias

import torch
from torch import Tensor

from flowgen.core.estimate import Estimate
from flowgen.core.flow_map import MapFlow
from flowgen.core.interfaces import Breaks, Cond, Flow, FlowMap, Noise, Paths, Predictions, Solver
from flowgen.core.solvers import named_solver
from flowgen.core.solvers.jumps import FlowMapSolver
from flowgen.core.solvers.ode import Euler
from flowgen.core.times import uniform_grid
from flowgen.core.tree import State, alike, leaves, lincomb, tree_map

Grid: TypeAlias = Tensor | Sequence[float] | int
"""Increasing times in [0, 1] with both ends, [steps + 1]; an integer stands for that many equal steps from 0 to 1.

The steps of an integer meet where the flow jumps, as it does at the ends of a guidance's interval (`with_breaks`).
"""


def sample(
    flow: Flow | FlowMap,
    x: State,
    grid: Grid,
    *,
    solver: Solver | str | None = None,
    cond: Cond | None = None,
    noise: Noise | None = None,
    on_step: Callable[[int, float, State], None] | None = None,
    gradient: bool = False,
) -> State:
    """Carry x from grid[0] to grid[-1] along `flow`, or by the jumps of a flow map.

    Args:
        x: the state [B, ...] at `grid[0]`; `prior` of standard normal noise where `grid[0]` is 0. Kept in float32 or float64.
        grid: see `Grid`.
        solver: one, or the name of a built-in one ("heun"); Euler by default, the jumps of a flow map.
        noise: what a stochastic solver draws from; unseeded normal numbers by default.
        on_step: called after each step with its number, the time reached and the state.
        gradient: let gradients through, by x, by parameters and by conditions; memory grows with the evaluations.

    Raises ValueError for a grid that is no grid, a prediction that is singular where the solver asks for it (before
    anything is computed), and values that are not finite.
    """
    if isinstance(flow, FlowMap):
        flow, solver = MapFlow(flow), solver or FlowMapSolver()
    return solve(
        flow,
        x,
        _grid_for(flow, grid, solver or Euler()),
        solver or Euler(),
        cond,
        noise=noise,
        on_step=on_step,
        gradient=gradient,
    )


def invert(
    flow: Flow,
    x: State,
    grid: Grid,
    *,
    solver: Solver | str | None = None,
    cond: Cond | None = None,
    on_step: Callable[[int, float, State], None] | None = None,
    gradient: bool = False,
) -> State:
    """Carry x backwards from grid[-1] to grid[0]: the noise that `sample` would turn into x, up to the solver's error.

    The grid is that of `sample`, increasing. A stochastic solver refuses.
    """
    times = _grid_for(flow, grid, solver or Euler())
    return solve(flow, x, times.flip(0), solver or Euler(), cond, on_step=on_step, gradient=gradient)


def prior(paths: Paths, noise: State, t: float = 0.0) -> State:
    """The state at the start of sampling from standard normal noise: sigma(t) noise, which on VE is not noise itself."""
    start = torch.tensor(t, dtype=torch.float64)
    return tree_map(lambda x, path: lincomb((path(start).sigma, x)), noise, paths)


def solve(
    flow: Flow,
    x: State,
    grid: Tensor,
    solver: Solver | str,
    cond: Cond | None,
    *,
    noise: Noise | None = None,
    on_step: Callable[[int, float, State], None] | None = None,
    gradient: bool = False,
) -> State:
    """Carry x along a checked grid, in either direction. `gradient`: let gradients through."""
    checked_flow(flow)
    solver = checked_solver(solver)
    _check_state(x)
    noise = noise or _unseeded
    refuse_singular(flow, grid, solver)
    breaks = set(flow.breaks) if isinstance(flow, Breaks) else set()
    with torch.set_grad_enabled(gradient):
        for i, (t, s) in enumerate(pairwise(grid.unbind())):
            if i == 0 or (breaks and float(t) in breaks):  # what was seen before a jump says nothing of what follows
                state = solver.init(x)
            x, state = solver.step(flow, x, _beside(t, s, breaks), _beside(s, t, breaks), state, noise, cond)
            if on_step is not None:
                on_step(i, float(s), x)
    _refuse_not_finite(x)
    return x


def _grid_for(flow: Flow, grid: Grid, solver: Solver | str) -> Tensor:
    """The checked grid; equal steps meet where the flow jumps, times that are given stay."""
    return with_breaks(check_grid(grid), flow, checked_solver(solver)) if isinstance(grid, int) else check_grid(grid)


def _beside(t: Tensor, other: Tensor, breaks: Collection[float]) -> Tensor:
    """t, or where the flow jumps at t the nearest time on the side of `other`."""
    return torch.nextafter(t, other) if breaks and 0 < float(t) < 1 and float(t) in breaks else t


def with_breaks(grid: Tensor, flow: Flow, solver: Solver) -> Tensor:
    """A grid of as many steps on which `flow` jumps between steps: the nearest inner time is moved to each jump.

    It stays as it is where it has fewer inner times than there are jumps, and for a solver of order 1, which loses nothing.
    """
    if solver.order < 2:
        return grid
    inner = [t for t in sorted(set(flow.breaks)) if grid[0] < t < grid[-1]] if isinstance(flow, Breaks) else []
    if not inner or len(grid) - 2 < len(inner):
        return grid
    moved, free = grid.clone(), list(range(1, len(grid) - 1))
    for number, t in enumerate(inner):
        left = free[: len(free) - (len(inner) - number - 1)]  # one is left for each jump that follows
        nearest = min(left, key=lambda i: abs(float(grid[i]) - t))
        moved[nearest] = t
        free = [i for i in free if i > nearest]
    return moved if bool((moved.diff() > 0).all()) else grid


def _refuse_not_finite(x: State) -> None:
    for name, leaf in x.items() if isinstance(x, Mapping) else [("the result", x)]:
        if all(bool(torch.isfinite(part).all()) for part in leaves(leaf)):
            continue
        broken = torch.stack([~torch.isfinite(part).flatten(1).all(1) for part in leaves(leaf)]).any(0)
        raise ValueError(
            f"sampling gave values that are not finite in {name} ({int(broken.sum())} of {len(broken)} samples); "
            "check the network's weights and the grid's ends"
        )


def check_grid(grid: Grid) -> Tensor:
    """The grid in float64 on the host. ValueError: it is no grid."""
    if isinstance(grid, int):
        return uniform_grid(grid)
    if not isinstance(grid, Tensor):
        try:
            grid = torch.as_tensor(grid, dtype=torch.float64)
        except (TypeError, ValueError, RuntimeError) as error:
            raise ValueError(
                f"a grid is a tensor or list of increasing times, or a number of steps, got {grid!r}"
            ) from error
    if grid.ndim != 1 or len(grid) < 2:
        raise ValueError(f"a grid is a vector of at least 2 times, got shape {tuple(grid.shape)}")
    grid = grid.to(device="cpu", dtype=torch.float64)
    times = grid.tolist()
    if not all(t < s for t, s in pairwise(times)):
        raise ValueError("a grid must increase from noise (0) to data (1); to go from data to noise use `invert`")
    if times[0] < 0 or times[-1] > 1:
        raise ValueError(f"times lie in [0, 1], got a grid from {times[0]:g} to {times[-1]:g}")
    return grid


def _check_state(x: State) -> None:
    sizes = set()
    for leaf in leaves(x):
        if leaf.ndim < 2 or leaf.dtype not in (torch.float32, torch.float64):
            raise ValueError(
                f"a state is [B, ..., channels] in float32 or float64, got {tuple(leaf.shape)} in {leaf.dtype}; "
                "lower precision belongs in the network, under autocast"
            )
        sizes.add(len(leaf))
    if len(sizes) > 1:
        raise ValueError(f"the streams of a state have one batch size, got {sorted(sizes)}")


def checked_flow(flow: Flow) -> Flow:
    """`flow`. ValueError: it is a network or a function, which says nothing of how it is read."""
    if isinstance(flow, Flow):
        return flow
    raise ValueError(
        f"a {type(flow).__name__} is no flow: it declares no `path` and no `predicts`; wrap a network or a function "
        "network(x, t, cond) as NetworkFlow(network, path=Linear(), predicts='velocity')"
    )


def checked_solver(solver: Solver | str) -> Solver:
    """The solver, made if it is named. ValueError: it is none."""
    if isinstance(solver, str):
        return named_solver(solver)
    if isinstance(solver, type) or not isinstance(solver, Solver):
        what = f"the class {solver.__name__}" if isinstance(solver, type) else f"a {type(solver).__name__}"
        raise ValueError(
            f"{what} is no solver: give an object with order, evaluations, init and step, such as Heun(), or a name"
        )
    return solver


def refuse_singular(flow: Flow, grid: Tensor, solver: Solver) -> None:
    """Take the first and the last step of the grid with a network that says 0, so that a singular reading is refused at once.

    A ValueError names the solver, the step and what it could not read.
    """
    paths, predicts = flow.path, flow.predicts
    edges = {tuple(grid[:2].tolist()), tuple(grid[-2:].tolist())}
    for t, s in edges:
        if not (0.0 < t < 1.0 and 0.0 < s < 1.0):
            try:
                _passed(paths, predicts, solver, t, s)  # type: ignore[arg-type]
            except TypeError:  # a dict of paths, which cannot be remembered
                _try_step(paths, predicts, solver, t, s)


def evaluation_times(flow: Flow, grid: Tensor, solver: Solver) -> list[float]:
    """The times at which a solver asks a flow on a grid, in order: of all streams together."""
    asked: list[float] = []
    paths, predicts = alike(flow.path, flow.predicts)
    silent = _Silent(paths, predicts)

    def listening(x: State, t: Any, cond: Cond | None = None) -> Estimate:
        asked.extend(float(leaf.flatten()[0]) for leaf in leaves(t))
        return silent(x, t, cond)

    x: Any = tree_map(lambda path: torch.zeros(1, 1, dtype=torch.float64), paths)
    solve(_Listened(paths, predicts, listening), x, check_grid(grid), solver, None, noise=lambda x, t, s: x)
    return asked


@dataclass(frozen=True)
class _Listened:
    """A flow made of a function."""

    path: Paths
    predicts: Predictions
    function: Callable[[State, Any, Cond | None], Estimate]

    def __call__(self, x: State, t: Any, cond: Cond | None = None) -> Estimate:
        return self.function(x, t, cond)


@dataclass(frozen=True)
class _Silent:
    """A flow that says the state itself."""

    path: Paths
    predicts: Predictions

    def __call__(self, x: State, t: Any, cond: Cond | None = None) -> Estimate:
        single = tree_map(lambda t: t.flatten()[0].cpu() if t.ndim else t, t)
        return Estimate(self.path, x, single, self.predicts, x)


def _try_step(paths: Paths, predicts: Predictions, solver: Solver, t: float, s: float) -> None:
    paths, predicts = alike(paths, predicts)
    x: Any = tree_map(lambda path: torch.zeros(1, 1, dtype=torch.float64), paths)
    start, end = torch.tensor([t, s], dtype=torch.float64).unbind()
    try:
        solver.step(_Silent(paths, predicts), x, start, end, solver.init(x), _unseeded, None)
    except ValueError as error:
        ways = (
            "; heun, ralston, unipc and dpm++2m do, and a guidance that measures in data space may have space=velocity"
        )
        hint = ways if "data" in leaves(predicts) and s == 1 else ""
        raise ValueError(f"the solver {type(solver).__name__}, from t = {t:g} to {s:g}: {error}{hint}") from error


_passed = lru_cache(maxsize=256)(_try_step)


def _unseeded(x: State, t: Tensor, s: Tensor) -> State:
    return tree_map(torch.randn_like, x)

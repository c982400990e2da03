"""Editing with any trained flow: keep a part, vary a clip, pass from one clip to another.

A network that was trained with known regions keeps a part more exactly, see `flowgen.media.regions.KnownFlow`; `Replaced` asks
nothing of the training.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from flowgen.core.estimate import Estimate
from flowgen.core.flow import AroundFlow
from flowgen.core.interfaces import Cond, Flow, Noise, Path, Prediction, Solver
from flowgen.core.paths import interpolate, velocity
from flowgen.core.sampler import check_grid, checked_flow, invert, sample
from flowgen.core.solvers.ode import has_velocity
from flowgen.core.tree import State, lincomb, tree_map


@dataclass(frozen=True)
class Replaced(AroundFlow):
    """A flow in which known positions travel along their own conditional path, alpha x1 + sigma x0 (Song et al. 2020, appendix I.2).

    What is generated around them follows what the network sees of them: nothing at t = 0, everything at t = 1. A
    stochastic solver lets the parts come to terms more than an ODE does. `restore` the result after a stochastic one.

    Args:
        x1: the known values, of the structure of the state.
        x0: the noise they started from: that of the initial state.
        known: bool, left-aligned with the state.
    """

    x1: State
    x0: State
    known: State

    def __call__(self, x: State, t: Any, cond: Cond | None = None) -> Estimate:
        paths = self.flow.path
        seen = _where(self.known, interpolate(paths, self.x1, self.x0, t), x)
        said = self.flow(seen, t, cond)

        def leaf(x1: Tensor, x0: Tensor, seen: Tensor, path: Path, t: Any, prediction: Prediction) -> State:
            if prediction == "data":
                return x1
            if prediction == "velocity":
                return velocity(path, x1, x0, t)
            return Estimate(path, seen, t, "noise", x0).read(prediction)

        truth = tree_map(leaf, self.x1, self.x0, seen, paths, t, said.prediction)
        return Estimate(said.path, seen, t, said.prediction, _where(self.known, truth, said.value))

    def restore(self, x: State) -> State:
        """x with the known positions exactly as they were given."""
        return _where(self.known, self.x1, x)


def vary(
    flow: Flow,
    x1: State,
    noise: State,
    t: float,
    grid: Tensor,
    *,
    solver: Solver | None = None,
    cond: Cond | None = None,
    draws: Noise | None = None,
) -> State:
    """A variation of the clip x1: noise is mixed in up to time t, and the flow completes it from there (Meng et al. 2021).

    Near t = 1 little changes, at t = 0 all is new. With other conditions than the clip's own it is a transfer of style.
    What the flow cannot make of x1 even from the last time of the grid is added in the share t, as in `between`: without it a
    network of too little capacity would give another clip wherever it starts.
    `grid` is that of a whole sample, of which the part after t is used; `draws` is for a stochastic solver.
    """
    if not 0 <= t < 1:
        raise ValueError(f"a variation starts at a time in [0, 1), got {t:g}")
    rest = check_grid(grid)
    start = torch.tensor(t, dtype=torch.float64)
    rest = torch.cat([start[None], rest[rest > t + 1e-9]])
    flow = checked_flow(flow)
    made = sample(flow, interpolate(flow.path, x1, noise, start), rest, solver=solver, cond=cond, noise=draws)
    if t == 0:
        return made
    last = sample(flow, interpolate(flow.path, x1, noise, rest[-2]), rest[-2:], solver=solver, cond=cond, noise=draws)
    return lincomb((1.0, made), (t, x1), (-t, last))


def between(
    flow: Flow,
    a: State,
    b: State,
    share: float | Tensor,
    grid: Tensor,
    *,
    solver: Solver | None = None,
    cond: Cond | None = None,
    cond_b: Cond | None = None,
    noise: State | None = None,
) -> State:
    """Clips on the way from a to b: both are inverted to noise, which is interpolated on the sphere and sampled.

    What the round trip of each end loses (`Inverted.residual`) is added in the share of that end, so that the ends are a
    and b themselves (the idea of Huberman-Spiegelglas et al. 2023, applied once, at t = 1).

    Args:
        share: 0 for a, 1 for b; a number, or one for each row [B].
        grid: that of a whole sample, up to t = 1.
        cond: conditions of a, and of the result.
        cond_b: those of b, where they differ.
        noise: standard normal, of the structure of a; wanted where the flow has no velocity at t = 1, see `inverted`.
    """
    first = inverted(flow, a, grid, solver=solver, cond=cond, noise=noise)
    second = inverted(flow, b, grid, solver=solver, cond=cond if cond_b is None else cond_b, noise=noise)
    start = tree_map(lambda x, y: slerp(x, y, share), first.source, second.source)
    x = sample(flow, start, grid, solver=solver, cond=cond)
    return lincomb((1.0, x), (1 - share, first.residual), (share, second.residual))


class Inverted(NamedTuple):
    """A state at the source, and what sampling it again leaves of the data: x1 = sample(source) + residual."""

    source: State
    residual: State


def inverted(
    flow: Flow,
    x1: State,
    grid: Tensor,
    *,
    solver: Solver | None = None,
    cond: Cond | None = None,
    noise: State | None = None,
) -> Inverted:
    """The noise from which `flow` makes x1 on this grid, and the rest that it cannot make.

    The way back takes `_FINER` steps for each of the grid. A flow that predicts data has no velocity at t = 1 (an error of
    its estimate there is divided by 1 - t): its last step, in which it says x1 of x_t, is undone by `noise` as in training,
    x_t = alpha x1 + sigma noise. ValueError: that noise is wanted and not given.
    """
    grid = check_grid(grid)
    x, back = x1, grid
    if not has_velocity(flow, grid[-1]):
        if noise is None:
            raise ValueError(f"a flow that predicts {flow.predicts} is inverted from noised data: give `noise`")
        x, back = interpolate(flow.path, x1, noise, grid[-2]), grid[:-1]
    if len(back) > 1:
        x = invert(flow, x, _refined(back), solver=solver, cond=cond)
    made = sample(flow, x, grid, solver=solver, cond=cond)
    return Inverted(x, lincomb((1.0, x1), (-1.0, made)))


_FINER = 4


def _refined(grid: Tensor) -> Tensor:
    """The grid with each of its steps divided into `_FINER`."""
    shares = torch.arange(_FINER, dtype=grid.dtype) / _FINER
    return torch.cat([(grid[:-1, None] + grid.diff()[:, None] * shares).flatten(), grid[-1:]])


def slerp(x: Tensor, y: Tensor, share: float | Tensor) -> Tensor:
    """Spherical interpolation of each sample (Shoemake 1985): it keeps the length that noise has and a straight mean loses."""
    cosine = torch.nn.functional.cosine_similarity(x.flatten(1), y.flatten(1)).clamp(-1, 1)
    angle = torch.acos(cosine)
    share = torch.as_tensor(share, dtype=x.dtype, device=x.device).expand(len(x))
    straight = angle < 1e-4  # the formula is 0/0 at equal ends
    sine = torch.where(straight, 1.0, torch.sin(angle))
    wx = torch.where(straight, 1 - share, torch.sin((1 - share) * angle) / sine)
    wy = torch.where(straight, share, torch.sin(share * angle) / sine)
    return lincomb((wx, x), (wy, y))  # type: ignore[return-value]


def _where(known: State, given: State, x: State) -> State:
    def leaf(x: Tensor, given: Tensor, known: Tensor) -> Tensor:
        return torch.where(known.reshape(known.shape + (1,) * (x.ndim - known.ndim)), given.to(x.dtype), x)

    return tree_map(leaf, x, given, known)

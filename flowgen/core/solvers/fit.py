"""Fitting the table of a solver to the ends of accurate trajectories (Shaul et al. 2024, Bespoke Non-Stationary Solvers).

The loss is theirs, the distance of the end points through the whole sampler. The optimiser is not: with about twenty numbers
a few Gauss-Newton steps (Levenberg 1944, Marquardt 1963) replace thousands of Adam steps. Derivatives are finite differences, so
the network needs no backward pass; what a number of row i changes is computed again from evaluation i on.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from flowgen.core.interfaces import Cond, Flow, Path, Solver
from flowgen.core.paths import Linear
from flowgen.core.solvers.multistep import AdamsBashforth, AdamsMoulton, DPMSolverPP2M, UniPC
from flowgen.core.solvers.ode import Euler, Heun, Midpoint, Ralston
from flowgen.core.solvers.table import NonStationary
from flowgen.core.tree import State, leaves, lincomb

_COEFFICIENT_STEP = 1e-3  # of finite differences: far above the rounding of a float32 network
_TIME_STEP = 0.01  # in units of the smaller gap beside a time
_ENOUGH = 1e-3  # a step that gains less than this share ends the fit

FIXED: dict[str, tuple[Solver, int]] = {
    "euler": (Euler(), 1),
    "dpm++2m": (DPMSolverPP2M(), 1),
    "unipc": (UniPC(), 1),
    "unipc order 2": (UniPC(order=2), 1),
    "adams-bashforth": (AdamsBashforth(), 1),
    "adams-moulton": (AdamsMoulton(), 1),
    "heun": (Heun(), 2),
    "midpoint": (Midpoint(), 2),
    "ralston": (Ralston(), 2),
}
"""Solvers that are tables, with their evaluations a step."""


@dataclass(frozen=True)
class Batch:
    """Starts x0 and the ends they should reach, [B, ...] each, with the flow (guided, for this batch) and its conditions."""

    flow: Flow
    x0: State
    target: State
    cond: Cond | None = None


def fixed_tables(
    evaluations: int, grids: Mapping[str, Callable[[int], Tensor]], path: Path | None = None, only: Sequence[str] = ()
) -> dict[str, NonStationary]:
    """The tables of the fixed solvers at this number of evaluations, by names such as "unipc, uniform".

    Args:
        grids: by name, what makes a grid of so many steps.
        only: names of `FIXED`; all of them by default.
        path: that of the flow; None where streams have paths of their own, on which solvers of the data have no one table.
    """
    found: dict[str, NonStationary] = {}
    for name, (solver, cost) in FIXED.items():
        if (
            (only and name not in only)
            or evaluations % cost
            or (path is None and isinstance(solver, DPMSolverPP2M | UniPC))
        ):
            continue
        for kind, grid in grids.items():
            try:
                found[f"{name}, {kind}"] = NonStationary.of(solver, grid(evaluations // cost), path or Linear())
            except ValueError:  # one that asks the velocity where this path has none
                continue
    return found


def increases(table: NonStationary) -> bool:
    """Whether a fit can start from this table: no time comes twice, as in Heun's method."""
    return bool((table.times.diff() > 0).all())


@torch.no_grad()
def distances(table: NonStationary, batches: Sequence[Batch]) -> Tensor:
    """Root mean square distance of each end to its target, float64 [N]."""
    found = [_residual(_continued(table, batch, batch.x0, []), batch.target) for batch in batches]
    return torch.cat([r.double().square().mean(1).sqrt().cpu() for r in found])


@torch.no_grad()
def fit_table(
    start: NonStationary,
    batches: Sequence[Batch],
    held_out: Sequence[Batch],
    *,
    seconds: float = 120.0,
    most_steps: int = 100,
    on_step: Callable[[NonStationary, float], None] | None = None,
) -> NonStationary:
    """The table, times included, that brings `batches` nearest to their targets in the mean of `distances`.

    Of all tables on the way the best on `held_out` is returned, `start` among them. Both ends of the times stay.

    Args:
        seconds: no step begins that would, as the one before, end later than this.
        most_steps: of Gauss-Newton.
        on_step: called after each step with the table and its mean distance on `held_out`.
    """
    end = time.monotonic() + seconds
    table, damping = start, 1e-3
    loss = float(distances(table, batches).mean())
    best, least = table, float(distances(table, held_out).mean())
    longest = 0.0
    for _ in range(most_steps):
        if (began := time.monotonic()) + longest > end:
            break
        normal, slope = _normal_equations(table, batches)
        before = loss
        while time.monotonic() < end:
            moved = _moved(table, normal, slope, damping)
            new = float(distances(moved, batches).mean()) if moved is not None else float("inf")
            if moved is not None and new < loss:
                table, loss, damping = moved, new, max(damping / 5, 1e-9)
                break
            damping *= 5
            if damping > 1e4:
                break
        if not loss < before:
            break
        held = float(distances(table, held_out).mean())
        if held < least:
            best, least = table, held
        if on_step is not None:
            on_step(table, held)
        if loss > (1 - _ENOUGH) * before:
            break
        longest = max(longest, time.monotonic() - began)
    return best


def _moved(table: NonStationary, normal: Tensor, slope: Tensor, damping: float) -> NonStationary | None:
    """A Levenberg-Marquardt step; None where the times would no longer increase."""
    scale = normal.diagonal().clamp(min=1e-12)
    step = torch.linalg.lstsq(normal + damping * scale.diag(), -slope[:, None], driver="gelsd").solution[:, 0]
    n = table.evaluations
    times, a, b = table.times.clone(), table.a.clone(), table.b.clone()
    for (kind, i, j), d in zip(_numbers(n), step, strict=True):
        if kind == "t":
            times[i] += d
        elif kind == "a":
            a[i] += d
        else:
            b[i, j] += d
    if not bool(torch.isfinite(step).all()) or not bool((times.diff() > 1e-6).all()):
        return None
    return NonStationary(times, a, b)


def _numbers(n: int) -> list[tuple[str, int, int]]:
    """What is learned: the inner times, a, and the lower triangle of b."""
    rows = [("a", i, 0) for i in range(n)] + [("b", i, j) for i in range(n) for j in range(i + 1)]
    return [("t", i, 0) for i in range(1, n)] + rows


def _normal_equations(table: NonStationary, batches: Sequence[Batch]) -> tuple[Tensor, Tensor]:
    """J'J [P, P] and J'r [P] of the ends, each clip weighted by 1/its distance: then J'r is the gradient of the mean distance."""
    size, clips = len(_numbers(table.evaluations)), 0
    normal, slope = torch.zeros(size, size, dtype=torch.float64), torch.zeros(size, dtype=torch.float64)
    for batch in batches:
        ys: list[State] = [batch.x0]
        slopes: list[State] = []
        end = _continued(table, batch, batch.x0, slopes, ys)
        r = _residual(end, batch.target)
        jacobian = list(_columns(table, batch, ys, slopes))
        for k in range(len(r)):
            own = torch.stack([column[k] for column in jacobian]).double()
            error = r[k].double()
            weight = 1 / (error.square().mean().sqrt().clamp(min=1e-9) * len(error))
            normal += (weight * own @ own.T).cpu()
            slope += (weight * own @ error).cpu()
        clips += len(r)
    return normal / clips, slope / clips


def _columns(table: NonStationary, batch: Batch, ys: list[State], slopes: list[State]) -> Iterator[Tensor]:
    """The derivatives of the end by each number, [B, D]; y_i and v_i are known along the way."""
    end = ys[-1]
    for kind, i, j in _numbers(table.evaluations):
        if kind == "t":
            gap = float(torch.minimum(table.times[i] - table.times[i - 1], table.times[i + 1] - table.times[i]))
            eps = _TIME_STEP * gap
            times = table.times.clone()
            times[i] += eps
            other = _continued(replace(table, times=times), batch, ys[i], slopes[:i])
        else:
            along = batch.x0 if kind == "a" else slopes[j]
            if i + 1 == table.evaluations:  # the end itself is linear in its row
                yield _flat(along)
                continue
            eps = _COEFFICIENT_STEP
            other = _continued(table, batch, lincomb((1.0, ys[i + 1]), (eps, along)), slopes[: i + 1])
        yield _residual(other, end) / eps


def _continued(
    table: NonStationary, batch: Batch, y: State, slopes: list[State], ys: list[State] | None = None
) -> State:
    """The end, from y_k on with the first k velocities known. Velocities are added to `slopes`, states to `ys`."""
    for i in range(len(slopes), table.evaluations):
        slopes.append(batch.flow(y, table.times[i], batch.cond).velocity)
        y = table.row(i, batch.x0, slopes)
        if ys is not None:
            ys.append(y)
    return y


def _residual(x: State, target: State) -> Tensor:
    return _flat(lincomb((1.0, x), (-1.0, target)))


def _flat(x: State) -> Tensor:
    """[B, D], all streams together."""
    return torch.cat([leaf.flatten(1) for leaf in leaves(x)], dim=1)

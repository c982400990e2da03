"""A solver against flow maps that are known in closed form."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from flowgen.core.estimate import Estimate
from flowgen.core.flow_map import MapFlow
from flowgen.core.interfaces import Path
from flowgen.core.paths import Linear
from flowgen.core.sampler import invert
from flowgen.core.times import uniform_grid
from flowgen.core.tree import State, leaves
from flowgen.testing.contract import COMPONENT_CHECKS, NotApplicable, checks_for
from flowgen.testing.oracle import FunctionFlow
from flowgen.testing.part import GAUSSIAN, SMOOTH, Part, normal, solved, touches_global_generators

_START, _END = 0.1, 0.9
"""Away from the ends, where alpha/sigma is 0 or infinite and orders take longer to show."""
_OFF = 0.4
"""How far an observed order may lie from the declared one."""

check = checks_for("solver", COMPONENT_CHECKS)


class _Noise:
    """Noise by number of the draw: zeros, but for row k + 2 at draw k, which is one."""

    def __init__(self, draws: int = 0) -> None:
        self.draws, self.calls = draws, 0

    def __call__(self, x: State, t: Tensor, s: Tensor) -> Any:
        assert isinstance(x, Tensor)
        z = torch.zeros_like(x)
        if self.draws:
            z[self.calls + 2] = 1.0
        self.calls += 1
        return z


def _grid(steps: int) -> Tensor:
    return _START + (_END - _START) * uniform_grid(steps)


def _flow(p: Part, target: Any, path: Path | None = None) -> Any:
    """The exact flow, or where the solver asks for one the exact flow map."""
    path = path or Linear()
    flow: Any = target.flow(path)
    try:
        solved(flow, normal(2, 1), _grid(2), solver=p.built, noise=_Noise())
    except ValueError as error:
        if "flow map" not in str(error) and "END_TIME" not in str(error):
            raise
        return MapFlow(target.map(path))
    return flow


def stochastic(p: Part) -> bool:
    """Whether it asks for noise."""
    if "draws" not in p.measured:
        noise = _Noise()
        solved(_flow(p, GAUSSIAN), normal(2, 1), _grid(3), solver=p.new(), noise=noise)
        p.measured["draws"] = noise.calls
    return p.measured["draws"] > 0


def _error(p: Part, steps: int) -> float:
    """The mean error at the end; of a stochastic solver that of mean and deviation, which on one Gaussian are exact."""
    key = "error", steps
    if key not in p.measured:
        p.measured[key] = _measured_error(p, _grid(steps))
    return p.measured[key]


def _measured_error(p: Part, grid: Tensor) -> float:
    path = Linear()
    if not stochastic(p):
        x = torch.linspace(-2, 2, 41, dtype=torch.float64)[:, None]
        end = solved(_flow(p, SMOOTH), x, grid, solver=p.new())
        return float((end - SMOOTH.flow_map(path, x, _START, _END)).abs().mean())
    # a step is affine in the state and in each draw: rows that start at the mean, one deviation off, and with one draw
    # of one each give the mean, and the deviation as the root of the sum of squares
    first, last = (path(torch.tensor(t, dtype=torch.float64)) for t in (_START, _END))
    count = _Noise()
    solved(GAUSSIAN.flow(path), normal(1, 1), grid, solver=p.new(), noise=count)
    mean, std = GAUSSIAN.means[0], GAUSSIAN.stds[0]
    spread = [torch.sqrt((c.alpha * std) ** 2 + c.sigma**2) for c in (first, last)]
    x = (first.alpha * mean).expand(count.calls + 2, 1).clone()
    x[1] += spread[0]
    end = solved(GAUSSIAN.flow(path), x, grid, solver=p.new(), noise=_Noise(count.calls))
    found = (end[1:] - end[0]).square().sum().sqrt()
    return abs(float(end[0] - last.alpha * mean)) + abs(float(found - spread[1]))


def _by_stream(x: State, t: Tensor, s: Tensor) -> Any:
    if isinstance(x, dict):
        return {k: torch.ones_like(v) * 0.3 for k, v in x.items()}
    return torch.ones_like(x) * 0.3


@check(
    "a step is a function of its arguments and of noise(x, t, s): no other random numbers, nothing kept between runs, and "
    "neither the state nor what the flow said is changed in place",
    see="solvers",
)
def solver_is_pure(p: Part) -> str | None:
    flow, x, said = _flow(p, SMOOTH), normal(6, 1), list[tuple[Tensor, Tensor]]()
    kept = x.clone()

    def watched(x: Any, t: Any, cond: Any = None) -> Estimate:
        estimate = flow(x, t, cond)
        said.extend((leaf, leaf.clone()) for leaf in leaves(estimate.value))
        return estimate

    def run(solver: Any) -> Any:
        return solved(FunctionFlow(watched, flow.path), x, _grid(6), solver=solver, noise=_by_stream)

    solver = p.new()
    first = run(solver)
    if not torch.equal(x, kept):
        return "it changes the state that it is given in place"
    if not all(torch.equal(a, b) for a, b in said):
        return "it changes in place what the flow said"
    if touches_global_generators(lambda: run(p.new())):
        return "it draws from a global generator; noise comes from noise(x, t, s)"
    if not torch.equal(run(solver), first):
        return "a second run with the same solver gives another end: something is kept between runs"
    other = solved(flow, x + 0.5, _grid(6), solver=p.new(), noise=_by_stream)
    if torch.equal(other, first):
        return "another start gives the same end"
    return None


@check("a solver comes to the exact end of a flow as steps get small", see="solvers", needs=(solver_is_pure,))
def solver_converges(p: Part) -> str | None:
    coarse, fine = (_error(p, steps) for steps in (8, 48))
    if not fine < 0.05:
        return f"its error on a Gaussian mixture is {coarse:.2g} at 8 steps and {fine:.2g} at 48; expected below 0.05"
    return None


@check(
    "its order is the one that is observed: the slope of log error on log step",
    see="solvers",
    needs=(solver_converges,),
)
def solver_has_its_order(p: Part) -> str | None:
    order = p.built.order
    steps = [24, 48, 96]
    if _error(p, 8) < 1.5 * _error(p, 48):
        raise NotApplicable("its error does not depend on the grid: it chooses its own steps")
    errors = [_error(p, n) for n in steps]
    x, y = (torch.tensor([math.log(v) for v in values], dtype=torch.float64) for values in (steps, errors))
    slope = -float(((x - x.mean()) * (y - y.mean())).sum() / ((x - x.mean()) ** 2).sum())
    if abs(slope - order) > _OFF and not (stochastic(p) and slope > order):
        return f"it declares order {order}, and order {slope:.2f} is observed at {', '.join(map(str, steps))} steps"
    return None


@check(
    "evaluations is the number of evaluations of the flow in a step, after the first few",
    see="solvers",
    needs=(solver_is_pure,),
)
def solver_counts_its_evaluations(p: Part) -> str | None:
    flow, calls = _flow(p, SMOOTH), [0]

    def counted(x: Any, t: Any, cond: Any = None) -> Estimate:
        calls[0] += 1
        return flow(x, t, cond)

    made = []
    for steps in (8, 16):
        calls[0] = 0
        solved(FunctionFlow(counted, flow.path), normal(4, 1), _grid(steps), solver=p.new(), noise=_Noise())
        made.append(calls[0])
    if made[1] - made[0] == 8 * p.built.evaluations:
        return None
    if max(_error(p, 2), _error(p, 8)) < 1e-3:
        raise NotApplicable("it chooses its own steps")
    return f"8 steps more take {made[1] - made[0]} evaluations; it declares {p.built.evaluations} a step"


@check(
    "s < t runs backwards, to where the flow came from; a stochastic solver refuses by a ValueError",
    see="solvers",
    needs=(solver_converges,),
)
def solver_runs_backwards_or_refuses(p: Part) -> str | None:
    flow, x, grid = _flow(p, SMOOTH), normal(8, 1), _grid(200)
    try:
        back = invert(flow, x, grid, solver=p.new())
    except ValueError:
        return None
    if stochastic(p):
        return "it draws noise and runs backwards without a word"
    off = float((back - SMOOTH.flow_map(Linear(), x, _END, _START)).abs().max())
    return f"inverted in 200 steps it is off by {off:.2g}" if off > 0.1 else None


@check("samples of a batch do not see each other", see="solvers", needs=(solver_is_pure,))
def solver_keeps_samples_apart(p: Part) -> str | None:
    flow, x = _flow(p, SMOOTH), normal(6, 1)
    together = solved(flow, x, _grid(6), solver=p.new(), noise=_by_stream)
    alone = solved(flow, x[2:3], _grid(6), solver=p.new(), noise=_by_stream)
    off = float((together[2:3] - alone).abs().max())
    return f"a sample alone and among others differs by {off:.2g}" if off > 1e-9 else None


@check("a dict of streams is solved as each of them alone", see="solvers", needs=(solver_keeps_samples_apart,))
def solver_takes_streams(p: Part) -> str | None:
    flow, grid = _flow(p, SMOOTH), _grid(6)
    x = {"a": normal(5, 1), "b": normal(5, 1, seed=1)}

    def both(x: Any, t: Any, cond: Any = None) -> Estimate:
        single = {k: t[k] if isinstance(t, dict) else t for k in x}
        ends = {k: v[k] if isinstance(v, dict) else v for k in x for v in [(cond or {}).get("end_time")]}
        own = {k: {} if ends[k] is None else {"end_time": ends[k]} for k in x}
        value = {k: flow(x[k], single[k], own[k]).value for k in x}
        return Estimate({k: flow.path for k in x}, x, t, {k: flow.predicts for k in x}, value)

    joint: Any = FunctionFlow(both, {k: flow.path for k in x}, {k: flow.predicts for k in x})  # type: ignore[arg-type]
    together = solved(joint, x, grid, solver=p.new(), noise=_by_stream)
    for name, alone in x.items():
        one = solved(flow, alone, grid, solver=p.new(), noise=_by_stream)
        off = float((together[name] - one).abs().max())
        if off > 1e-9:
            return f"stream {name!r} solved with another and alone differs by {off:.2g}"
    return None

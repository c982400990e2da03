"""Explicit Runge-Kutta solvers of dx/dt = v(x, t), each a table of coefficients."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias

import torch
from torch import Tensor

from flowgen.core.estimate import reading
from flowgen.core.interfaces import Cond, Flow, Noise
from flowgen.core.paths import coefficients
from flowgen.core.ranges import Count, Real
from flowgen.core.solvers.base import Stateless
from flowgen.core.tree import State, alike, leaves, lincomb, tree_map

Row: TypeAlias = tuple[tuple[int, float], ...]


@dataclass(frozen=True)
class Tableau:
    """A Butcher tableau: stage i sees x + h sum_j a[i][j] k_j at time t + c_i h, c_i = sum_j a[i][j]."""

    a: tuple[tuple[float, ...], ...]
    b: tuple[float, ...]
    order: int

    def __post_init__(self) -> None:
        if len(self.a) != len(self.b) or any(len(row) != i for i, row in enumerate(self.a)):
            raise ValueError("an explicit tableau has rows of length 0, 1, ..., one weight each")
        if abs(sum(self.b) - 1) > 1e-12:
            raise ValueError(f"weights sum to {sum(self.b)}, not to 1")
        if self.order >= 2 and abs(sum(b * c for b, c in zip(self.b, self.c, strict=True)) - 0.5) > 1e-12:
            raise ValueError(f"order {self.order} wants sum_i b_i c_i = 1/2; this table is of order 1")

    @cached_property
    def c(self) -> tuple[float, ...]:
        return tuple(sum(row) for row in self.a)

    @cached_property
    def stages(self) -> tuple[tuple[float, Row], ...]:
        """c and the weights that are not 0, with their indices, for every stage."""
        return tuple((c, _sparse(row)) for c, row in zip(self.c, self.a, strict=True))

    @cached_property
    def result(self) -> Row:
        return _sparse(self.b)


def _sparse(row: tuple[float, ...]) -> Row:
    return tuple((j, weight) for j, weight in enumerate(row) if weight)


class RungeKutta(Stateless):
    """A solver for a tableau, which a subclass names.

    What a network said of the data has no velocity where sigma = 0. A step that ends there and would evaluate there is
    left to a method that does not: one of the second order, Euler's for Heun (as in Karras et al. 2022, algorithm 1).
    """

    tableau: Tableau

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"

    @property
    def order(self) -> int:
        return self.tableau.order

    @property
    def evaluations(self) -> int:
        return len(self.tableau.b)

    def step(
        self, flow: Flow, x: State, t: Tensor, s: Tensor, state: Any, noise: Noise, cond: Cond | None
    ) -> tuple[State, Any]:
        if 1.0 in self.tableau.c and not has_velocity(flow, s):
            last: RungeKutta = Ralston() if self.order > 2 else Euler()
            return last.step(flow, x, t, s, state, noise, cond)
        h = s - t if s.requires_grad or t.requires_grad else s.item() - t.item()
        slopes: list[State] = []
        for c, row in self.tableau.stages:
            # a stage at an end meets the grid point itself, not its rounding
            at = t if c == 0 else s if c == 1 else t + c * h
            y = _advance(x, h, row, slopes) if row else x
            slopes.append(flow(y, at, cond).velocity)
        return _advance(x, h, self.tableau.result, slopes), None


def has_velocity(flow: Flow, t: Tensor) -> bool:
    """Whether what the flow predicts can be read as a velocity at t."""
    if flow.predicts == "velocity" or 0 < t.item() < 1:
        return True
    try:
        by_path = tree_map(
            lambda path, said: reading(coefficients(path, t), said, "velocity"), *alike(flow.path, flow.predicts)
        )
        at_all = list(leaves(by_path))
    except ZeroDivisionError:
        return False
    return all(math.isfinite(a + b) for a, b in at_all)


def _advance(x: State, h: float | Tensor, row: Row, slopes: list[State]) -> State:
    if isinstance(x, Tensor) and isinstance(
        h, float
    ):  # what lincomb would do, without its generality: this is the inner loop of sampling
        for j, weight in row:
            x = torch.add(x, slopes[j], alpha=h * weight)  # type: ignore[arg-type]
        return x
    return lincomb((1.0, x), *((h * weight, slopes[j]) for j, weight in row))


class Euler(RungeKutta):
    """x + h v(x, t)."""

    tableau = Tableau(a=((),), b=(1.0,), order=1)


class Midpoint(RungeKutta):
    """A half step, and its slope for the whole."""

    tableau = Tableau(a=((), (0.5,)), b=(0.0, 1.0), order=2)


class Heun(RungeKutta):
    """The mean of the slopes at both ends (explicit trapezoid)."""

    tableau = Tableau(a=((), (1.0,)), b=(0.5, 0.5), order=2)


class Ralston(RungeKutta):
    """The second-order method of two stages with the least error bound (Ralston 1962). It never evaluates at s."""

    tableau = Tableau(a=((), (2 / 3,)), b=(0.25, 0.75), order=2)


class RK4(RungeKutta):
    """The classical method of Runge and Kutta."""

    tableau = Tableau(a=((), (0.5,), (0.0, 0.5), (0.0, 0.0, 1.0)), b=(1 / 6, 1 / 3, 1 / 3, 1 / 6), order=4)


class TableRungeKutta(RungeKutta):
    """Any explicit Runge-Kutta method: rows of `a` (of length 0, 1, ...), weights `b` and its `order`.

    Ralston's third-order method by default.
    """

    def __init__(
        self,
        a: tuple[tuple[Real, ...], ...] = ((), (0.5,), (0.0, 0.75)),
        b: tuple[Real, ...] = (2 / 9, 1 / 3, 4 / 9),
        order: Count = 3,
    ) -> None:
        self.tableau = Tableau(tuple(map(tuple, a)), tuple(b), order)

"""A solver that is a table: every weight of every evaluation, free to be learned."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from flowgen.core.estimate import Estimate
from flowgen.core.interfaces import Cond, Flow, Noise, Path, Solver
from flowgen.core.paths import Linear
from flowgen.core.solvers.base import Stateless
from flowgen.core.tree import State, lincomb


@dataclass(frozen=True, eq=False)
class NonStationary(Stateless):
    """y_i = a_i x + sum_{j < i} b_ij v(y_j, t_j), the last y being the result (Shaul et al. 2024, bespoke non-stationary solvers).

    Every explicit solver of the velocity on a fixed grid is such a table, see `of`. Tensors that require gradients make
    it learnable, by `sample(..., gradient=True)`. It goes from its first time to its last in one
    step, so its grid is `grid`.

    Args:
        times: [n + 1], those of the n evaluations and the end.
        a: [n], weights of the initial state in y_1 ... y_n (y_0 is the state itself).
        b: [n, n], lower triangular: row i holds the weights of v_0 ... v_i in y_{i+1}.
    """

    times: Tensor
    a: Tensor
    b: Tensor
    order = 1

    def __post_init__(self) -> None:
        n = len(self.times) - 1
        if n < 1 or self.a.shape != (n,) or self.b.shape != (n, n):
            raise ValueError(
                f"{n + 1} times want a [{n}] and b [{n}, {n}], got {tuple(self.a.shape)} and {tuple(self.b.shape)}"
            )

    @property
    def evaluations(self) -> int:
        return len(self.a)

    @property
    def grid(self) -> Tensor:
        return self.times.detach()[[0, -1]].double()

    def step(
        self, flow: Flow, x: State, t: Tensor, s: Tensor, state: Any, noise: Noise, cond: Cond | None
    ) -> tuple[State, Any]:
        first, last = self.grid.tolist()
        if (float(t), float(s)) != (first, last):
            raise ValueError(
                f"this table leads from t = {first:g} to {last:g} in one step, not from {float(t):g} to {float(s):g}; "
                f"sample on the grid [{first:g}, {last:g}] (one step)"
            )
        y, slopes = x, []
        for i in range(self.evaluations):
            slopes.append(flow(y, self.times[i], cond).velocity)
            y = self.row(i, x, slopes)
        return y, None

    def row(self, i: int, x: State, slopes: Sequence[State]) -> State:
        """y_{i+1}, from the initial state and the velocities v_0 ... v_i."""
        return lincomb((self.a[i], x), *((self.b[i, j], v) for j, v in enumerate(slopes)))

    @classmethod
    def of(cls, solver: Solver, grid: Tensor, path: Path | None = None) -> NonStationary:
        """The table of a solver of the ODE on a grid: what learning starts from.

        Args:
            path: on which a solver of the data (dpm++2m, unipc) reads them from the velocity; linear by default.

        ValueError: the solver is no table on this grid (it draws noise, or reads what is singular there).
        """
        times: list[float] = []
        states: list[Tensor] = []
        # symbolic run: coordinate 0 stands for the initial state, coordinate j + 1 for evaluation j
        size = 1 + len(grid) * 2 * solver.evaluations
        on = path or Linear()

        class Basis:
            path, predicts = on, "velocity"

            def __call__(self, x: Tensor, t: Tensor, cond: Cond | None = None) -> Estimate:
                times.append(float(t))
                states.append(x)
                value = torch.eye(size, dtype=torch.float64)[len(times)][None]
                return Estimate(self.path, x, t, "velocity", value)

        x: Any = torch.eye(size, dtype=torch.float64)[:1]
        basis: Any = Basis()
        state = solver.init(x)
        for t, s in zip(grid[:-1].double(), grid[1:].double(), strict=True):
            x, state = solver.step(basis, x, t, s, state, _no_noise, None)
        rows = torch.cat([*states[1:], x])
        n = len(times)
        return cls(torch.tensor([*times, float(grid[-1])], dtype=torch.float64), rows[:, 0], rows[:, 1 : n + 1])

    def save(self, file: pathlib.Path | str) -> None:
        """Write the table as JSON, for `saved_table`."""
        pathlib.Path(file).write_text(json.dumps({k: getattr(self, k).tolist() for k in ("times", "a", "b")}))


def saved_table(file: str) -> NonStationary:
    """The table in a JSON file with the keys times, a and b. Sample on its grid: one step."""
    try:
        table: dict[str, Sequence[Any]] = json.loads(pathlib.Path(file).read_text())
        return NonStationary(*(torch.tensor(table[k], dtype=torch.float64) for k in ("times", "a", "b")))
    except (OSError, KeyError, TypeError, ValueError, RecursionError, RuntimeError) as error:
        raise ValueError(f"{file} is no table of a solver (JSON with times, a and b): {error}") from error


def _no_noise(x: State, t: Tensor, s: Tensor) -> State:
    raise ValueError("a solver that draws noise is no table")

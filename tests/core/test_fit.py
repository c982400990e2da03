"""A table of a solver, fitted: it is a special case of every fixed solver, and comes nearer at as many evaluations."""

import pytest
import torch

from flowgen.core.estimate import Estimate
from flowgen.core.paths import Linear
from flowgen.core.sampler import sample
from flowgen.core.solvers import AdamsMoulton, DPMSolverPP2M, Euler, EulerMaruyama, NonStationary, UniPC
from flowgen.core.solvers.fit import Batch, distances, fit_table, fixed_tables, increases
from flowgen.core.times import eased_grid, uniform_grid
from flowgen.testing.oracle import GaussianMixture

FLOW = GaussianMixture.random(4, 8, seed=1).flow(Linear())
GRIDS = {"uniform": uniform_grid, "eased": eased_grid}


def batch(seed, n=64):
    x0 = torch.randn(n, 8, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return Batch(FLOW, x0, sample(FLOW, x0, uniform_grid(64), solver="heun"))


@pytest.mark.parametrize("solver", [Euler(), DPMSolverPP2M(), UniPC(), AdamsMoulton()], ids=lambda s: type(s).__name__)
@pytest.mark.parametrize("grid", [uniform_grid(5), uniform_grid(4, 8.0)], ids=["even", "shifted"])
def test_solvers_of_velocity_and_data_are_tables(solver, grid):
    table = NonStationary.of(solver, grid)
    x0 = batch(0, 8).x0
    expected = sample(FLOW, x0, grid, solver=solver)
    torch.testing.assert_close(sample(FLOW, x0, table.grid, solver=table), expected, rtol=1e-9, atol=1e-9)


def test_a_table_takes_streams():
    table, one = NonStationary.of(DPMSolverPP2M(), uniform_grid(3)), batch(0, 4)

    def both(x, t, cond=None):
        said = {name: FLOW(leaf, t).velocity for name, leaf in x.items()}
        return Estimate({"a": Linear(), "b": Linear()}, x, t, "velocity", said)

    y, _ = table.step(both, {"a": one.x0, "b": -one.x0}, *table.grid, None, None, None)
    for name, x0 in (("a", one.x0), ("b", -one.x0)):
        torch.testing.assert_close(y[name], sample(FLOW, x0, uniform_grid(3), solver="dpm++2m"), rtol=1e-9, atol=1e-9)


def test_a_solver_with_noise_is_no_table():
    with pytest.raises(ValueError, match="draws noise is no table"):
        NonStationary.of(EulerMaruyama(), uniform_grid(3))


def test_four_learned_steps_come_twice_as_near_as_the_best_fixed_solver():
    fixed, held_out = fixed_tables(4, GRIDS, Linear()), [batch(1)]
    start = min((n for n in fixed if increases(fixed[n])), key=lambda n: float(distances(fixed[n], held_out).mean()))
    learned = fit_table(fixed[start], [batch(2)], held_out, seconds=20, most_steps=8)
    unseen = [batch(3, 256)]
    best = min(float(distances(table, unseen).mean()) for table in fixed.values())
    assert learned.evaluations == 4
    assert float(distances(learned, unseen).mean()) < 0.5 * best


def test_no_time_leaves_the_start():
    start = NonStationary.of(Euler(), uniform_grid(4))
    assert fit_table(start, [batch(2)], [batch(1)], seconds=0.0) is start

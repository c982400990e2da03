"""Solvers against exact flow maps: one Gaussian in any dimension, a mixture in one."""

import math

import pytest
import torch

from flowgen.core.paths import VE, VP, Cosine, Linear, coefficients
from flowgen.core.sampler import invert, sample
from flowgen.core.solvers import (
    DDIM,
    RK4,
    AdamsBashforth,
    AdamsMoulton,
    DormandPrince,
    DPMSolverPP2M,
    DPMSolverPP3M,
    Euler,
    Heun,
    Midpoint,
    NonStationary,
    Ralston,
    Tableau,
    TableRungeKutta,
    UniPC,
)
from flowgen.core.solvers.table import saved_table
from flowgen.core.times import eased_grid, uniform_grid
from flowgen.testing.oracle import FunctionFlow, GaussianMixture

# smooth enough that the asymptotic regime begins at a few steps
SMOOTH = GaussianMixture(
    torch.tensor([[-0.6], [0.8]], dtype=torch.float64),
    torch.tensor([0.7, 0.5], dtype=torch.float64),
    torch.tensor([0.4, 0.6], dtype=torch.float64),
)
X0 = torch.linspace(-2, 2, 41, dtype=torch.float64)[:, None]
ODE = [Euler(), Midpoint(), Heun(), Ralston(), RK4(), TableRungeKutta(), DDIM(), DPMSolverPP2M(), DPMSolverPP3M()]
ODE += [DPMSolverPP3M(clock="linear"), *(UniPC(order=k, clock=c) for k in (2, 3) for c in ("log-snr", "linear"))]
ODE += [*(AdamsBashforth(order=k) for k in (2, 3, 4)), *(AdamsMoulton(points=k) for k in (1, 2))]


def name(solver):
    return repr(solver) if "object at" not in repr(solver) else type(solver).__name__


def error(solver, path, grid, x=X0):
    exact = SMOOTH.flow_map(path, x, float(grid[0]), float(grid[-1]))
    return float((sample(SMOOTH.flow(path), x, grid, solver=solver) - exact).abs().mean())


@pytest.mark.parametrize("solver", ODE, ids=name)
@pytest.mark.parametrize("path", [Linear(), Cosine()], ids=lambda p: type(p).__name__)
def test_observed_order_is_the_declared_one(solver, path):
    # away from the ends, where log-SNR is infinite and a polynomial in it begins with a step of first order
    steps = [64, 128, 256] if solver.order > 3 else [32, 76, 181]
    grids = [0.1 + 0.8 * uniform_grid(n) for n in steps]
    errors = [error(solver, path, grid) for grid in grids]
    x, y = (torch.tensor([math.log(v) for v in values], dtype=torch.float64) for values in (steps, errors))
    slope = float(((x - x.mean()) * (y - y.mean())).sum() / ((x - x.mean()) ** 2).sum())
    assert -slope == pytest.approx(solver.order, abs=0.2)


def test_three_points_gain_on_two():
    """Of order 3 as two points are, once their first step shows, but with a far smaller error from about 16 steps on."""
    three = AdamsMoulton(points=3)
    many, most = (error(three, Cosine(), 0.1 + 0.8 * uniform_grid(n)) for n in (256, 512))
    assert math.log2(many / most) == pytest.approx(three.order, abs=0.2)
    for path in (Linear(), Cosine()):
        errors = {p: [error(AdamsMoulton(points=p), path, eased_grid(n)) for n in (32, 64, 128)] for p in (2, 3)}
        assert errors[3][1] < 0.7 * errors[2][1]
        assert math.log2(errors[3][0] / errors[3][2]) / 2 > 2.8


@pytest.mark.parametrize("solver", ODE, ids=name)
def test_from_pure_noise_to_clean_data_nothing_is_singular(solver):
    """Both ends in the grid, for every prediction that the solver can take there."""
    coarse, fine = error(solver, Linear(), uniform_grid(16)), error(solver, Linear(), uniform_grid(64))
    assert fine < coarse / 3
    assert fine < 0.02


@pytest.mark.parametrize("solver", ODE, ids=name)
def test_evaluations_are_counted(solver):
    calls = []
    flow = SMOOTH.flow(Linear())

    def counted(x, t, cond=None):
        calls.append(float(t))
        return flow(x, t, cond)

    sample(FunctionFlow(counted, Linear()), X0, 0.1 + 0.8 * uniform_grid(8), solver=solver)
    extra = {DPMSolverPP3M: 1}.get(type(solver), 0)
    if isinstance(solver, AdamsBashforth):
        extra = {2: 0, 3: 1, 4: 4}[solver.order]  # Runge-Kutta steps of order - 1 until there is a history
    assert len(calls) == 8 * solver.evaluations + extra


@pytest.mark.parametrize(
    "solver", [RK4(), AdamsBashforth(order=4), AdamsMoulton(), DormandPrince(1e-9, 1e-9)], ids=name
)
@pytest.mark.parametrize("path", [Linear(), Cosine()], ids=lambda p: type(p).__name__)
def test_inversion_round_trip(mixture, solver, path, g):
    x1, grid = mixture.sample(64, g), uniform_grid(2 if isinstance(solver, DormandPrince) else 300)
    flow = mixture.flow(path)
    noise = invert(flow, x1, grid, solver=solver)
    assert float((sample(flow, noise, grid, solver=solver) - x1).abs().max()) < 1e-4


def test_inversion_lands_on_the_exact_noise():
    grid = uniform_grid(200)
    x1 = SMOOTH.flow_map(Linear(), X0, 0.0, 1.0)
    for solver in (RK4(), DPMSolverPP2M(), UniPC(), DDIM()):
        gap = (invert(SMOOTH.flow(Linear()), x1, grid, solver=solver) - X0).abs().mean()
        assert float(gap) < (1e-6 if isinstance(solver, RK4) else 2e-2)


def test_ddim_is_euler_on_the_linear_path():
    grid = uniform_grid(7)
    a, b = (sample(SMOOTH.flow(Linear()), X0, grid, solver=s) for s in (DDIM(), Euler()))
    torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("solver", [DPMSolverPP2M(), DPMSolverPP3M(), UniPC(), DDIM()], ids=name)
@pytest.mark.parametrize("path", [VP(), VE(sigma_max=5.0)], ids=lambda p: type(p).__name__)
def test_one_gaussian_on_diffusion_paths(solver, path):
    one = GaussianMixture(
        torch.full((1, 3), 0.7, dtype=torch.float64), *torch.tensor([[0.5], [1.0]], dtype=torch.float64)
    )
    x0 = torch.randn(8, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    c = coefficients(path, torch.tensor(0.0, dtype=torch.float64))
    x0 = c.sigma * x0
    got = sample(one.flow(path, "noise"), x0, uniform_grid(400), solver=solver)
    torch.testing.assert_close(got, one.flow_map(path, x0, 0.0, 1.0), rtol=0.02, atol=0.02)


class TestDormandPrince:
    def test_meets_its_tolerance_on_the_exact_map(self):
        for tol in (1e-4, 1e-7, 1e-10):
            gap = error(DormandPrince(tol, tol), Linear(), uniform_grid(1))
            assert gap < 20 * tol

    def test_batch_mates_change_nothing(self, mixture, g):
        x0 = torch.randn(16, 2, generator=g, dtype=torch.float64)
        x0[3:] *= 4.0  # hard batch-mates for the first three
        flow, solver = mixture.flow(Linear()), DormandPrince()
        together = sample(flow, x0, uniform_grid(2), solver=solver)
        for i in range(16):
            alone = sample(flow, x0[i : i + 1], uniform_grid(2), solver=solver)
            assert float((alone[0] - together[i]).abs().max()) == 0.0

    def test_step_sizes_differ_between_samples(self, mixture, g):
        times = []
        flow = mixture.flow(Linear())

        def watched(x, t, cond=None):
            times.append(t.clone())
            return flow(x, t, cond)

        watched = FunctionFlow(watched, Linear())
        sample(watched, torch.randn(8, 2, generator=g, dtype=torch.float64), uniform_grid(1), solver=DormandPrince())
        assert any(len(t.unique()) > 1 for t in times)

    def test_gives_up_with_the_place(self, mixture, g):
        x0 = torch.randn(2, 2, generator=g, dtype=torch.float64)
        with pytest.raises(ValueError, match=r"has only come to t = 0\.\d+ after 3 steps"):
            sample(mixture.flow(Linear()), x0, uniform_grid(1), solver=DormandPrince(1e-12, 1e-12, max_steps=3))


class TestTables:
    @pytest.mark.parametrize("solver", [Euler(), Midpoint(), RK4(), AdamsBashforth(order=3)], ids=name)
    def test_every_velocity_solver_is_a_table(self, solver, tmp_path):
        grid = uniform_grid(6)
        table = NonStationary.of(solver, grid)
        table.save(tmp_path / "table.json")
        expected = sample(SMOOTH.flow(Linear()), X0, grid, solver=solver)
        for t in (table, saved_table(str(tmp_path / "table.json"))):
            got = sample(SMOOTH.flow(Linear()), X0, t.grid, solver=t)
            torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)

    def test_its_coefficients_can_be_learned(self):
        start = NonStationary.of(Midpoint(), uniform_grid(2))
        exact = SMOOTH.flow_map(Linear(), X0, 0.0, 1.0)
        a, b = start.a.clone().requires_grad_(), start.b.clone().requires_grad_()
        optimizer = torch.optim.Adam([a, b], lr=3e-3)
        losses = []
        for _ in range(60):
            table = NonStationary(start.times, a, b.tril())
            y, _ = table.step(SMOOTH.flow(Linear()), X0, *table.grid, None, None, None)
            losses.append((y - exact).square().mean())
            optimizer.zero_grad()
            losses[-1].backward()
            optimizer.step()
        assert losses[-1].item() < 0.3 * losses[0].item()

    def test_runs_on_its_own_grid_only(self):
        with pytest.raises(ValueError, match="in one step, not from"):
            sample(SMOOTH.flow(Linear()), X0, uniform_grid(2), solver=NonStationary.of(Euler(), uniform_grid(2)))

    def test_a_wrong_tableau_is_refused(self):
        with pytest.raises(ValueError, match="not to 1"):
            Tableau(((), (0.5,)), (0.5, 0.4), 2)
        with pytest.raises(ValueError, match="order 1"):
            Tableau(((), (0.5,)), (0.5, 0.5), 2)

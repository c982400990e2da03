"""Likelihood against the exact density of a mixture."""

import math

import pytest
import torch

from flowgen.core.estimate import Estimate
from flowgen.core.likelihood import bits_per_dim, log_prob, rademacher
from flowgen.core.paths import VE, CondOT, Cosine, Linear
from flowgen.core.solvers import RK4, AdamsMoulton, DormandPrince
from flowgen.core.times import uniform_grid
from flowgen.testing.oracle import FunctionFlow, GaussianMixture


@pytest.mark.parametrize("path", [Linear(), CondOT(), Cosine()], ids=lambda p: type(p).__name__)
def test_exact_likelihood(mixture, path, g):
    x1 = mixture.sample(24, g)
    # sigma_min leaves the path's end a little blurred: its density is that of t = 1 on the path
    found = log_prob(mixture.flow(path), x1, uniform_grid(1), solver=DormandPrince(1e-7, 1e-7))
    torch.testing.assert_close(found.log_prob, mixture.log_prob(x1, path, 1.0), rtol=0, atol=1e-4)


@pytest.mark.parametrize(("solver", "steps"), [(RK4(), 60), (AdamsMoulton(), 300)], ids=["rk4", "adams-moulton"])
def test_any_solver_of_velocities(mixture, solver, steps, g):
    x1 = mixture.sample(24, g)
    found = log_prob(mixture.flow(Linear()), x1, uniform_grid(steps), solver=solver)
    torch.testing.assert_close(found.log_prob, mixture.log_prob(x1), rtol=0, atol=1e-4)


def test_under_a_condition(mixture, g):
    cond = mixture.only((0, 2), 24)
    x1 = mixture.sample(24, g, cond["modes"])
    found = log_prob(mixture.flow(Linear()), x1, uniform_grid(60), solver=RK4(), cond=cond)
    torch.testing.assert_close(found.log_prob, mixture.log_prob(x1, modes=cond["modes"]), rtol=0, atol=1e-4)


def test_the_prior_has_the_width_of_the_path():
    one = GaussianMixture(torch.zeros(1, 3, dtype=torch.float64), *torch.tensor([[0.5], [1.0]], dtype=torch.float64))
    x1 = torch.randn(8, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    path = VE(0.001, 100.0)
    found = log_prob(one.flow(path), x1, uniform_grid(1), solver=DormandPrince(1e-7, 1e-7))
    torch.testing.assert_close(found.log_prob, one.log_prob(x1), rtol=0, atol=1e-3)


@pytest.mark.parametrize("shape", [(3,), (4, 2), (2, 3, 2)])
def test_the_exact_trace_takes_any_shape(shape, g):
    target = GaussianMixture.random(3, *shape, spread=0.7, seed=1)
    x1 = target.sample(5, g)
    found = log_prob(target.flow(Linear()), x1, uniform_grid(40), solver=RK4())
    torch.testing.assert_close(found.log_prob, target.log_prob(x1), rtol=0, atol=1e-4)


def test_streams_add_up():
    a, b = GaussianMixture.random(2, 3, seed=1), GaussianMixture.random(3, 2, seed=2)
    g = torch.Generator().manual_seed(0)
    x1 = {"a": a.sample(6, g), "b": b.sample(6, g)}
    paths = {"a": Linear(), "b": Cosine()}

    def flow(x, t, cond=None):
        value = {k: m.flow(paths[k])(x[k], t).value for k, m in (("a", a), ("b", b))}
        return Estimate(paths, x, t, "velocity", value)

    found = log_prob(FunctionFlow(flow, paths), x1, uniform_grid(60), solver=RK4())
    torch.testing.assert_close(found.log_prob, a.log_prob(x1["a"]) + b.log_prob(x1["b"]), rtol=0, atol=2e-4)


def test_hutchinson_is_unbiased(mixture, g):
    """One probe for the whole solve: its mean over probes is the exact value, and its error shrinks as 1/sqrt(n)."""
    n, x1 = 4000, mixture.sample(1, g)
    many = x1.repeat(n, 1)
    found = log_prob(mixture.flow(Linear()), many, uniform_grid(16), solver=RK4(), probe=rademacher(many, 7)).log_prob
    exact = log_prob(mixture.flow(Linear()), x1, uniform_grid(16), solver=RK4()).log_prob
    assert float(found.std()) > 1e-3  # else the next line proves nothing
    assert abs(float(found.mean() - exact)) < 4 * float(found.std()) / math.sqrt(n)


def test_one_probe_a_solve_keeps_the_field_smooth(mixture, g):
    """A probe that changes from call to call makes the field rough: the adaptive solver takes many more evaluations."""
    x1 = mixture.sample(4, g)

    class Changing:
        """Looks like a probe; new signs whenever it is read."""

        def to(self, dtype):
            return torch.randint(0, 2, (4, 2), generator=g).to(dtype) * 2 - 1

    def evaluations(probe):
        calls, flow = [], mixture.flow(Linear())

        def counted(x, t, cond=None):
            calls.append(t)
            return flow(x, t, cond)

        log_prob(FunctionFlow(counted, Linear()), x1, uniform_grid(1), probe=probe, solver=DormandPrince(1e-3, 1e-3))
        return len(calls)

    exact, once = evaluations(None), evaluations(rademacher(x1, 1))
    assert once < 1.5 * exact
    assert evaluations(Changing()) > 3 * once


def test_probes_are_signs_by_seed_and_row():
    a, b = rademacher(torch.zeros(8, 5), 1), rademacher(torch.zeros(12, 5), 1)
    assert torch.equal(a, b[:8])
    assert set(a.unique().tolist()) == {-1.0, 1.0}
    assert not torch.equal(a, rademacher(torch.zeros(8, 5), 2))


def test_gradients_by_the_data_are_the_score(mixture, g):
    x1 = mixture.sample(6, g).requires_grad_()
    found = log_prob(mixture.flow(Linear()), x1, uniform_grid(60), solver=RK4(), gradient=True)
    score = torch.autograd.grad(found.log_prob.sum(), x1)[0]
    y = x1.detach().requires_grad_()
    expected = torch.autograd.grad(mixture.log_prob(y).sum(), y)[0]
    torch.testing.assert_close(score, expected, rtol=1e-3, atol=1e-3)
    assert not log_prob(mixture.flow(Linear()), x1, uniform_grid(4), solver=RK4()).log_prob.requires_grad


@pytest.mark.parametrize("probe", [False, True])
def test_gradients_by_the_weights(probe, g):
    """Against finite differences of the same estimate."""
    x1 = torch.randn(3, 2, generator=g, dtype=torch.float64)
    w = torch.tensor([[0.3, -0.2], [0.5, 0.1]], dtype=torch.float64)

    def total(w):
        def flow(x, t, cond=None):
            return Estimate(Linear(), x, t, "velocity", torch.tanh(x @ w + t) @ w.T)

        signs = rademacher(x1, 3) if probe else None
        wrapped = FunctionFlow(flow, Linear())
        return log_prob(wrapped, x1, uniform_grid(5), solver=RK4(), probe=signs, gradient=True).log_prob.sum()

    leaf = w.clone().requires_grad_()
    got = torch.autograd.grad(total(leaf), leaf)[0]
    for i in range(2):
        for j in range(2):
            step = torch.zeros_like(w)
            step[i, j] = 1e-5
            expected = (total(w + step) - total(w - step)).item() / 2e-5
            assert float(got[i, j]) == pytest.approx(expected, rel=1e-5, abs=1e-6)


def test_bits_per_dimension_of_uniform_bytes():
    """Bytes of no structure cost 8 bits each: u/127.5 - 1 is uniform on [-1, 1.0078], whose log-density is -log(256/127.5)."""
    d = 12
    assert float(bits_per_dim(torch.tensor(-d * math.log(256 / 127.5)), d)) == pytest.approx(8.0)


@pytest.mark.parametrize("solver", [RK4(), DormandPrince(1e-3, 1e-3)], ids=["rk4", "dormand-prince"])
def test_what_has_no_velocity_at_the_data_is_refused_before_anything_is_computed(mixture, solver):
    def untouched(x, t, cond=None):
        raise AssertionError("the flow was asked")

    flow = FunctionFlow(untouched, Linear(), "data")
    with pytest.raises(ValueError, match=r"data prediction cannot be read as velocity at t = 1.*end the grid before"):
        log_prob(flow, torch.zeros(2, 2), uniform_grid(4), solver=solver)


def test_noised_data_give_a_bound_that_tightens_towards_the_data(mixture, g):
    x1 = mixture.sample(256, g)
    exact = float(mixture.log_prob(x1).mean())
    gaps = []
    for end in (0.8, 0.95, 0.99):
        grid, noise = torch.tensor([0.0, end], dtype=torch.float64), torch.randn(x1.shape, generator=g, dtype=x1.dtype)
        gaps.append(exact - float(log_prob(mixture.flow(Linear(), "data"), x1, grid, noise=noise).log_prob.mean()))
    assert gaps[0] > gaps[1] > gaps[2] > -0.05, gaps
    assert gaps[2] < 0.1 * gaps[0]


def test_a_source_of_ones_own(mixture, g):
    """Data that a flow of velocity 0.3 carries from a mixture have the mixture's density, moved."""
    x1 = mixture.sample(16, g)
    flow = FunctionFlow(lambda x, t, cond=None: Estimate(Linear(), x, t, "velocity", torch.full_like(x, 0.3)), Linear())
    found = log_prob(flow, x1, 4, solver="rk4", log_p0=mixture.log_prob).log_prob
    torch.testing.assert_close(found, mixture.log_prob(x1 - 0.3))
    with pytest.raises(ValueError, match=r"log_p0 gave \[16, 2\] for 16 samples; expected \[16\]"):
        log_prob(flow, x1, 4, solver="rk4", log_p0=lambda x: x)


@pytest.mark.parametrize("solver", ["rk4", "dopri5"])
def test_of_an_empty_batch_there_are_no_likelihoods(mixture, solver):
    none = torch.zeros(0, 2, dtype=torch.float64)
    for probe in (None, none):
        assert log_prob(mixture.flow(Linear()), none, 4, solver=solver, probe=probe).log_prob.shape == (0,)

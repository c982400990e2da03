"""Stochastic solvers: marginals against the exact distribution function of a 1-D mixture, with controls that must fail."""

import itertools
import math

import pytest
import torch

from flowgen.core.paths import VE, VP, Cosine, Linear
from flowgen.core.sampler import prior, sample
from flowgen.core.solvers import (
    DDIM,
    Ancestral,
    DPMSolverPP2M,
    DPMSolverPPSDE,
    EDMChurn,
    Euler,
    EulerMaruyama,
    Heun,
    HeunSDE,
    Langevin,
)
from flowgen.core.times import uniform_grid
from flowgen.testing.oracle import GaussianMixture

TARGET = GaussianMixture(
    torch.tensor([[-1.0], [0.8]], dtype=torch.float64),
    torch.tensor([0.4, 0.3], dtype=torch.float64),
    torch.tensor([0.4, 0.6], dtype=torch.float64),
)
N = 5_000
LIMIT = 1.95 / math.sqrt(N)  # Kolmogorov-Smirnov at about 1 in 1000


def distance(x):
    """Kolmogorov-Smirnov distance of samples from the target."""
    y = x[:, 0].sort().values
    z = (y[:, None] - TARGET.means[:, 0]) / TARGET.stds
    cdf = (TARGET.weights * torch.special.ndtr(z)).sum(1)
    steps = torch.arange(len(y) + 1, dtype=torch.float64) / len(y)
    return float(torch.maximum(steps[1:] - cdf, cdf - steps[:-1]).max())


def run(solver, path, steps=100, flow=None, seed=0):
    g = torch.Generator().manual_seed(seed)
    x0 = prior(path, torch.randn(N, 1, generator=g, dtype=torch.float64))

    def noise(x, t, s):
        return torch.randn(x.shape, generator=g, dtype=x.dtype)

    return sample(flow or TARGET.flow(path), x0, uniform_grid(steps), solver=solver, noise=noise)


@pytest.mark.parametrize(
    ("solver", "path", "steps"),
    [
        (EulerMaruyama(0.0), Linear(), 200),
        (EulerMaruyama(0.5), Linear(), 200),
        (EulerMaruyama(2.0), Linear(), 400),
        (EulerMaruyama(1.0), Cosine(), 300),
        (HeunSDE(0.5), Linear(), 40),
        (HeunSDE(2.0), Linear(), 60),
        (HeunSDE(1.0), Cosine(), 60),
        (Ancestral(), Linear(), 200),
        (Ancestral(0.5), Cosine(), 200),
        (DPMSolverPPSDE(), Linear(), 100),
        (DPMSolverPPSDE(0.5), Cosine(), 100),
        (DPMSolverPPSDE(), VP(), 100),
        (Langevin(rate=0.2), Linear(), 200),
        (EDMChurn(10.0), Linear(), 40),
        (EDMChurn(40.0, start=0.2, end=0.9), Cosine(), 60),
    ],
    ids=repr,
)
def test_marginal_is_the_target(solver, path, steps):
    assert distance(run(solver, path, steps)) < LIMIT


def test_marginal_on_ve():
    path = VE(sigma_min=0.01, sigma_max=10.0)
    assert distance(run(Ancestral(), path, 300)) < LIMIT
    assert distance(run(EDMChurn(10.0), path, 60)) < LIMIT
    # Langevin alone lags behind the level it is at: the more, the fewer corrections
    assert distance(run(Langevin(predictor=False, corrections=8), path, 100)) < 2 * LIMIT
    assert distance(run(Langevin(predictor=False, corrections=1), path, 30)) > 4 * LIMIT


def test_noise_without_its_drift_fails():
    """Negative control: sqrt(2 w) dW without w score does not keep the marginals, and this test sees it."""

    class Forgetful(EulerMaruyama):
        def step(self, flow, x, t, s, state, noise, cond):
            kept, _ = EulerMaruyama(0.0).step(flow, x, t, s, state, noise, cond)
            noisy, _ = super().step(flow, x, t, s, state, noise, cond)
            clean, _ = super().step(flow, x, t, s, state, lambda x, t, s: torch.zeros_like(x), cond)
            return kept + noisy - clean, None

    assert distance(run(EulerMaruyama(1.0), Linear(), 300)) < LIMIT
    assert distance(run(Forgetful(1.0), Linear(), 300)) > 4 * LIMIT


def test_the_wrong_target_fails():
    """Negative control: weights off by 0.1 are seen."""
    other = GaussianMixture(TARGET.means, TARGET.stds, torch.tensor([0.5, 0.5], dtype=torch.float64))
    assert distance(run(HeunSDE(), Linear(), 40, flow=other.flow(Linear()))) > 2 * LIMIT


@pytest.mark.parametrize(
    ("solver", "order"),
    [(EulerMaruyama(1.0), 1), (HeunSDE(1.0), 2), (EDMChurn(0.0), 2), (EDMChurn(5.0), 2)],
    ids=["euler-maruyama", "heun", "edm without churn", "edm"],
)
def test_weak_order_on_a_gaussian(solver, order):
    """For a linear drift the variance follows from propagating 0 and 1 through the noiseless step: no sampling error."""
    one = GaussianMixture(torch.zeros(1, 1, dtype=torch.float64), *torch.tensor([[0.5], [1.0]], dtype=torch.float64))
    flow = one.flow(Linear())

    def variance(steps):
        grid = 0.1 + 0.8 * uniform_grid(steps)
        var = float(0.1**2 * 0.25 + 0.9**2)
        for t, s in itertools.pairwise(grid):

            def with_noise(z, t=t, s=s):
                x = torch.tensor([[0.0], [1.0]], dtype=torch.float64)
                return solver.step(flow, x, t, s, None, lambda x, t, s: torch.full_like(x, z), None)[0]

            gain = float(with_noise(0.0)[1] - with_noise(0.0)[0])
            kick = float(with_noise(1.0)[0] - with_noise(0.0)[0])
            var = gain**2 * var + kick**2
        return var

    exact = 0.9**2 * 0.25 + 0.1**2
    errors = [abs(variance(n) - exact) for n in (64, 128, 256)]
    for coarse, fine in itertools.pairwise(errors):
        assert math.log2(coarse / fine) == pytest.approx(order, abs=0.2)


def test_limits_agree():
    x = {
        s: run(solver, Linear(), 30)
        for s, solver in {"em": EulerMaruyama(0.0), "euler": Euler(), "ddim": DDIM()}.items()
    }
    torch.testing.assert_close(x["em"], x["euler"])
    torch.testing.assert_close(x["ddim"], x["euler"], rtol=1e-9, atol=1e-9)
    assert torch.equal(run(EDMChurn(0.0), Linear(), 10), run(Heun(), Linear(), 10))
    torch.testing.assert_close(run(DPMSolverPPSDE(0.0), VP(), 30), run(DPMSolverPP2M(), VP(), 30), rtol=1e-9, atol=1e-9)


def test_churn_is_karras_algorithm_2_on_ve():
    """One step written out in the paper's own terms: sigma_hat = sigma + gamma sigma, then Heun in sigma."""
    path = VE(sigma_min=0.1, sigma_max=10.0)
    t, s = torch.tensor([0.5, 0.505], dtype=torch.float64)
    x, z = (torch.randn(8, 1, generator=torch.Generator().manual_seed(i), dtype=torch.float64) for i in (0, 1))
    flow, churn, scale = TARGET.flow(path), 20.0, 1.1
    made, _ = EDMChurn(churn, noise_scale=scale).step(flow, x, t, s, None, lambda x, t, s: z, None)

    sigma, after = float(path(t).sigma), float(path(s).sigma)
    hat = sigma * (1 + churn * 0.005)
    x_hat = x + math.sqrt(hat**2 - sigma**2) * scale * z

    def slope(x, sigma):  # d_i = (x - D(x; sigma)) / sigma
        at = path.time_of_snr(torch.tensor(1 / sigma, dtype=torch.float64))
        return (x - flow(x, at).data) / sigma

    # Heun in t is Heun in sigma up to the third order of the step
    euler = x_hat + (after - hat) * slope(x_hat, hat)
    exact = x_hat + (after - hat) / 2 * (slope(x_hat, hat) + slope(euler, after))
    torch.testing.assert_close(made, exact, rtol=0, atol=2e-3)
    still, _ = EDMChurn(0.0).step(flow, x, t, s, None, None, None)
    assert float((made - still).abs().mean()) > 0.2


def test_ancestral_on_vp_is_the_ddpm_posterior():
    """eta = 1 has the variance of q(x_s | x_t, x1) (Ho et al. 2020, eq. 7), in this time."""
    path, t, s = VP(), torch.tensor(0.5, dtype=torch.float64), torch.tensor(0.51, dtype=torch.float64)
    a, b = path(t), path(s)
    beta = 1 - (a.alpha / b.alpha) ** 2
    expected = torch.sqrt(beta * b.sigma**2 / a.sigma**2)
    x = torch.zeros(1, 1, dtype=torch.float64)
    flow = TARGET.flow(path, "noise")
    clean, noisy = (
        Ancestral().step(flow, x, t, s, None, lambda x, t, s, z=z: torch.full_like(x, z), None)[0] for z in (0.0, 1.0)
    )
    torch.testing.assert_close((noisy - clean)[0, 0], expected, rtol=1e-10, atol=0)


def test_every_draw_of_a_step_has_a_name_of_its_own():
    names = []

    def noise(x, t, s):
        names.append((float(t), float(s)))
        return torch.zeros_like(x)

    for solver in (EulerMaruyama(), HeunSDE(), Ancestral(), DPMSolverPPSDE(), Langevin(), EDMChurn()):
        names.clear()
        sample(
            TARGET.flow(Linear()), torch.zeros(2, 1, dtype=torch.float64), uniform_grid(5), solver=solver, noise=noise
        )
        assert len(names) >= 4
        assert len(set(names)) == len(names)


@pytest.mark.parametrize(
    "build",
    [
        lambda: EulerMaruyama(-1.0),
        lambda: HeunSDE(-1.0),
        lambda: Ancestral(1.5),
        lambda: Langevin(0),
        lambda: Langevin(rate=0),
        lambda: EDMChurn(-1.0),
        lambda: EDMChurn(start=0.5, end=0.5),
    ],
)
def test_impossible_options_are_refused(build):
    with pytest.raises(ValueError, match="got"):
        build()

"""Gradients through sampling and likelihoods: right where a derivative exists, finite where an error norm is zero."""

import math

import pytest
import torch

from flowgen.core.estimate import Estimate
from flowgen.core.flow import NetworkFlow
from flowgen.core.guidance import APG, CFGRescale, CFGZeroStar
from flowgen.core.likelihood import log_prob, rademacher
from flowgen.core.paths import Cosine, Linear
from flowgen.core.sampler import invert, sample
from flowgen.core.solvers import DDIM, NAMED, RK4, AdamsBashforth, DormandPrince, DPMSolverPP2M, Heun, UniPC
from flowgen.core.times import uniform_grid
from flowgen.testing.oracle import FunctionFlow, GaussianMixture

ONE = GaussianMixture(
    torch.tensor([[0.7, -0.3]], dtype=torch.float64), *torch.tensor([[0.5], [1.0]], dtype=torch.float64)
)
DETERMINISTIC = [
    k
    for k in NAMED
    if k not in ("euler-maruyama", "heun-sde", "edm-churn", "ancestral", "dpm++sde", "langevin", "flow-map")
]


@pytest.mark.parametrize("probe", [False, True], ids=["exact", "hutchinson"])
@pytest.mark.parametrize("field", ["constant", "parameter", "linear"])
def test_log_prob_has_gradients_where_the_error_of_a_step_is_zero(field, probe):
    """The adaptive solver's error norm is 0 for a constant field, and a row of zeros stays there under a linear one."""
    w = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    x1 = torch.tensor([[0.0, 0.0], [1.0, -2.0]], dtype=torch.float64, requires_grad=True)

    def flow(x, t, cond=None):
        value = {"constant": torch.ones_like(x), "parameter": w.expand_as(x), "linear": w * x}[field]
        return Estimate(Linear(), x, t, "velocity", value)

    signs = rademacher(x1, 1) if probe else None
    found = log_prob(FunctionFlow(flow, Linear()), x1, uniform_grid(1), probe=signs, gradient=True).log_prob
    by_x, by_w = torch.autograd.grad(found.sum(), (x1, w), allow_unused=True)
    with torch.no_grad():
        shrunk = math.exp(-0.5)
        if field == "linear":  # x0 = x1 exp(-w), log p = log N(x0) - 2 w
            expected, of_w = -x1 * shrunk**2, ((x1 * shrunk) ** 2).sum() - 2 * len(x1)
        else:
            move = 1.0 if field == "constant" else 0.5
            expected, of_w = -(x1 - move), (x1 - move).sum()
    torch.testing.assert_close(by_x, expected, rtol=1e-4, atol=1e-4)
    if field != "constant":
        torch.testing.assert_close(by_w, of_w, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", DETERMINISTIC)
def test_gradients_through_sample_are_those_of_the_exact_map(name):
    """dX/dx and dX/dm of one Gaussian are constants: sqrt(V_1/V_0) = s, and 1 along the mean at t = 1."""
    mean = ONE.means.clone().requires_grad_()
    x = torch.zeros(3, 2, dtype=torch.float64, requires_grad=True)
    target = GaussianMixture(mean, ONE.stds, ONE.weights)
    out = sample(target.flow(Linear()), x, 64, solver=name, gradient=True)
    by_x, by_mean = torch.autograd.grad(out.sum(), (x, mean))
    torch.testing.assert_close(by_x, torch.full_like(by_x, 0.5), rtol=0.05, atol=0)
    torch.testing.assert_close(by_mean, torch.full_like(by_mean, 3.0), rtol=0.05, atol=0)
    assert not sample(target.flow(Linear()), x, 2, solver=name).requires_grad


def test_gradients_by_conditions_and_through_inversion():
    shift = torch.tensor([[0.3], [0.1]], requires_grad=True)
    flow = NetworkFlow(lambda x, t, cond: cond["shift"].expand_as(x), Linear())
    x = torch.zeros(2, 3)
    for run, sign in ((sample, 1.0), (invert, -1.0)):
        out = run(flow, x, 5, cond={"shift": shift}, gradient=True)
        torch.testing.assert_close(torch.autograd.grad(out.sum(), shift)[0], torch.full((2, 1), 3 * sign))


def test_gradients_by_a_single_time():
    t = torch.tensor(0.3, requires_grad=True)
    flow = NetworkFlow(lambda x, t, cond: x * t[:, None], Linear())
    x = torch.full((2, 3), 2.0)
    assert torch.autograd.grad(flow(x, t).velocity.sum(), t)[0] == 12.0
    # the data estimate x + (1 - t) v by t, through the coefficients, too
    got = torch.autograd.grad(flow(x, t).data.sum(), t)[0]
    torch.testing.assert_close(got, torch.tensor(12 * (1 - 2 * 0.3)))


@pytest.mark.parametrize("solver", [Heun(), RK4(), DormandPrince(1e-9, 1e-9)], ids=repr)
def test_gradients_by_the_ends_of_the_grid_are_the_velocity(solver):
    """dX/ds = v(X, s)."""
    ends = torch.tensor([0.2, 0.9], dtype=torch.float64, requires_grad=True)
    share = torch.linspace(0, 1, 21, dtype=torch.float64)
    flow, x = ONE.flow(Cosine()), torch.tensor([[0.5, -1.0]], dtype=torch.float64)
    out = sample(flow, x, ends[0] + share * (ends[1] - ends[0]), solver=solver, gradient=True)
    got = torch.autograd.grad(out[0, 0], ends)[0][1]
    torch.testing.assert_close(got, flow(out.detach(), ends[1].detach()).velocity[0, 0], rtol=1e-2, atol=0)


@pytest.mark.parametrize("solver", [DDIM(), DPMSolverPP2M(), UniPC(), AdamsBashforth()], ids=lambda s: type(s).__name__)
def test_a_solver_that_would_lose_gradients_by_its_times_says_so(solver):
    grid = uniform_grid(4).requires_grad_()
    with pytest.raises(ValueError, match="not differentiable by its times"):
        sample(ONE.flow(Linear()), torch.zeros(1, 2, dtype=torch.float64), grid, solver=solver, gradient=True)


@pytest.mark.parametrize("rule", [APG(2.0, norm=0.5), APG(2.0), CFGRescale(2.0), CFGZeroStar(2.0)], ids=repr)
def test_guidance_of_zeros_has_values_and_gradients(rule):
    w = torch.tensor(0.0, requires_grad=True)
    flow = NetworkFlow(lambda x, t, cond: w * x * cond["k"], Linear())
    x = torch.stack([torch.zeros(2), torch.ones(2)]).requires_grad_()
    k = torch.ones(2, 1)
    value = rule(flow, {"k": torch.zeros(2, 1)})(x, torch.tensor(0.5), {"k": k}).velocity
    assert value.isfinite().all()
    by_x, by_w = torch.autograd.grad(value.sum(), (x, w))
    assert by_x.isfinite().all()
    assert by_w.isfinite()

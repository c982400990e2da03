"""Guidance against exact guided fields: a condition of the mixture is a subset of its modes."""

import math
from dataclasses import replace

import pytest
import torch

from flowgen.core.estimate import Estimate
from flowgen.core.flow import NetworkFlow
from flowgen.core.guidance import APG, CFG, AutoGuidance, CFGRescale, CFGZeroStar, MultiCFG
from flowgen.core.paths import Cosine, Linear
from flowgen.core.sampler import sample, with_breaks
from flowgen.core.solvers import RK4, AdamsBashforth, DormandPrince, DPMSolverPP2M, Euler, Heun
from flowgen.core.times import uniform_grid
from flowgen.testing.oracle import FunctionFlow, GaussianMixture

B = 16
PREDICTIONS = ["velocity", "data", "noise", "score", "v"]
RULES = [
    CFG(3.0),
    MultiCFG({"modes": 3.0}),
    CFGZeroStar(3.0),
    CFGRescale(3.0),
    APG(3.0),
    APG(3.0, norm=0.3, parallel=0.5),
]


@pytest.fixture
def x(g):
    return torch.randn(B, 2, generator=g, dtype=torch.float64)


def at(t):
    return torch.tensor(t, dtype=torch.float64)


@pytest.mark.parametrize("predicts", PREDICTIONS)
@pytest.mark.parametrize("path", [Linear(), Cosine()], ids=lambda p: type(p).__name__)
def test_cfg_is_the_score_of_the_sharpened_density(mixture, path, predicts, x):
    """grad log p(x)^(1-w) p(x|c)^w, by differentiating the exact densities: no flow of ours enters the expected value."""
    cond, null, w, t = mixture.only((0, 2), B), mixture.null(B), 2.5, 0.6
    y = x.clone().requires_grad_()
    log = w * mixture.log_prob(y, path, t, cond["modes"]) + (1 - w) * mixture.log_prob(y, path, t)
    expected = torch.autograd.grad(log.sum(), y)[0]
    got = CFG(w)(mixture.flow(path, predicts), null)(x, at(t), cond)
    torch.testing.assert_close(got.score, expected, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("rule", RULES, ids=repr)
def test_guidance_is_off_outside_of_its_interval(mixture, rule, x):
    rule = replace(rule, start=0.3, end=0.7)
    cond, plain = mixture.only(1, B), mixture.flow(Linear())
    guided = rule(plain, mixture.null(B))
    for t in (0.29, 0.71):
        torch.testing.assert_close(guided(x, at(t), cond).velocity, plain(x, at(t), cond).velocity)
    assert not torch.allclose(guided(x, at(0.5), cond).velocity, plain(x, at(0.5), cond).velocity, atol=1e-3)
    # one time for each sample: each is judged on its own
    times = torch.linspace(0.05, 0.95, B, dtype=torch.float64)
    together = guided(x, times, cond).velocity
    for i in range(B):
        alone = rule(plain, mixture.null(1))(x[i : i + 1], times[i], mixture.only(1, 1)).velocity
        torch.testing.assert_close(together[i : i + 1], alone, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    "rule", [CFG(1.0), MultiCFG({"modes": 1.0}), CFGZeroStar(1.0), CFGRescale(1.0), APG(1.0)], ids=repr
)
def test_scale_one_is_the_plain_flow(mixture, rule, x):
    cond, plain = mixture.only(1, B), mixture.flow(Linear())
    guided = rule(plain, mixture.null(B))
    torch.testing.assert_close(guided(x, at(0.5), cond).velocity, plain(x, at(0.5), cond).velocity)


@pytest.mark.parametrize("rule", RULES, ids=repr)
def test_the_result_is_the_same_whatever_the_network_predicts(mixture, rule, x):
    cond, null = mixture.only(1, B), mixture.null(B)
    got = [rule(mixture.flow(Linear(), p), null)(x, at(0.6), cond).velocity for p in PREDICTIONS]
    for other in got[1:]:
        torch.testing.assert_close(other, got[0], rtol=1e-7, atol=1e-7)


def test_the_space_matters_where_it_is_declared(mixture, x):
    cond, null, plain = mixture.only(1, B), mixture.null(B), mixture.flow(Linear())
    for rule in (lambda s: APG(4.0, space=s), lambda s: CFGRescale(4.0, space=s)):
        data, velocity = (rule(s)(plain, null)(x, at(0.6), cond).velocity for s in ("data", "velocity"))
        assert float((data - velocity).norm() / data.norm()) > 0.05


def test_negative_prompts_lead_away_from_what_is_given(mixture, x):
    cond, negative = mixture.only(0, B), mixture.only(1, B)
    plain = mixture.flow(Linear())
    got = CFG(2.0)(plain, negative)(x, at(0.5), cond).velocity
    expected = 2 * plain(x, at(0.5), cond).velocity - plain(x, at(0.5), negative).velocity
    torch.testing.assert_close(got, expected)


class TwoConditions:
    """A network with two conditions, each a subset of the modes; together their intersection."""

    def __init__(self, mixture):
        self.mixture, self.path, self.predicts = mixture, Linear(), "velocity"

    def __call__(self, x, t, cond=None):
        return self.mixture.flow(Linear())(x, t, {"modes": cond["a"] & cond["b"]})


def test_a_scale_for_each_condition(mixture, x):
    a, b = (mixture.only(k, B)["modes"] for k in ((0, 1), (1, 2)))
    everything = mixture.null(B)["modes"]
    flow, t = TwoConditions(mixture), at(0.6)
    got = MultiCFG({"a": 2.0, "b": 3.0})(flow, {"a": everything, "b": everything})(x, t, {"a": a, "b": b})
    y = x.clone().requires_grad_()
    none, first, both = (mixture.log_prob(y, Linear(), 0.6, m) for m in (everything, a, a & b))
    log = none + 2.0 * (first - none) + 3.0 * (both - first)
    torch.testing.assert_close(got.score, torch.autograd.grad(log.sum(), y)[0], rtol=1e-8, atol=1e-8)
    # a condition without a scale is given throughout
    half = MultiCFG({"b": 3.0})(flow, {"a": everything, "b": everything})(x, t, {"a": a, "b": b})
    y = x.clone().requires_grad_()
    first, both = (mixture.log_prob(y, Linear(), 0.6, m) for m in (a, a & b))
    torch.testing.assert_close(
        half.score, torch.autograd.grad((first + 3.0 * (both - first)).sum(), y)[0], rtol=1e-8, atol=1e-8
    )
    with pytest.raises(ValueError, match="no null value for c"):
        MultiCFG({"c": 2.0})(flow, {"a": everything})


def test_cfg_zero_star_fits_the_unconditional_velocity(mixture, x):
    cond, null, plain, t = mixture.only(1, B), mixture.null(B), mixture.flow(Linear()), at(0.4)
    c, u = plain(x, t, cond).velocity, plain(x, t, null).velocity
    got = CFGZeroStar(3.0)(plain, null)(x, t, cond).velocity
    s = torch.linalg.lstsq(u[:, :, None], c[:, :, None]).solution[:, 0]
    torch.testing.assert_close(got, -2.0 * s * u + 3.0 * c)
    still = CFGZeroStar(3.0, zero_until=0.5)(plain, null)(x, t, cond).velocity
    assert float(still.abs().max()) == 0.0


def test_rescaling_gives_back_the_spread(mixture, x):
    cond, null, plain, t = mixture.only(1, B), mixture.null(B), mixture.flow(Linear()), at(0.4)
    guided = CFGRescale(5.0, rescale=1.0)(plain, null)(x, t, cond)
    torch.testing.assert_close(guided.data.std(1), plain(x, t, cond).data.std(1))


def test_projected_guidance_does_not_push_along_the_estimate(mixture, x):
    cond, null, plain, t = mixture.only(1, B), mixture.null(B), mixture.flow(Linear()), at(0.4)
    c, u = plain(x, t, cond).data, plain(x, t, null).data
    push = APG(4.0)(plain, null)(x, t, cond).data - c
    assert float((push * c).sum(1).abs().max()) < 1e-9
    full = APG(4.0, parallel=1.0)(plain, null)(x, t, cond).data
    torch.testing.assert_close(full, c + 3.0 * (c - u))  # with its parallel part it is CFG
    short = APG(4.0, parallel=1.0, norm=0.01)(plain, null)(x, t, cond).data - c
    torch.testing.assert_close(short.norm(dim=1), torch.full((B,), 0.03, dtype=torch.float64))


def test_autoguidance_leads_away_from_the_weaker_flow(mixture, x):
    weak = GaussianMixture(mixture.means, 1.5 * mixture.stds, mixture.weights)
    t = at(0.6)
    got = AutoGuidance(weak.flow(Linear(), "data"), 2.0)(mixture.flow(Linear()), {})(x, t).score
    expected = 2 * mixture.flow(Linear(), "score")(x, t).value - weak.flow(Linear(), "score")(x, t).value
    torch.testing.assert_close(got, expected, rtol=1e-8, atol=1e-8)
    with pytest.raises(ValueError, match="OnPath"):
        AutoGuidance(weak.flow(Cosine()))(mixture.flow(Linear()), {})


def test_guidance_chains(mixture, x):
    weak = GaussianMixture(mixture.means, 1.5 * mixture.stds, mixture.weights)
    cond, null, t = mixture.only(1, B), mixture.null(B), at(0.6)
    inner = AutoGuidance(weak.flow(Linear()), 2.0)(mixture.flow(Linear()), null)
    got = CFG(3.0)(inner, null)(x, t, cond).velocity
    c, u = (inner(x, t, k).velocity for k in (cond, null))
    torch.testing.assert_close(got, 3 * c - 2 * u)
    assert (CFG(3.0)(inner, null).path, CFG(3.0)(inner, null).predicts) == (Linear(), "velocity")


def test_two_guidances_that_double_the_batch_chain(mixture, x):
    cond, null, t = mixture.only(1, B), mixture.null(B), at(0.6)
    inner = CFG(2.0)(mixture.flow(Linear()), null)
    got = CFG(3.0)(inner, null)(x, t, cond).velocity
    c, u = (mixture.flow(Linear())(x, t, k).velocity for k in (cond, null))
    # the inner guidance has nothing to push where the condition is null
    torch.testing.assert_close(got, 3 * (2 * c - u) - 2 * u)


def test_guided_samples_reach_the_asked_modes(mixture, g):
    x0 = torch.randn(256, 2, generator=g, dtype=torch.float64)
    guided = CFG(2.0)(mixture.flow(Linear()), mixture.null(256))
    for solver, grid in (
        (Heun(), uniform_grid(64)),
        (DPMSolverPP2M(), uniform_grid(64)),
        (DormandPrince(), uniform_grid(1)),
    ):
        x = sample(guided, x0, grid, solver=solver, cond=mixture.only(0, 256))
        distance = (x[:, None] - mixture.means).norm(dim=-1) / mixture.stds
        assert float((distance.argmin(1) == 0).double().mean()) > 0.97


@pytest.mark.parametrize("solver", [Heun(), RK4()])
def test_a_guidance_in_data_space_goes_with_a_solver_that_evaluates_at_the_data(mixture, g, solver):
    guided = CFGRescale(2.0, start=0.0)(mixture.flow(Linear()), mixture.null(64))
    x0, cond = torch.randn(64, 2, generator=g, dtype=torch.float64), mixture.only(0, 64)
    found = {n: sample(guided, x0, uniform_grid(n), solver=solver, cond=cond) for n in (16, 32)}
    exact = sample(guided, x0, uniform_grid(500), solver=DPMSolverPP2M(), cond=cond)
    error = {n: float((x - exact).norm(dim=1).median()) for n, x in found.items()}
    assert error[32] < 0.6 * error[16] < 0.05


def test_a_rule_whose_space_is_singular_on_the_grid_is_refused(mixture):
    flow = CFGRescale(2.0)(mixture.flow(Linear()), mixture.null(2))
    x0, cond = torch.zeros(2, 2, dtype=torch.float64), mixture.only(0, 2)
    with pytest.raises(ValueError, match=r"DormandPrince.*data prediction cannot be read as velocity.*space=velocity"):
        sample(flow, x0, uniform_grid(4), solver=DormandPrince(), cond=cond)
    assert (
        sample(
            CFGRescale(2.0, space="velocity")(mixture.flow(Linear()), mixture.null(2)),
            x0,
            uniform_grid(1),
            solver=DormandPrince(1e-3, 1e-3),
            cond=cond,
        )
        .isfinite()
        .all()
    )


@pytest.mark.parametrize("guidance", [CFG(3.0), CFGRescale(3.0), APG(3.0)])
def test_without_conditions_there_is_nothing_to_lead_away_from(mixture, guidance):
    flow = mixture.flow(Linear())
    assert guidance(flow, {}) is flow


def test_branches_run_as_one_batch_and_only_inside_the_interval():
    sizes = []

    def network(x, t, cond):
        sizes.append((len(x), len(cond["label"]), float(t[0])))
        return torch.zeros_like(x)

    flow = CFG(2.0, start=0.5)(NetworkFlow(network, Linear()), {"label": torch.zeros(3)})
    sample(flow, torch.zeros(3, 2), uniform_grid(4), cond={"label": torch.ones(3)})
    assert [s[0] for s in sizes] == [3, 3, 6, 6]
    assert all(a == b for a, b, _ in sizes)


def test_the_state_of_a_wrapped_flow_is_kept(mixture, x):
    """A flow that shows the network another state (a known region) reads its estimate about that one."""

    def elsewhere(y, t, cond=None):
        return Estimate(Linear(), y + 1, t, "velocity", torch.zeros_like(y))

    torch.testing.assert_close(CFG(3.0)(FunctionFlow(elsewhere, Linear()), {})(x, at(0.5), {}).data, x + 1)


@pytest.mark.parametrize(
    "build",
    [
        lambda: CFG(2, 0.5, 0.5),
        lambda: CFGRescale(rescale=2.0),
        lambda: APG(norm=-1.0),
        lambda: CFGZeroStar(zero_until=1.0),
    ],
)
def test_impossible_options_are_refused(build):
    with pytest.raises(ValueError, match="got"):
        build()


class _Turning:
    """-x + c cos(3t), as a network."""

    def __call__(self, x, t, cond):
        return -x + cond["c"] * torch.cos(3 * t)


@pytest.mark.parametrize(
    ("solver", "order"), [(Heun(), 2), (RK4(), 4), (AdamsBashforth(order=3), 3)], ids=lambda p: type(p).__name__
)
def test_a_solver_keeps_its_order_over_the_ends_of_the_interval(solver, order):
    """The estimate jumps there: equal steps meet at the ends, and each step sees one side of a jump."""
    c, null = ({"c": torch.full((1, 2), v, dtype=torch.float64)} for v in (1.0, 0.0))
    flow, x = CFG(3.0, 0.13, 0.77)(NetworkFlow(_Turning(), Linear()), null), torch.ones(1, 2, dtype=torch.float64)

    def end(grid, solver=solver):
        return sample(flow, x, grid, solver=solver, cond=c)

    exact = end(400, RK4())
    errors = [float((end(n) - exact).abs().max()) for n in (8, 32)]
    assert math.log(errors[0] / errors[1], 4) > order - 0.4
    given = float((end(uniform_grid(32)) - exact).abs().max())  # times that are given stay, and go over a jump
    assert given > 5 * errors[1]


def test_the_jumps_of_a_flow_are_points_of_equal_steps():
    flow = CFG(2.0, 0.13, 0.77)(NetworkFlow(_Turning(), Linear()), {"c": torch.zeros(1, 2)})
    assert with_breaks(uniform_grid(4), flow, Heun()).tolist() == [0, 0.13, 0.5, 0.77, 1]
    for grid, solver in ((uniform_grid(2), Heun()), (uniform_grid(4), Euler())):
        assert torch.equal(with_breaks(grid, flow, solver), grid)
    passed = []
    sample(
        flow, torch.ones(1, 2), 4, solver="heun", cond={"c": torch.ones(1, 2)}, on_step=lambda i, t, x: passed.append(t)
    )
    assert passed == [0.13, 0.5, 0.77, 1]

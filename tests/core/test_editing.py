"""Editing: what is kept is kept, and what is generated has the distribution it should have given that."""

import math

import pytest
import torch

from flowgen.core.editing import Replaced, between, inverted, slerp, vary
from flowgen.core.guidance import CFG
from flowgen.core.likelihood import log_prob
from flowgen.core.losses import Consistency, FlowMatching
from flowgen.core.paths import VP, Cosine, Linear
from flowgen.core.sampler import invert, sample
from flowgen.core.solvers import RK4, AdamsMoulton, DPMSolverPP2M, Euler, EulerMaruyama, FlowMapSolver
from flowgen.core.times import uniform_grid
from flowgen.media.regions import KnownFlow
from flowgen.testing.oracle import GaussianMixture

pytestmark = pytest.mark.exact

# two positions of one channel, whose modes tell one from the other
TARGET = GaussianMixture(
    torch.tensor([[[-1.5], [1.0]], [[1.2], [-0.5]], [[0.9], [1.8]]], dtype=torch.float64),
    torch.tensor([0.3, 0.4, 0.3], dtype=torch.float64),
    torch.tensor([0.3, 0.4, 0.3], dtype=torch.float64),
)
N = 3000
KNOWN = torch.tensor([[True, False]]).expand(N, 2)


def conditional(first):
    """The exact mixture of the second position given the first: weights and distribution function."""
    log = -0.5 * ((first - TARGET.means[:, 0, 0]) / TARGET.stds) ** 2 - TARGET.stds.log() + TARGET.weights.log()
    weights = torch.softmax(log, 0)
    return weights, lambda y: (weights * torch.special.ndtr((y[:, None] - TARGET.means[:, 1, 0]) / TARGET.stds)).sum(1)


def distance(y, cdf):
    y = y.sort().values
    steps = torch.arange(len(y) + 1, dtype=torch.float64) / len(y)
    return float(torch.maximum(steps[1:] - cdf(y), cdf(y) - steps[:-1]).max())


@pytest.mark.parametrize("first", [0.6, 1.0])
def test_per_token_times_give_the_exact_conditional(first, g):
    """A known position at t = 1 beside unknown ones at t: on the oracle that is the conditional distribution itself."""
    x1 = torch.full((N, 2, 1), first, dtype=torch.float64)
    flow = KnownFlow(TARGET.flow(Linear()), x1, KNOWN)
    x0 = torch.randn(N, 2, 1, generator=g, dtype=torch.float64)
    x = flow.restore(sample(flow, x0, uniform_grid(60), solver=RK4()))
    assert torch.equal(x[:, 0], x1[:, 0])
    weights, cdf = conditional(first)
    assert float(weights.max()) < 0.9  # a case in which there is something to decide
    assert distance(x[:, 1, 0], cdf) < 1.95 / math.sqrt(N)


@pytest.mark.parametrize("predicts", ["velocity", "data", "noise"])
@pytest.mark.parametrize(
    ("solver", "steps"), [(Euler(), 60), (DPMSolverPP2M(), 40), (EulerMaruyama(1.0), 60)], ids=repr
)
def test_replacement_keeps_the_known_and_suits_the_rest(predicts, solver, steps, g):
    path = VP() if predicts == "noise" else Cosine()
    x1 = torch.full((N, 2, 1), -1.5, dtype=torch.float64)  # only the first mode has that
    x0 = torch.randn(N, 2, 1, generator=g, dtype=torch.float64)
    flow = Replaced(TARGET.flow(path, predicts), x1, x0, KNOWN)

    def noise(x, t, s):
        return torch.randn(x.shape, generator=g, dtype=x.dtype)

    x = sample(flow, x0, uniform_grid(steps), solver=solver, noise=noise)
    if not isinstance(solver, EulerMaruyama):
        assert float((x - x1)[:, 0].abs().mean()) < 0.05  # but for the solver's error the flow itself keeps it
    x = flow.restore(x)
    assert torch.equal(x[:, 0], x1[:, 0])
    near = ((x[:, 1, 0] - 1.0).abs() < 4 * 0.3).double().mean()
    free = sample(TARGET.flow(path, predicts), x0, uniform_grid(steps), solver=solver, noise=noise)
    assert float(near) > 0.9
    assert float(((free[:, 1, 0] - 1.0).abs() < 4 * 0.3).double().mean()) < 0.75  # it is the known part that decides


def test_replacement_is_exact_where_the_parts_are_independent(g):
    one = GaussianMixture(torch.zeros(1, 2, 1, dtype=torch.float64), *torch.tensor([[0.5], [1.0]], dtype=torch.float64))
    x0 = torch.randn(64, 2, 1, generator=g, dtype=torch.float64)
    flow = Replaced(one.flow(Linear()), torch.full_like(x0, 2.0), x0, KNOWN[:64])
    x = sample(flow, x0, uniform_grid(200), solver=RK4())
    torch.testing.assert_close(x[:, 1], one.flow_map(Linear(), x0, 0, 1)[:, 1], rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(x[:, 0], torch.full_like(x[:, 0], 2.0), rtol=1e-9, atol=1e-9)


def test_a_variation_has_the_distribution_of_the_data(mixture, g):
    """Noise on exact data gives p_t, which the flow carries to p_1 whatever t: only how much is kept depends on t."""
    x1 = mixture.sample(1500, g)
    noise = torch.randn(x1.shape, generator=g, dtype=x1.dtype)
    moved = {}
    for t in (0.0, 0.5, 0.95):
        x = vary(mixture.flow(Linear()), x1, noise, t, uniform_grid(30), solver=RK4())
        moved[t] = float((x - x1).norm(dim=1).mean())
        responsibility = (torch.cdist(x, mixture.means) / mixture.stds).argmin(1)
        expected = (torch.cdist(x1, mixture.means) / mixture.stds).argmin(1)
        share, wanted = (torch.bincount(k, minlength=4) / 1500 for k in (responsibility, expected))
        torch.testing.assert_close(share, wanted, rtol=0, atol=0.06)
    assert moved[0.0] > 2 * moved[0.5] > 4 * moved[0.95]


def test_a_variation_starts_at_t(mixture, g):
    times = []
    flow = mixture.flow(Linear())

    class Watched:
        path, predicts = Linear(), "velocity"

        def __call__(self, x, t, cond=None):
            times.append(float(t))
            return flow(x, t, cond)

    x1 = mixture.sample(4, g)
    vary(Watched(), x1, torch.zeros_like(x1), 0.25, uniform_grid(4))
    assert times == [0.25, 0.5, 0.75, 0.75]  # the last: what the flow cannot make of x1
    times.clear()
    vary(Watched(), x1, torch.zeros_like(x1), 0.0, uniform_grid(4))
    assert times == [0.0, 0.25, 0.5, 0.75]
    with pytest.raises(ValueError, match="starts at"):
        vary(flow, x1, x1, 1.0, uniform_grid(4))


def test_between_two_clips(mixture, g):
    a, b = mixture.sample(8, g), mixture.sample(8, g)
    flow, grid = mixture.flow(Linear()), uniform_grid(120)
    for share, end in ((0.0, a), (1.0, b)):
        x = between(flow, a, b, share, grid, solver=AdamsMoulton())
        torch.testing.assert_close(x, end, rtol=1e-3, atol=1e-3)
    path = torch.cat([between(flow, a, b, s, grid, solver=AdamsMoulton()) for s in torch.linspace(0, 1, 9)])
    # most points on the way are as likely as samples are; between modes a continuous path must cross what is not
    typical = mixture.log_prob(mixture.sample(2000, g)).quantile(0.01)
    assert float((mixture.log_prob(path) > typical).double().mean()) > 0.7


def test_slerp_keeps_the_length_of_noise(g):
    x, y = torch.randn(4, 3000, generator=g), torch.randn(4, 3000, generator=g)
    middle = slerp(x, y, 0.5)
    assert float((middle.norm(dim=1) / x.norm(dim=1)).sub(1).abs().max()) < 0.05
    torch.testing.assert_close(slerp(x, x, 0.3), x)
    torch.testing.assert_close(
        slerp(x, y, torch.tensor([0.0, 1.0, 0.0, 1.0])), torch.where(torch.tensor([[False], [True]] * 2), y, x)
    )


def test_what_declares_no_path_is_refused_with_what_wraps_it(mixture):
    x = torch.zeros(2, 2, dtype=torch.float64)
    guided = CFG(2.0)(mixture.flow(Linear()), mixture.null(2))
    assert vary(guided, x, x, 0.5, uniform_grid(2), cond=mixture.only(0, 2)).isfinite().all()
    with pytest.raises(ValueError, match=r"function is no flow.*NetworkFlow"):
        vary(lambda x, t, cond=None: None, x, x, 0.5, uniform_grid(2))
    for call in (sample, invert, log_prob):
        with pytest.raises(ValueError, match=r"Linear is no flow.*NetworkFlow"):
            call(torch.nn.Linear(2, 2), x, uniform_grid(2))


@pytest.mark.parametrize("predicts", ["velocity", "data"])
@pytest.mark.parametrize("steps", [4, 16])
def test_the_ends_of_an_interpolation_are_the_two_clips(mixture, g, predicts, steps):
    a, b, noise = (torch.randn(3, 2, generator=g, dtype=torch.float64) for _ in range(3))  # not samples of the flow
    share = torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64)
    x = between(mixture.flow(Linear(), predicts), a, b, share, uniform_grid(steps), solver=DPMSolverPP2M(), noise=noise)
    torch.testing.assert_close(x[[0, 2]], torch.stack([a[0], b[2]]), rtol=0, atol=1e-12)
    assert (x[1] - a[1]).abs().max() > 0.05
    assert (x[1] - b[1]).abs().max() > 0.05


def test_what_a_round_trip_leaves_is_small_where_the_flow_knows_the_clip(mixture, g):
    x1, noise = mixture.sample(64, g), torch.randn(64, 2, generator=g, dtype=torch.float64)
    for predicts in ("velocity", "data"):
        lost = inverted(
            mixture.flow(Linear(), predicts), x1, uniform_grid(16), solver=DPMSolverPP2M(), noise=noise
        ).residual
        assert float(lost.square().mean().sqrt()) < 0.1 * float(x1.std())


def test_a_flow_without_a_velocity_at_the_data_wants_noise_to_be_inverted(mixture):
    x = torch.zeros(2, 2, dtype=torch.float64)
    with pytest.raises(ValueError, match="inverted from noised data: give `noise`"):
        between(mixture.flow(Linear(), "data"), x, x, 0.5, uniform_grid(2))


def test_a_variation_by_a_network_of_no_capacity_comes_from_the_clip(g):
    """It says the same data whatever it sees: the distance from the clip is the strength, and not that of this answer."""
    x1, noise = (
        torch.randn(2, 16, generator=g, dtype=torch.float64),
        torch.randn(2, 16, generator=g, dtype=torch.float64),
    )
    blind = FlowMatching(predicts="data").flow(lambda x, t, cond: torch.zeros_like(x))
    for t in (0.98, 0.8, 0.5, 0.1, 0.0):
        made = vary(blind, x1, noise, t, uniform_grid(8))
        torch.testing.assert_close(made, t * x1, rtol=0, atol=1e-6)


def test_a_consistency_model_varies_a_clip_too(g):
    """It knows no data estimate but its jump to t = 1, which is what the last step of its sampler takes."""
    x1, noise = torch.randn(2, 16, generator=g), torch.randn(2, 16, generator=g)
    flow, solver = Consistency().flow(lambda x, t, cond: 0.5 * x), FlowMapSolver(gamma=1.0)
    for t in (0.99, 0.6):
        made = vary(flow, x1, noise, t, uniform_grid(4), solver=solver, draws=lambda x, t, s: torch.zeros_like(x))
        assert made.isfinite().all()
        assert float((made - x1).abs().max()) < 4 * (1 - t) + 1e-6

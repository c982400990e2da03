"""Couplings between two sets of clips: what they pair, and what comes of it where the answer is known in closed form."""

import math

import pytest
import torch
from scipy.optimize import linear_sum_assignment

import flowgen
from flowgen.core.interfaces import SOURCE, Bridge, DrawsPairs
from flowgen.core.losses import EDM, Consistency, FlowMapMatching, FlowMatching
from flowgen.core.losses.base import draw
from flowgen.core.random import Randomness
from flowgen.core.solvers import BrownianBridge, Euler
from flowgen.core.transports import SchroedingerBridge, Transport, check_motion
from flowgen.testing.part import normal

PLANS = ["exact", "entropic", "unbalanced"]


@pytest.fixture(autouse=True)
def _pot():
    pytest.importorskip("ot")


def test_the_exact_plan_is_the_assignment_of_least_distance():
    x0, x1 = normal(64, 3), normal(64, 3, seed=1)
    order, weight = Transport().draw_pairs(x0, x1, None, Randomness(0, 0, 64))
    assert weight is None
    _, best = linear_sum_assignment(torch.cdist(x1, x0).square().double().numpy())
    assert torch.equal(order, torch.as_tensor(best))


@pytest.mark.parametrize("coupling", [*(Transport(plan=p) for p in PLANS), SchroedingerBridge()], ids=str)
def test_pairs_stay_within_their_conditions_and_are_nearer_than_at_random(coupling):
    x0, x1 = normal(128, 2), normal(128, 2, seed=1)
    group = torch.arange(128) % 3
    order, _ = coupling.draw_pairs(x0, x1, group, Randomness(0, 0, 128))
    assert isinstance(coupling, DrawsPairs)
    assert torch.equal(group[order], group)
    assert (x0[order] - x1).square().sum() < 0.8 * (x0 - x1).square().sum()


@pytest.mark.parametrize("share", [0.2, 0.5])
def test_the_entropic_plan_draws_sources_in_its_proportions(share):
    """Over many draws, the share of each source is that of the plan's row."""
    import ot

    x0, x1 = normal(6, 1), normal(6, 1, seed=1)
    cost = torch.cdist(x1, x0).square().double()
    plan = ot.sinkhorn([], [], cost, share * float(cost.mean()), method="sinkhorn_log", numItermax=20_000)
    coupling = Transport(plan="entropic", regularisation=share)
    seen = torch.zeros(6, 6)
    for step in range(1500):
        order = coupling.draw_pairs(x0, x1, None, Randomness(0, step, 6)).order
        seen[torch.arange(6), order] += 1
    assert float((seen / 1500 - 6 * plan).abs().max()) < 5 * math.sqrt(0.25 / 1500)


def test_the_unbalanced_plan_leaves_outliers_out():
    """Of 5 clips far from all sources hardly any mass is left; a balanced plan counts them like the others."""
    x0, x1 = normal(64, 2), normal(64, 2, seed=1)
    x1[:5] += 20.0
    weight = Transport(plan="unbalanced").draw_pairs(x0, x1, None, Randomness(0, 0, 64)).weight
    assert float(weight[:5].max()) < 0.1
    assert float(weight[5:].mean()) > 0.8
    heavy = Transport(plan="unbalanced", mass_penalty=20).draw_pairs(x0, x1, None, Randomness(0, 0, 64)).weight
    assert float(heavy[:5].min()) > 0.5


def test_the_weight_of_a_pair_is_that_of_its_loss():
    x0, x1 = normal(64, 2).float(), normal(64, 2, seed=1).float()
    x1[:5] += 20.0
    random = Randomness(0, 0, 64)

    def each(plan):
        return FlowMatching(coupling=Transport(plan=plan))(lambda x, t, c: 0 * x, x1, {SOURCE: x0}, random).total

    weight = Transport(plan="unbalanced").draw_pairs(x0, x1, None, random).weight.float()
    order = Transport(plan="unbalanced").draw_pairs(x0, x1, None, random).order
    expected = weight * (x1 - x0[order]).square().mean(1)
    torch.testing.assert_close(each("unbalanced"), expected)
    assert float(each("unbalanced")[:5].mean()) < 0.1 * float(each("exact")[:5].mean())


def gaussian_bridge(a, b, sigma):
    """Covariance of x0 and x1 under the Schroedinger bridge from N(0, a^2) to N(m, b^2) (Bunne et al. 2023, theorem 1)."""
    return (math.sqrt(4 * a * a * b * b + sigma**4) - sigma**2) / 2


@pytest.mark.parametrize("sigma", [0.3, 1.0, 2.0])
def test_pairs_of_a_gaussian_bridge_have_the_covariance_of_its_closed_form(sigma):
    a, b, n = 1.0, 1.5, 500
    u = (torch.arange(n, dtype=torch.float64) + 0.5) / n
    q = math.sqrt(2) * torch.erfinv(2 * u - 1)[:, None]
    x0, x1 = a * q, b * q + 2
    coupling = SchroedingerBridge(sigma=sigma, max_iterations=3000)
    assert isinstance(coupling, Bridge)
    found = [coupling.draw_pairs(x0, x1, None, Randomness(0, step, n)).order for step in range(8)]
    covariance = sum(float((x0[o] * (x1 - 2)).mean()) for o in found) / len(found)
    assert covariance == pytest.approx(gaussian_bridge(a, b, sigma), abs=0.05)


@pytest.mark.parametrize("sigma", [0.3, 1.0])
def test_the_exact_bridge_carries_one_gaussian_to_the_other_with_the_covariance_of_its_ends(sigma):
    """Sampled with E[x1 | x_t] in closed form: mean and deviation of the end, and how it hangs together with the start."""
    a, b, mean, n = 1.0, 1.5, 2.0, 20_000
    c = gaussian_bridge(a, b, sigma)

    def network(x, t, cond):
        # (x_t, x1) are jointly normal: x_t = (1 - t) x0 + t x1 + sigma sqrt(t (1 - t)) z
        t = float(t.flatten()[0])
        variance = (1 - t) ** 2 * a * a + t * t * b * b + 2 * t * (1 - t) * c + sigma**2 * t * (1 - t)
        return mean + ((1 - t) * c + t * b * b) / variance * (x - t * mean)

    x0 = a * normal(n, 1)
    flow = flowgen.NetworkFlow(network, flowgen.Linear(), "data")
    draws = iter(range(1000))
    ends = {
        name: flowgen.sample(
            *(flow, x0, flowgen.uniform_grid(100)),
            solver=solver,
            noise=lambda x, t, s: normal(*x.shape, seed=100 + next(draws)).to(x),
        )
        for name, solver in {"bridge": BrownianBridge(sigma=sigma), "without motion": Euler()}.items()
    }
    x1 = ends["bridge"]
    assert float(x1.mean()) == pytest.approx(mean, abs=0.03)
    assert float(x1.std()) == pytest.approx(b, abs=0.04)
    assert float((x0 * (x1 - x1.mean())).mean()) == pytest.approx(c, abs=0.04)
    # the same drift without motion does not spread enough
    assert float(ends["without motion"].std()) < b - 0.25 * sigma**2


def test_the_loss_of_a_bridge_is_taken_on_its_motion():
    x0, x1 = normal(4000, 1).float(), normal(4000, 1, seed=1).float()
    seen = []

    def network(x, t, cond):
        seen.append((x, t))
        return x

    coupling = SchroedingerBridge(sigma=0.7)
    # one pair for all: what is left is the motion
    FlowMatching(coupling=coupling, predicts="data")(network, 0 * x1 + 3, {SOURCE: 0 * x0 - 1}, Randomness(0, 0, 4000))
    x, t = seen[0]
    z = (x[:, 0] - (4 * t - 1)) / (0.7 * (t * (1 - t)).sqrt())
    assert float(z.mean()) == pytest.approx(0, abs=0.08)
    assert float(z.std()) == pytest.approx(1, abs=0.05)


def test_a_bridge_without_motion_steps_as_euler():
    flow = flowgen.NetworkFlow(lambda x, t, c: torch.tanh(x), flowgen.Linear(), "data")
    x, grid = normal(8, 2), flowgen.uniform_grid(8)
    assert torch.allclose(
        flowgen.sample(flow, x, grid, solver=BrownianBridge()), flowgen.sample(flow, x, grid, solver=Euler())
    )


@pytest.mark.parametrize("loss", [EDM, Consistency, FlowMapMatching])
def test_losses_that_know_nothing_of_a_bridge_refuse_it(loss):
    for coupling in (SchroedingerBridge(), Transport(plan="unbalanced")):
        with pytest.raises(ValueError, match="train flow-matching"):
            loss(coupling=coupling)
    loss(coupling=Transport())


def test_what_does_not_go_with_a_bridge_is_refused():
    with pytest.raises(ValueError, match="predicts=data and the path linear"):
        FlowMatching(coupling=SchroedingerBridge())
    with pytest.raises(ValueError, match="predicts=data and the path linear"):
        FlowMatching(path=flowgen.Cosine(), predicts="data", coupling=SchroedingerBridge())
    with pytest.raises(ValueError, match=r"take the solver \{type: brownian-bridge, sigma: 0.5\}"):
        check_motion(SchroedingerBridge(sigma=0.5), Euler())
    with pytest.raises(ValueError, match="take the solver one of an ODE"):
        check_motion(Transport(), BrownianBridge(sigma=0.5))
    flow = flowgen.NetworkFlow(lambda x, t, c: x, flowgen.Cosine(), "data")
    with pytest.raises(ValueError, match="runs on the path linear"):
        flowgen.sample(flow, normal(2, 1), 4, solver=BrownianBridge(sigma=1.0))


def test_a_loss_of_ones_own_that_draws_is_not_given_what_it_would_ignore():
    x1, random = normal(8, 1), Randomness(0, 0, 8)
    for coupling in (SchroedingerBridge(), Transport(plan="unbalanced")):
        with pytest.raises(ValueError, match="this loss does not take the coupling"):
            draw(x1, {SOURCE: x1}, random, None, flowgen.Uniform(), coupling, 1.0)
    assert len(draw(x1, {SOURCE: x1}, random, None, flowgen.Uniform(), Transport(), 1.0)) == 4

"""Losses of flow maps have the closed-form flow map as their fixed point."""

from __future__ import annotations

import pytest
import torch

from flowgen.core.interfaces import END_TIME
from flowgen.core.losses import Consistency, FlowMapMatching, FlowMatching
from flowgen.core.paths import Cosine, Linear
from flowgen.core.random import Randomness
from flowgen.core.sampler import sample
from flowgen.core.solvers import Euler, FlowMapSolver
from flowgen.core.times import uniform_grid
from flowgen.media.streams import Axis, StreamSpec
from flowgen.nn import Transformer
from flowgen.testing.oracle import GaussianMixture

TARGETS = ("mean-flow", "improved-mean-flow", "lagrangian", "semigroup")
MIXTURES = [GaussianMixture.random(3, 1, seed=5), GaussianMixture.random(1, 2, seed=1)]


def near(exact, weights):
    """The exact map, and what differs from it by three numbers."""

    def network(x, t, cond):
        s = cond[END_TIME].double()
        u = exact.average(x.double().detach(), t.double(), s)
        return weights[0] * u + weights[1] * (s - t)[:, None] + weights[2] * t[:, None]

    return network


@pytest.mark.parametrize(
    ("mixture", "path"),
    [(MIXTURES[0], Linear()), (MIXTURES[1], Linear()), (MIXTURES[1], Cosine())],
    ids=["mixture", "gaussian", "gaussian-cosine"],
)
@pytest.mark.parametrize("target", [*TARGETS, "alpha"])
def test_the_closed_form_is_a_fixed_point(target, mixture, path):
    """No small change of it lowers the expected loss: the slopes are 0 within four standard errors, and away from it they are not."""
    loss = FlowMapMatching(path, target=target, power=0.0, anneal=1 if target == "alpha" else None)
    x1 = mixture.sample(800, torch.Generator().manual_seed(0))

    def slopes(*at):
        weights = [torch.tensor([v], dtype=torch.float64, requires_grad=True) for v in at]
        each = loss(near(mixture.map(path), weights), x1, {}, Randomness(0, 10, len(x1))).total
        found = torch.stack(
            [torch.stack(torch.autograd.grad(p.mean(), weights, retain_graph=True)).squeeze(-1) for p in each.chunk(20)]
        )
        return found.mean(0), found.std(0) / len(found) ** 0.5

    mean, error = slopes(1.0, 0.0, 0.0)
    assert bool((mean.abs() < 4 * error + 1e-3).all())
    away, error = slopes(1.2, 0.0, 0.0)
    assert float(away[0]) > 4 * float(error[0])


@pytest.mark.parametrize("derivative", ["difference", "jvp"])
def test_the_exact_jump_to_the_data_is_consistent(derivative):
    """Of one Gaussian, whose jump is linear: the slopes of the loss in its two coefficients are 0 there, and not elsewhere."""
    mixture, x1 = MIXTURES[1], MIXTURES[1].sample(4000, torch.Generator().manual_seed(0))
    loss = Consistency(derivative=derivative, warmup=0, power=0.0)

    def slopes(*at):
        w = [torch.tensor([v], dtype=torch.float64, requires_grad=True) for v in at]
        mean, scale = mixture.means[0], mixture.stds[0]

        def network(x, t, cond):
            t = t.double()[:, None]
            spread = (t**2 * scale**2 + (1 - t) ** 2).sqrt()
            landed = mean + w[0] * scale / spread * (x.double() - t * mean)
            return (landed - x) / (1 - t) + w[1] * x

        each = loss(network, x1, {}, Randomness(0, 0, len(x1))).total
        found = [torch.stack(torch.autograd.grad(p.mean(), w, retain_graph=True)).squeeze(-1) for p in each.chunk(20)]
        found = torch.stack(found)
        return found.mean(0), found.std(0) / len(found) ** 0.5

    mean, error = slopes(1.0, 0.0)
    assert bool((mean.abs() < 4 * error + 1e-3).all())
    away, error = slopes(1.0, 0.3)
    assert float(away[1]) > 4 * float(error[1])


def test_a_consistency_model_starts_as_flow_matching_and_jumps_to_the_data_alone():
    x1 = MIXTURES[0].sample(20, torch.Generator().manual_seed(0))

    def network(x, t, cond):
        return 0.5 * x

    early = Consistency(warmup=100, power=0.0)(network, x1, {}, Randomness(0, 0, 20)).total
    torch.testing.assert_close(early, FlowMatching()(network, x1, {}, Randomness(0, 0, 20)).total)
    flow = Consistency().flow(network)
    x = torch.ones(2, 1)
    noise = torch.zeros(2, 1)
    made = sample(flow, x, uniform_grid(2), solver=FlowMapSolver(gamma=1.0), noise=lambda *_: noise)
    torch.testing.assert_close(made, x * 1.5 * 0.5 * (1 + 0.5 * 0.5))
    for solver in (FlowMapSolver(), Euler()):
        with pytest.raises(ValueError, match="gamma: 1"):
            sample(flow, x, uniform_grid(2), solver=solver)


@pytest.mark.parametrize("target", ["lagrangian", "semigroup"])
def test_these_are_zero_at_the_closed_form_for_each_sample(target):
    x1 = MIXTURES[0].sample(200, torch.Generator().manual_seed(0))
    loss = FlowMapMatching(target=target, still=0.0)

    def worst(*weights):
        return float(loss(near(MIXTURES[0].map(), weights), x1, {}, Randomness(0, 0, 200)).total.mean())

    assert worst(1.0, 0.0, 0.0) < 1e-5
    assert worst(1.0, 0.5, 0.0) > 1e-3


@pytest.mark.parametrize("target", TARGETS)
def test_samples_that_stand_still_are_flow_matching(target):
    """s = t for all: the minimiser is the velocity, whatever the identity."""
    x1 = MIXTURES[0].sample(200, torch.Generator().manual_seed(0))
    weights = (1.0, 0.0, 0.0)
    alone = [
        FlowMapMatching(target=t, still=1.0, power=0.0)(near(MIXTURES[0].map(), weights), x1, {}, Randomness(0, 0, 200))
        for t in (target, "mean-flow")
    ]
    torch.testing.assert_close(alone[0].total, alone[1].total)


@pytest.mark.parametrize("target", ["mean-flow", "improved-mean-flow", "lagrangian"])
def test_both_derivatives_train_alike(target):
    """Loss and gradients of a transformer, by forward differentiation and by a difference."""
    torch.manual_seed(0)
    net = Transformer(StreamSpec(2, (Axis("time", 4, 1.0),)), {}, FlowMapMatching.inputs, width=16, depth=1, heads=2)
    with torch.no_grad():
        for p in net.parameters():
            p.add_(0.1 * torch.randn(p.shape))
    found = []
    for derivative in ("jvp", "difference"):
        net.zero_grad()
        loss = FlowMapMatching(target=target, derivative=derivative, epsilon=3e-4, still=0.2)
        total = loss(
            net, torch.randn(16, 4, 2, generator=torch.Generator().manual_seed(1)), {}, Randomness(0, 0, 16)
        ).total
        total.mean().backward()
        found.append((total.detach(), torch.cat([p.grad.flatten() for p in net.parameters()])))
    torch.testing.assert_close(found[0][0], found[1][0], rtol=0.05, atol=1e-3)
    assert float((found[0][1] - found[1][1]).norm() / found[0][1].norm()) < 0.1
    assert float(found[0][1].norm()) > 0


def test_what_it_does_not_take_is_refused():
    with pytest.raises(ValueError, match=r"still is a share in \[0, 1\]"):
        FlowMapMatching(still=1.5)
    with pytest.raises(ValueError, match="anneal"):
        FlowMapMatching(target="alpha")
    with pytest.raises(ValueError, match="anneal"):
        FlowMapMatching(target="lagrangian", anneal=100)


@pytest.mark.parametrize("target", [*TARGETS, "alpha"])
def test_given_positions_are_shown_as_they_are_and_carry_no_loss(target):
    """Two clips that differ in what is given and in nothing that is asked have one loss, whatever noise the given part gets."""
    x1, known = torch.randn(16, 3, 1), torch.tensor([True, False, False]).expand(16, 3)
    options = {"anneal": 1} if target == "alpha" else {}
    loss = FlowMapMatching(target=target, **options)
    shown = []

    def network(x, t, cond):
        shown.append((x, t, cond[END_TIME]))
        return torch.where(known[..., None], 7.0, x * t[..., None] + cond[END_TIME][..., None])

    here = loss(network, x1, {}, Randomness(0, 5, 16), known)
    for x, t, s in shown:
        torch.testing.assert_close(x[:, 0], x1[:, 0])
        assert bool((t[:, 0] == 1).all())
        assert bool((s[:, 0] == 1).all())
    moved = torch.where(known[..., None], 100.0, x1)
    torch.testing.assert_close(loss(network, moved, {}, Randomness(0, 5, 16), known).total, here.total)
    assert bool((here.total > 0).all())

"""Distillation has the flow map of its teacher as its fixed point, at every guidance scale."""

from __future__ import annotations

import pytest
import torch

from flowgen.core.guidance import CFG, Folded, check_folded
from flowgen.core.interfaces import END_TIME, GUIDANCE_SCALE, GuidedFlow
from flowgen.core.losses import Distillation, FlowMatching, TrajectoryDistillation
from flowgen.core.paths import Cosine
from flowgen.core.random import Randomness
from flowgen.core.sampler import sample
from flowgen.core.solvers import FlowMapSolver
from flowgen.core.times import uniform_grid
from flowgen.testing.oracle import GaussianMixture

MIXTURE = GaussianMixture.random(3, 1, seed=5)
LOSSES = [
    pytest.param(Distillation("run", predicts="velocity", still=0.0, end=1.0), id="lagrangian-velocity"),
    pytest.param(Distillation("run", predicts="data", still=0.0), id="lagrangian-data"),
    pytest.param(TrajectoryDistillation("run", steps=64, jumps=2, predicts="data"), id="trajectories-data"),
    pytest.param(TrajectoryDistillation("run", steps=64, predicts="velocity"), id="trajectories-velocity"),
]


class Exact:
    """The exact map as a network that says what the loss wants, times one number."""

    def __init__(self, loss, weight=1.0):
        self.map, self.predicts, self.weight = MIXTURE.map(), loss.predicts, weight

    def __call__(self, x, t, cond):
        s = cond[END_TIME].double()
        u = self.weight * self.map.average(x.double(), t.double(), s)
        return u if self.predicts == "velocity" else x + (1 - t.double())[:, None] * u


@pytest.mark.parametrize("loss", LOSSES)
def test_the_map_of_the_teacher_is_the_fixed_point(loss):
    x1 = MIXTURE.sample(100, torch.Generator().manual_seed(0))
    asked = loss.with_teacher(MIXTURE.flow(), {})
    assert float(asked(Exact(loss), x1, {}, Randomness(0, 0, 100)).total.max()) < 2e-3
    assert float(asked(Exact(loss, 1.2), x1, {}, Randomness(0, 0, 100)).total.mean()) > 1e-2


def test_the_teacher_is_guided_as_cfg_guides():
    x, cond = torch.randn(6, 1, dtype=torch.float64), MIXTURE.only(0, 6)
    null, t = MIXTURE.null(1), torch.full((6,), 0.4, dtype=torch.float64)
    asked = Distillation("run", scales=(1, 3)).with_teacher(MIXTURE.flow(), null).asked
    scales = torch.tensor([1.0, 1.5, 2.0, 2.5, 3.0, 1.0])
    found = asked(x, t, cond, scales).velocity
    for i, scale in enumerate(scales.tolist()):
        alone = CFG(scale, start=0.0)(MIXTURE.flow(), MIXTURE.null(6))(x, t, cond).velocity
        torch.testing.assert_close(found[i], alone[i])


@pytest.mark.parametrize("predicts", ["velocity", "data"])
def test_both_derivatives_train_alike(predicts):
    """Loss and gradient of a smooth network, by forward differentiation and by a difference."""
    weight = torch.tensor([0.3, -0.5, 0.7], dtype=torch.float64, requires_grad=True)

    def network(x, t, cond):
        s = cond[END_TIME].double()
        return torch.tanh(weight[0] * x + weight[1] * t.double()[:, None] + weight[2] * s[:, None] * x)

    x1 = MIXTURE.sample(50, torch.Generator().manual_seed(0))
    found = []
    for derivative in ("jvp", "difference"):
        loss = Distillation("run", predicts=predicts, derivative=derivative, epsilon=1e-4).with_teacher(
            MIXTURE.flow(), {}
        )
        total = loss(network, x1, {}, Randomness(0, 0, 50)).total
        found.append((total.detach(), *torch.autograd.grad(total.mean(), weight)))
    for exact, near in zip(*found, strict=True):
        torch.testing.assert_close(near, exact, rtol=2e-3, atol=1e-4)


@pytest.mark.parametrize("predicts", ["data", "velocity"])  # a teacher that says data has no velocity at t = 1
def test_given_positions_are_shown_as_they_are_and_carry_no_loss(predicts):
    x1 = torch.randn(8, 3, 1)
    known = torch.tensor([True, False, False]).expand(8, 3)
    shown = []

    def network(x, t, cond):
        shown.append((x, t, cond[END_TIME]))
        return x.clone()

    loss = Distillation("run", predicts=predicts).with_teacher(lambda *_: None, {})
    object.__setattr__(loss.asked, "flow", FlowMatching(predicts="data").flow(lambda x, t, cond: 0 * x))
    here = loss(network, x1, {}, Randomness(0, 0, 8), known).total
    assert bool(here.isfinite().all())
    for x, t, s in shown:
        assert torch.equal(x[:, 0], x1[:, 0])
        assert bool((t[:, 0] == 1).all())
        assert bool((s[:, 0] == 1).all())
        assert bool((t[:, 1] < 1).all())
    moved = x1.clone()
    moved[:, 0] += 100
    torch.testing.assert_close(loss(network, moved, {}, Randomness(0, 0, 8), known).total, here)


def test_a_scale_is_shown_to_the_network_and_others_are_refused():
    seen = []

    def network(x, t, cond):
        seen.append(cond.get(GUIDANCE_SCALE.name))
        return 0 * x

    loss = Distillation("run", scales=(1, 3))
    assert [i.name for i in loss.inputs] == [END_TIME, GUIDANCE_SCALE.name]
    flow = loss.flow(network)
    assert isinstance(flow, GuidedFlow)
    for guided in (flow, Folded(2.5)(flow, {})):
        sample(guided, torch.randn(2, 1), uniform_grid(1), solver=FlowMapSolver())
    assert [float(s[0]) for s in seen] == [1.0, 2.5]
    with pytest.raises(ValueError, match="would count twice"):
        check_folded(flow, [CFG(2.0)])
    with pytest.raises(ValueError, match="from 1 to 3"):
        check_folded(flow, [Folded(5.0)])
    with pytest.raises(ValueError, match="not shown a guidance scale"):
        check_folded(Distillation("run").flow(network), [Folded(2.0)])


def test_what_it_does_not_take_is_refused():
    with pytest.raises(ValueError, match="predicts data on the linear path alone"):
        Distillation("run", path=Cosine(), predicts="data")
    with pytest.raises(ValueError, match="scales is"):
        Distillation("run", scales=(3.0, 1.0))
    with pytest.raises(ValueError, match="guided is the first and the last time"):
        Distillation("run", guided=(0.4, 0.1))
    with pytest.raises(ValueError, match="call with_teacher first"):
        TrajectoryDistillation("run")(lambda *_: None, torch.zeros(1, 1), {}, Randomness(0, 0, 1))


def test_guidance_counts_at_the_times_that_are_named():
    """Where s = t and the network says 0, a clip's loss is the square of what the guided teacher says."""
    x1, null = MIXTURE.sample(200, torch.Generator().manual_seed(0)), MIXTURE.null(1)
    cond, seen = MIXTURE.only(0, 200), {}

    def silent(x, t, cond):
        seen.update(x=x, t=t)
        return torch.zeros_like(x)

    asked = Distillation("run", scales=(2.0,), guided=(0.2, 0.6), predicts="data", still=1.0)
    found = asked.with_teacher(MIXTURE.flow(), null)(silent, x1, cond, Randomness(0, 0, 200)).total
    inside = (seen["t"] > 0.2) & (seen["t"] < 0.6)
    assert inside.any()
    assert not inside.all()
    flow, t = MIXTURE.flow(), seen["t"]
    guided, plain = (f(seen["x"], t, cond).data for f in (CFG(2.0, start=0.0)(flow, MIXTURE.null(200)), flow))
    expected = torch.where(inside[:, None], guided, plain).square().mean(1)
    torch.testing.assert_close(found, expected.to(found), rtol=1e-4, atol=1e-6)
    assert not torch.allclose(guided[inside], plain[inside], rtol=1e-2)

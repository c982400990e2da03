"""Flow maps: sampled by the loop of every flow, wrapped as every flow, differentiated forward."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from flowgen.core.editing import Replaced
from flowgen.core.flow import NetworkFlow, OnPath
from flowgen.core.flow_map import MapFlow, NetworkFlowMap, differentiated, forward_differentiable, jump, jvp
from flowgen.core.guidance import CFG
from flowgen.core.interfaces import END_TIME, SECOND_TIME, Flow, FlowMap, Solver
from flowgen.core.paths import VP, Cosine, Linear
from flowgen.core.sampler import invert, sample
from flowgen.core.solvers import Euler, FlowMapSolver, Heun
from flowgen.core.times import uniform_grid
from flowgen.media.conditions import ClassCondition
from flowgen.media.regions import KnownFlow
from flowgen.media.streams import Axis, StreamSpec
from flowgen.nn import MLP, Transformer
from flowgen.testing.oracle import GaussianMixture

NUMBERS = GaussianMixture.random(3, 1, seed=5)
ONE = GaussianMixture(torch.tensor([[1.0, -2.0]]).double(), torch.tensor([0.3]).double(), torch.ones(1).double())
paths = pytest.mark.parametrize("path", [Linear(), Cosine(), VP()], ids=repr)


def noise(shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@paths
@pytest.mark.parametrize("target", [NUMBERS, ONE], ids=["mixture", "gaussian"])
def test_the_closed_form_is_the_flow(target, path):
    """Against the ODE itself; it composes, and its derivative in s at s = t is the velocity."""
    exact, x = target.map(path), noise((32, target.means.shape[1]))
    t, m, s = 0.1, torch.linspace(0.3, 0.6, 32).double(), 0.9
    grid = t + (s - t) * uniform_grid(200)
    torch.testing.assert_close(exact(x, t, s), sample(target.flow(path), x, grid, solver=Heun()), rtol=0, atol=2e-4)
    torch.testing.assert_close(exact(exact(x, t, m), m, s), exact(x, t, s), rtol=1e-6, atol=1e-7)
    v = target.flow(path)(x, m).velocity
    torch.testing.assert_close(exact.average(x, m, m + 1e-5), v, rtol=1e-3, atol=1e-3)
    assert torch.equal(exact.average(x, m, m), v)


@paths
@pytest.mark.parametrize("steps", [1, 2, 5])
def test_an_exact_map_is_exact_on_any_grid(path, steps):
    exact, x = NUMBERS.map(path), noise((32, 1))
    truth = exact(x, 0.0, 1.0)
    torch.testing.assert_close(sample(exact, x, uniform_grid(steps)), truth, rtol=1e-6, atol=1e-6)
    solved = sample(MapFlow(exact), x, uniform_grid(steps), solver=Euler())
    assert float((solved - truth).abs().mean()) > 1e-2  # by its velocity alone it is not


@paths
@pytest.mark.parametrize("gamma", [0.5, 1.0])
def test_fresh_noise_keeps_the_marginals(path, gamma):
    x = sample(ONE.map(path), noise((40_000, 2)), uniform_grid(4), solver=FlowMapSolver(gamma), noise=seeded())
    torch.testing.assert_close(x.mean(0), ONE.means[0], rtol=0, atol=0.01)
    torch.testing.assert_close(x.std(0), torch.full((2,), 0.3).double(), rtol=0.02, atol=0)
    # and the noise does reach the result: the deterministic jumps of the same start are elsewhere
    plain = sample(ONE.map(path), noise((40_000, 2)), uniform_grid(4))
    correlation = torch.corrcoef(torch.stack([x[:, 0], plain[:, 0]]))[0, 1]
    assert (correlation.abs() < 0.15) if gamma == 1 else (0.3 < correlation < 0.9)


def seeded():
    g = torch.Generator().manual_seed(1)
    return lambda x, t, s: torch.randn(x.shape, generator=g, dtype=x.dtype)


def test_protocols_tell_a_flow_from_a_map():
    assert isinstance(NUMBERS.map(), FlowMap)
    assert isinstance(NetworkFlowMap(nn.Identity(), Linear()), FlowMap)
    assert not isinstance(NUMBERS.flow(), FlowMap)
    solver: Solver = FlowMapSolver()
    flow: Flow = MapFlow(NUMBERS.map())
    assert (solver.order, flow(noise((2, 1)), torch.tensor(0.5).double()).prediction) == (1, "velocity")


def network(x, t, cond):
    """u = c + (s - t), by the condition; t and s as the network is shown them."""
    if END_TIME not in cond:
        raise AssertionError("no second time")
    h = (cond[END_TIME] - t).reshape(*t.shape, *[1] * (x.ndim - t.ndim)).expand_as(x)
    return cond["c"].reshape(-1, *[1] * (x.ndim - 1)).float() + h


def test_guidance_wraps_a_map():
    x, cond, null = torch.zeros(3, 2), {"c": torch.tensor([1.0, 2.0, 3.0])}, {"c": torch.zeros(3)}
    flow = MapFlow(NetworkFlowMap(network, Linear()))
    guided = CFG(2.0, start=0.0)(flow, null)
    ends = torch.tensor(0.5).double()
    torch.testing.assert_close(jump(guided, x, torch.tensor(0.0), ends, cond)[:, 0], 0.5 * (2 * cond["c"] + 0.5))
    once = sample(guided, x, uniform_grid(1), solver=FlowMapSolver(), cond=cond)
    torch.testing.assert_close(once[:, 1], 2 * cond["c"] + 1.0)
    # s = t where nobody asks for a jump
    torch.testing.assert_close(flow(x, torch.tensor(0.3), cond).velocity[:, 0], cond["c"])


@pytest.mark.parametrize("wrap", ["seen", "replaced"])
def test_known_positions_stay_and_the_others_jump(wrap):
    x, x1, known = torch.zeros(2, 4, 1), torch.full((2, 4, 1), 7.0), torch.tensor([[True, False, False, True]] * 2)
    shown = []

    def watched(x, t, cond):
        shown.append((t, cond[END_TIME]))
        return network(x, t, cond)

    flow = MapFlow(NetworkFlowMap(watched, Linear()))
    kept = KnownFlow(flow, x1, known) if wrap == "seen" else Replaced(flow, x1, x, known)
    made = kept.restore(sample(kept, x, uniform_grid(2), solver=FlowMapSolver(), cond={"c": torch.ones(2)}))
    assert torch.equal(made[known], x1[known])
    torch.testing.assert_close(made[~known], torch.full((4, 1), 1.5))
    if wrap == "seen":
        for t, s in shown:
            assert bool((t[known] == 1).all())
            assert bool((s[known] == 1).all())
            assert bool((s[~known] > t[~known]).all())


def test_streams_jump_each_on_its_own_path():
    targets = {"a": (ONE, Linear()), "b": (GaussianMixture.random(1, 3, 1, seed=2), Cosine())}
    maps = {k: target.map(path) for k, (target, path) in targets.items()}

    def net(x, t, cond):
        return {k: maps[k].average(x[k].double(), t.double(), cond[END_TIME].double()) for k in x}

    start = {k: noise((16, *target.means.shape[1:]), 3) for k, (target, _) in targets.items()}
    flow_map = NetworkFlowMap(net, {k: path for k, (_, path) in targets.items()})
    for steps in (1, 3):
        made = sample(flow_map, start, uniform_grid(steps))
        for k in made:
            torch.testing.assert_close(made[k], maps[k](start[k], 0.0, 1.0), rtol=1e-4, atol=1e-5)


def test_what_makes_no_jumps_is_refused():
    x, grid = noise((2, 1)), uniform_grid(1)
    plain = NetworkFlow(lambda x, t, cond: x, Linear())
    with pytest.raises(ValueError, match="no flow map and makes no jumps: take a solver of the ODE"):
        sample(plain, x, grid, solver=FlowMapSolver())
    with pytest.raises(ValueError, match=r"leave sample\.path out"):
        sample(OnPath(MapFlow(NUMBERS.map()), Cosine()), x, grid, solver=FlowMapSolver())
    with pytest.raises(ValueError, match="invert with an ODE solver"):
        invert(MapFlow(NUMBERS.map()), x, grid, solver=FlowMapSolver())
    with pytest.raises(ValueError, match=r"gamma must lie in \[0, 1\]"):
        FlowMapSolver(1.5)


def networks(inputs=(SECOND_TIME,)):
    torch.manual_seed(0)
    conditions = {"kind": ClassCondition(("a", "b"))}
    axes = (Axis("time", 8, 1.0), Axis("height", 4))
    yield MLP(StreamSpec(2), conditions, inputs, width=16, depth=2, max_frequency=20.0), torch.randn(3, 2)
    torch.manual_seed(0)
    yield (
        Transformer(StreamSpec(2, axes), conditions, inputs, width=16, depth=2, heads=2, patch=(2, 2)),
        torch.randn(3, 8, 4, 2),
    )


@pytest.mark.parametrize("which", [0, 1], ids=["mlp", "transformer"])
def test_a_second_time_changes_nothing_at_first_and_counts_once_learned(which):
    plain, x = list(networks(()))[which]
    net, _ = list(networks())[which]
    for name, value in plain.state_dict().items():
        assert torch.equal(net.state_dict()[name], value)  # made after all else: the same initial weights
    t, cond = torch.tensor([0.1, 0.5, 0.9]), {"kind": torch.tensor([0, 1, 2])}
    with torch.no_grad():
        for p in plain.parameters():
            p.add_(0.1 * torch.randn(p.shape))
    missing = net.load_state_dict(plain.state_dict(), strict=False).missing_keys
    assert missing
    assert all(key.split(".")[0] in net.neutral_at_start for key in missing)
    s = torch.tensor([0.4, 0.5, 1.0])
    assert torch.equal(net(x, t, {**cond, END_TIME: s}), plain(x, t, cond))
    assert torch.equal(net(x, t, cond), plain(x, t, cond))
    nn.init.normal_(net.inputs.mlps[END_TIME][-1].weight)
    moved = (net(x, t, {**cond, END_TIME: s}) - net(x, t, cond)).flatten(1).abs().amax(1)
    assert (moved > 1e-3).tolist() == [True, False, True]  # where s = t it is the velocity itself


def test_a_second_time_for_each_position():
    net, x = list(networks())[1]
    for layer in (net.inputs.mlps[END_TIME][-1], net.out, net.project):
        nn.init.normal_(layer.weight)
    t, cond = torch.full((3, 8), 0.2), {"kind": torch.tensor([0, 1, 2])}
    s = torch.full((3, 8), 0.7)
    same = net(x, t[:, 0], {**cond, END_TIME: s[:, 0]})
    torch.testing.assert_close(net(x, t, {**cond, END_TIME: s}), same, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(net(x, t, {**cond, END_TIME: s[:, 0]}), same, rtol=1e-4, atol=1e-4)
    s[:, -2:] = 0.9
    assert float((net(x, t, {**cond, END_TIME: s}) - same).detach().abs().max()) > 1e-3
    mask = torch.ones(3, 8, dtype=torch.bool)
    mask[:, -2:] = False
    torch.testing.assert_close(
        net(x, t, {**cond, END_TIME: s, "mask": mask})[:, :-2],
        net(x, t, {**cond, END_TIME: s[:, :1], "mask": mask})[:, :-2],
    )


def test_an_input_that_is_not_given_is_named():
    net = MLP(StreamSpec(2), {}, (SECOND_TIME, SECOND_TIME._replace(name="scale")), width=16, depth=1)
    with pytest.raises(ValueError, match="the network takes the inputs scale beside the conditions"):
        net(torch.zeros(1, 2), torch.zeros(1), {})


@pytest.mark.parametrize("which", [0, 1], ids=["mlp", "transformer"])
@pytest.mark.parametrize("trained", [False, True])
def test_forward_derivatives_of_networks(which, trained):
    """Against a difference in float64, with attention and recomputation of blocks, with and without gradients."""
    net, x = list(networks())[which]
    if which:
        net.checkpoint = True
    net.double()
    with torch.no_grad():
        for p in net.parameters():
            p.add_(0.3 * torch.randn(p.shape))
    s, cond = torch.tensor([0.5, 0.7, 0.9]), {"kind": torch.tensor([0, 1, 2])}
    x, v, t = x.double(), torch.randn(x.shape).double(), torch.tensor([0.1, 0.2, 0.3]).double()

    def u(x, t):
        return net(x, t, {**cond, END_TIME: s.double()})

    with torch.set_grad_enabled(trained):
        value, slope = jvp(u, (x, t), (v, torch.ones(3).double()))
    torch.testing.assert_close(value, u(x, t))
    h = 2.0**-12 if which else 2.0**-16  # coarse: times, and the blocks of the transformer, are float32
    for along, found in ((1.0, slope), (0.0, jvp(lambda x: u(x, t), (x,), (v,))[1])):
        difference = (u(x + h * v, t + along * h) - u(x - h * v, t - along * h)) / (2 * h)
        assert float(((found - difference).norm() / difference.norm()).detach()) < 2e-2
    assert slope.requires_grad == trained
    if trained:
        slope.square().mean().backward()
        assert all(p.grad is not None for p in net.parameters() if p.requires_grad and p is not net.out.bias)


def fails_within():
    with forward_differentiable():
        assert differentiated()
        raise RuntimeError("on purpose")


def test_the_context_is_left_behind_errors():
    with pytest.raises(RuntimeError, match="on purpose"):
        fails_within()
    assert not differentiated()

"""Several streams: settings for all or one a stream, in training and in sampling."""

import math

import pytest
import torch

from flowgen.core.estimate import Estimate
from flowgen.core.flow import NetworkFlow, Shifted
from flowgen.core.guidance import APG, CFG
from flowgen.core.likelihood import log_prob
from flowgen.core.losses import EDM, FlowMatching, Likelihood, Uncertainty
from flowgen.core.paths import VP, Cosine, Linear
from flowgen.core.random import Randomness
from flowgen.core.sampler import invert, prior, sample
from flowgen.core.solvers import DPMSolverPP2M, EulerMaruyama, Heun, UniPC
from flowgen.core.times import LogitNormal, TokenShift, Uniform, uniform_grid
from flowgen.core.tree import tree_map
from flowgen.testing.oracle import GaussianMixture

B = 32
G = torch.Generator().manual_seed(3)
X1 = {"sound": torch.randn(B, 6, 2, generator=G), "picture": torch.randn(B, 3, 4, 1, generator=G)}
R = Randomness(5, 2, B)
PATHS = {"sound": Cosine(), "picture": Linear()}


def network(x, t, cond):
    """Something that depends on state and time, stream by stream."""

    def leaf(x, t):
        return 0.3 * x + torch.sin(3 * t).reshape(t.shape + (1,) * (x.ndim - t.ndim))

    return tree_map(leaf, x, t)


@pytest.mark.parametrize(
    "options",
    [
        {"path": Cosine()},
        {"times": LogitNormal(0.2, 0.8)},
        {"shift": 3.0},
        {"predicts": "data", "space": "noise"},
        {"predicts": "noise", "weighting": "min-snr"},
        {"predicts": "score"},
    ],
    ids=lambda o: "-".join(o),
)
def test_settings_by_stream_that_are_equal_give_the_losses_of_one_for_all(options):
    plain = FlowMatching(**options)(network, X1, {}, R)
    by_stream = {k: dict.fromkeys(X1, v) for k, v in options.items() if k in ("path", "times", "shift", "predicts")}
    each = FlowMatching(**{**options, **by_stream}, weights=dict.fromkeys(X1, 2.0))(network, X1, {}, R)
    torch.testing.assert_close(each.total, plain.total, rtol=1e-6, atol=1e-6)
    for name in X1:
        torch.testing.assert_close(each.by_stream[name], plain.by_stream[name], rtol=0, atol=0)


@pytest.mark.parametrize("loss", [FlowMatching, EDM])
def test_settings_of_one_stream_are_those_of_a_loss_on_it_alone(loss):
    both = loss(PATHS, {"sound": LogitNormal(), "picture": Uniform()}, shift={"sound": 2.0, "picture": 0.5},
                weights={"sound": 3.0, "picture": 1.0}, noise_levels="independent")  # fmt: skip
    out = both(network, X1, {}, R)
    assert {k: v.shape for k, v in out.t.items()} == {"sound": (B,), "picture": (B,)}
    torch.testing.assert_close(out.total, (3 * out.by_stream["sound"] + out.by_stream["picture"]) / 4)
    for name, path in PATHS.items():
        # the same noise and times, in a loss that knows nothing of streams
        t, x0 = out.t[name].double(), R.normal(X1)[name].double()
        c, x1 = path(t), X1[name].double()
        wide = {k: v.reshape(-1, *[1] * (x1.ndim - 1)) for k, v in c._asdict().items()}
        xt = wide["alpha"] * x1 + wide["sigma"] * x0
        if loss is FlowMatching:
            expected = network(xt, t, {}) - (wide["dalpha"] * x1 + wide["dsigma"] * x0)
        else:
            root = (wide["alpha"] ** 2 + wide["sigma"] ** 2).sqrt()
            expected = network(xt / root, t, {}) - (wide["sigma"] * x1 - wide["alpha"] * x0) / root
        torch.testing.assert_close(
            out.by_stream[name].double(), expected.square().flatten(1).mean(1), rtol=1e-4, atol=1e-5
        )


def test_independent_times_are_independent_and_the_same_on_any_number_of_ranks():
    x1 = {k: v[:1].expand(4096, *v.shape[1:]) for k, v in X1.items()}
    seen = {}
    for levels in ("shared", "independent", {"sound": "a", "picture": "a"}):
        seen[str(levels)] = FlowMatching(noise_levels=levels)(network, x1, {}, Randomness(0, 0, 4096)).t
    assert isinstance(seen["shared"], torch.Tensor)
    together = list(seen.values())[2]
    assert torch.equal(together["sound"], together["picture"])
    t = seen["independent"]
    correlation = float(torch.corrcoef(torch.stack([t["sound"], t["picture"]]))[0, 1])
    assert abs(correlation) < 4 / math.sqrt(4096)
    for one in t.values():  # each is stratified on its own
        assert torch.equal((one.sort().values * 4096).floor(), torch.arange(4096.0))

    loss = FlowMatching(noise_levels="independent")
    whole = loss(network, X1, {}, R)
    parts = []
    for rows in (torch.arange(0, 20), torch.arange(20, B)):
        held = {k: v[rows] for k, v in X1.items()}
        parts.append(loss(network, held, {}, Randomness(5, 2, B, rows)))
    torch.testing.assert_close(torch.cat([p.total for p in parts]), whole.total)
    other = loss(network, X1, {}, Randomness(5, 3, B))
    assert not torch.equal(other.t["sound"], whole.t["sound"])


def test_streams_of_one_noise_level_have_one_distribution_of_times():
    times = {"sound": LogitNormal(), "picture": Uniform()}
    with pytest.raises(ValueError, match="sound and picture share a noise level and have different times"):
        FlowMatching(times=times)
    FlowMatching(times=times, noise_levels={"sound": "a", "picture": "b"})


def test_what_has_one_time_refuses_times_by_stream():
    with pytest.raises(ValueError, match="one time for all streams: give one shift"):
        Likelihood(shift={"sound": 1.0, "picture": 2.0})
    with pytest.raises(ValueError, match="one time for all streams: give one times"):
        Uncertainty(times=dict.fromkeys(X1, Uniform()))
    with pytest.raises(ValueError, match="the latents are one stream"):
        FlowMatching(noise_levels="independent")(network, X1["sound"], {}, R)


def test_a_token_shift_of_a_stream_counts_its_own_tokens():
    shift = {"sound": TokenShift(base=6), "picture": TokenShift(base=3)}
    out = FlowMatching(shift=shift)(network, X1, {}, R)
    plain = FlowMatching()(network, X1, {}, R).t
    torch.testing.assert_close(out.t["sound"], plain)  # 6 tokens
    torch.testing.assert_close(out.t["picture"], plain / (plain + 2 * (1 - plain)))  # 12 tokens


class Heads(torch.nn.Module):
    """A part for each stream, and one for all."""

    def __init__(self):
        super().__init__()
        self.shared = torch.nn.Parameter(torch.ones(1))
        self.own = torch.nn.ParameterDict({k: torch.nn.Parameter(torch.ones(v.shape[-1])) for k, v in X1.items()})

    def forward(self, x, t, cond):
        return {k: x[k] * self.own[k] * self.shared for k in x}


@pytest.mark.parametrize("predicts", ["velocity", "data", "noise", "score", "v"])
def test_an_absent_stream_adds_nothing_and_has_a_gradient_of_exactly_zero(predicts):
    present = torch.arange(B) % 3 != 0
    mask = {k: torch.ones(v.shape[:-1], dtype=torch.bool) for k, v in X1.items()}
    loss = FlowMatching(
        PATHS, predicts=predicts, noise_levels="independent", shift={"sound": TokenShift(4), "picture": 1.0}
    )

    def gradients(x1, mask, sound):
        x1, mask = dict(x1), {**mask, "sound": mask["sound"] & sound.reshape(-1, 1)}
        net = Heads()
        out = loss(net, x1, {"mask": mask}, R)
        out.total.mean().backward()
        return out, net

    none, net = gradients(X1, mask, torch.zeros(B, dtype=torch.bool))
    assert torch.equal(net.own["sound"].grad, torch.zeros(2))
    assert float(net.own["picture"].grad.abs().min()) > 0
    assert bool(none.by_stream["sound"].isnan().all())
    assert bool(none.total.isfinite().all())

    some, net = gradients(X1, mask, present)
    spoilt = {**X1, "sound": torch.where(present[:, None, None], X1["sound"], 50.0)}
    other, again = gradients(spoilt, mask, present)
    assert torch.equal(some.total, other.total)
    for name in X1:
        assert torch.equal(net.own[name].grad, again.own[name].grad)
    torch.testing.assert_close(some.total[~present], some.by_stream["picture"][~present] / 2)
    assert torch.equal(some.by_stream["sound"].isnan(), ~present)


TARGETS = {
    "sound": GaussianMixture(
        torch.tensor([[1.0, -2.0]]).double(), torch.tensor([0.5]).double(), torch.ones(1).double()
    ),
    "picture": GaussianMixture(torch.tensor([[3.0]]).double(), torch.tensor([0.2]).double(), torch.ones(1).double()),
}


class Exact:
    """The exact flow of two independent Gaussians, each on a path of its own and predicted in a way of its own."""

    def __init__(self, paths=PATHS, predicts="velocity"):
        self.path, self.predicts = paths, predicts
        said = predicts if isinstance(predicts, dict) else dict.fromkeys(paths, predicts)
        self.flows = {k: TARGETS[k].flow(paths[k], said[k]) for k in paths}

    def __call__(self, x, t, cond=None):
        value = tree_map(lambda x, t, flow: flow(x, t).value, x, t, self.flows)
        return Estimate(self.path, x, t, self.predicts, value)


def noise(n=64):
    g = torch.Generator().manual_seed(1)
    return {"sound": torch.randn(n, 2, generator=g).double(), "picture": torch.randn(n, 1, generator=g).double()}


def exact_map(x0):
    ends = {}
    for name, target in TARGETS.items():
        start = PATHS[name](torch.zeros((), dtype=torch.float64)).sigma
        ends[name] = target.flow_map(PATHS[name], start * x0[name], 0.0, 1.0)
    return ends


SOLVERS = [Heun(), DPMSolverPP2M(), UniPC()]


@pytest.mark.parametrize("factors", [None, {"sound": 3.0, "picture": 0.5}], ids=["one clock", "a shift a stream"])
@pytest.mark.parametrize("predicts", ["velocity", "data", {"sound": "noise", "picture": "data"}], ids=str)
@pytest.mark.parametrize("solver", SOLVERS, ids=lambda s: type(s).__name__)
def test_streams_on_paths_of_their_own_are_sampled_exactly(solver, predicts, factors):
    flow, x0 = Exact(predicts=predicts), noise()
    start, grid = 0.0, uniform_grid(100)
    if isinstance(predicts, dict):  # noise cannot be read as data where alpha = 0
        grid = uniform_grid(1000)[1:]
        start = float(grid[0])
    if factors is not None:
        flow = Shifted(flow, factors)
    x = sample(flow, prior(flow.path, x0, start), grid, solver=solver)
    ends = exact_map(x0)
    for name in x:
        torch.testing.assert_close(x[name], ends[name], rtol=0, atol=0.02)


def test_a_shift_of_a_stream_shows_the_network_its_own_time():
    seen = []

    def zero(x, t, cond):
        seen.append({k: float(v[0]) for k, v in t.items()})
        return tree_map(torch.zeros_like, x)

    flow = Shifted(NetworkFlow(zero, PATHS), {"sound": 2.0, "picture": 1.0})
    sample(flow, noise(2), uniform_grid(4))
    for i, times in enumerate(seen):
        u = i / 4
        assert times["picture"] == pytest.approx(u)
        assert times["sound"] == pytest.approx(u / (u + 2 * (1 - u)))


def test_streams_that_are_shifted_alike_go_as_on_one_shifted_grid():
    """Euler on the linear path is exact in the clock: the same states as one shift of the grid."""
    flow = Exact(dict.fromkeys(TARGETS, Linear()), "data")
    plain = sample(flow, noise(), uniform_grid(8, 2.0), solver=DPMSolverPP2M())
    own = sample(Shifted(flow, dict.fromkeys(TARGETS, 2.0)), noise(), uniform_grid(8), solver=DPMSolverPP2M())
    for name in plain:
        torch.testing.assert_close(own[name], plain[name])


def test_noise_of_a_stochastic_solver_fits_each_stream():
    flow = Shifted(Exact(), {"sound": 2.0, "picture": 1.0})
    g = torch.Generator().manual_seed(2)
    draws = lambda x, t, s: tree_map(lambda v: torch.randn(v.shape, generator=g, dtype=v.dtype), x)  # noqa: E731
    x = sample(flow, prior(flow.path, noise(4000)), uniform_grid(100), solver=EulerMaruyama(), noise=draws)
    for name, target in TARGETS.items():
        torch.testing.assert_close(x[name].mean(0), target.means[0], rtol=0, atol=0.04)
        torch.testing.assert_close(x[name].std(0), target.stds.expand(x[name].shape[1]), rtol=0.06, atol=0)


def test_likelihood_and_inversion_know_paths_and_shifts_by_stream():
    flow = Shifted(Exact(), {"sound": 3.0, "picture": 0.5})
    x1 = exact_map(noise(16))
    found = log_prob(flow, x1, torch.tensor([0.0, 1.0]).double())
    expected = sum(target.log_prob(x1[name]) for name, target in TARGETS.items())
    torch.testing.assert_close(found.log_prob, expected, rtol=1e-4, atol=1e-4)
    back = invert(flow, x1, uniform_grid(100), solver=Heun())
    for name, x0 in noise(16).items():
        torch.testing.assert_close(back[name], x0, rtol=0, atol=0.01)


@pytest.mark.parametrize("guidance", [CFG(2.0, 0.3, 0.8), APG(2.0, start=0.3, end=0.8)], ids=["cfg", "apg"])
def test_guidance_judges_each_stream_by_its_own_time(guidance):
    def says(x, t, cond):
        return tree_map(lambda x: x * 0 + cond["c"].reshape(-1, *[1] * (x.ndim - 1)), x)

    flow = guidance(NetworkFlow(says, PATHS, {"sound": "velocity", "picture": "data"}), {"c": torch.zeros(4)})
    x, cond = noise(4), {"c": torch.ones(4)}
    for sound in (0.1, 0.5):
        t = {"sound": torch.tensor(sound).double(), "picture": torch.tensor(0.9).double()}
        value = flow(x, t, cond).value
        assert bool((value["sound"] == 1).all()) == (sound == 0.1)
        assert bool((value["picture"] == 1).all())


def test_a_singular_reading_of_one_stream_is_refused_before_sampling():
    flow = Exact({"sound": VP(), "picture": Linear()}, {"sound": "velocity", "picture": "noise"})
    with pytest.raises(ValueError, match="a noise prediction cannot be read as data at t = 0"):
        sample(flow, noise(), uniform_grid(4), solver=DPMSolverPP2M())


@pytest.mark.parametrize("loss", [FlowMatching, EDM])
@pytest.mark.parametrize(
    "options",
    [
        {"weights": {"sound": 1.0}},
        {"weights": {"sound": 1.0, "film": 1.0}},
        {"noise_levels": {"sound": "a", "film": "b"}},
        {"path": {"sound": Linear(), "film": Linear()}},
    ],
    ids=lambda o: f"{next(iter(o))}-{len(next(iter(o.values())))}",
)
def test_streams_that_are_not_there_are_refused_by_name(loss, options):
    (option,) = options
    with pytest.raises(ValueError, match=rf"{option} names the streams .*those of the latents are picture, sound"):
        loss(**options)(network, X1, {}, R)
    with pytest.raises(ValueError, match=rf"{option} is given by stream .*the latents are one stream"):
        loss(**options)(network, X1["sound"], {}, R)

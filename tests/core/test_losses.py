"""Losses: their minimisers are the oracle's fields, whatever is predicted, measured, weighted or drawn."""

import math

import pytest
import torch

from flowgen.core.betas import Betas
from flowgen.core.couplings import GivenPairs, Independent
from flowgen.core.estimate import convert
from flowgen.core.flow import ShiftedPath
from flowgen.core.losses import (
    EDM,
    Distillation,
    FlowDPO,
    FlowMapMatching,
    FlowMatching,
    Likelihood,
    Preconditioned,
    Uncertainty,
    ddpm,
    rectified_flow,
    score_matching,
)
from flowgen.core.paths import VE, VP, CondOT, Cosine, Linear
from flowgen.core.random import Randomness
from flowgen.core.sampler import sample
from flowgen.core.solvers import RK4, Heun
from flowgen.core.times import LogitNormal, Mode, TokenShift, Uniform, uniform_grid
from flowgen.testing.oracle import GaussianMixture

PATHS = [Linear(), CondOT(), Cosine(), VP(), VE()]
MIXTURE = GaussianMixture.random(3, 2, seed=5)
BATCH = 4096


def times_of(path, predicts):
    """Uniform, but where the velocity is infinite at t = 1: with times that reach it such a loss is refused."""
    return LogitNormal() if isinstance(path, VP) and predicts == "velocity" else Uniform()


X1 = MIXTURE.sample(BATCH, torch.Generator().manual_seed(2))
R = Randomness(seed=4, step=0, batch=BATCH)


class Mean(torch.nn.Module):
    """What minimises a regression: the oracle's conditional mean, plus an error of a chosen size."""

    def __init__(self, loss, off=0.0, scale=1.0, path=None):
        super().__init__()
        self.loss, self.off, self.scale = loss, off, scale

    def forward(self, x, t, cond):
        flow = MIXTURE.flow(self.loss.path, self.loss.predicts)
        return (self.scale * flow(x.double(), t.double()).value + self.off).float()


@pytest.mark.parametrize("predicts", ["velocity", "data", "noise", "score", "v"])
@pytest.mark.parametrize("path", PATHS, ids=lambda p: type(p).__name__)
def test_the_oracle_minimises_the_loss(path, predicts):
    """Within every stratum of t the conditional mean has less error than the same mean scaled or moved."""
    space = "noise" if predicts == "score" else None
    loss = FlowMatching(path, times_of(path, predicts), predicts=predicts, space=space)
    best = loss(Mean(loss), X1, {}, R).total
    for other in (
        Mean(loss, scale=0.9),
        Mean(loss, scale=1.1),
        Mean(loss, off=2.0 if predicts == "score" or isinstance(path, VE) else 0.1),
    ):
        worse = loss(other, X1, {}, R).total
        assert float((worse - best).mean()) > 0


@pytest.mark.parametrize("predicts", ["velocity", "data", "noise", "score", "v"])
@pytest.mark.parametrize("path", PATHS, ids=lambda p: type(p).__name__)
def test_the_target_is_the_conditional_field(path, predicts):
    """At zero loss a network says exactly what conversions make of x1 and x0."""
    loss = FlowMatching(path, LogitNormal(), predicts=predicts)
    x0 = R.normal(X1).double()

    def knows(x, t, cond):
        c = path(t.double())
        noise = (x.double() - c.alpha[:, None] * X1) / c.sigma[:, None]
        torch.testing.assert_close(noise, x0, rtol=1e-2, atol=2e-2)  # x was made in float32
        return convert(x0, x.double(), c, "noise", predicts).float()

    scale = {"score": 1e-2}.get(predicts, 1e-4)
    assert float(loss(knows, X1.float(), {}, R).total.mean()) < scale


@pytest.mark.parametrize("space", ["velocity", "data", "noise", "score", "v"])
@pytest.mark.parametrize("predicts", ["velocity", "data", "noise", "score", "v"])
def test_errors_in_another_space_are_proportional(predicts, space):
    """A loss measured in `space` is that of the converted prediction, sample by sample, where the cap does not bind."""
    path, x0 = Cosine(), R.normal(X1).double()
    loss = FlowMatching(path, LogitNormal(0, 0.4), predicts=predicts, space=space, max_ratio=1e3)
    got = loss(Mean(loss, off=0.3), X1, {}, R)
    c = path(got.t.double()[:, None])
    xt = c.alpha * X1 + c.sigma * x0
    said = convert(Mean(loss, off=0.3)(xt, got.t, {}).double(), xt, c, predicts, space)
    expected = (said - convert(x0, xt, c, "noise", space)).square().mean(1)
    torch.testing.assert_close(got.total.double(), expected, rtol=2e-3, atol=1e-4)


def test_the_ratio_is_capped():
    loss = FlowMatching(Linear(), predicts="data", space="velocity", max_ratio=3.0)
    end = Randomness(0, 0, BATCH, quantile=1 - 1e-6)
    got = loss(lambda x, t, cond: X1.float() + 1.0, X1.float(), {}, end)
    torch.testing.assert_close(got.total, torch.full((BATCH,), 9.0), rtol=1e-3, atol=0)


@pytest.mark.parametrize("q", [0.0, 1.0])
@pytest.mark.parametrize("weighting", ["uniform", "min-snr", "logit-normal"])
@pytest.mark.parametrize("predicts", ["velocity", "data", "noise", "score", "v"])
@pytest.mark.parametrize("path", PATHS, ids=lambda p: type(p).__name__)
def test_finite_at_both_ends(path, predicts, weighting, q):
    if isinstance(path, VP) and predicts == "velocity" and q == 1.0:
        pytest.skip("the velocity of the VP path is infinite at t = 1")
    loss = FlowMatching(path, times_of(path, predicts), predicts=predicts, weighting=weighting)
    total = loss(lambda x, t, cond: torch.zeros_like(x), X1.float(), {}, Randomness(0, 0, BATCH, quantile=q)).total
    assert total.isfinite().all()


@pytest.mark.parametrize("predicts", ["velocity", "data", "noise", "score", "v"])
def test_min_snr_weighs_the_error_of_the_data(predicts):
    path, x0 = Linear(), R.normal(X1).double()
    loss = FlowMatching(path, LogitNormal(), predicts=predicts, weighting="min-snr", snr_cap=5.0)
    got = loss(Mean(loss, off=0.2), X1, {}, R)
    c = path(got.t.double()[:, None])
    xt = c.alpha * X1 + c.sigma * x0
    data = convert(Mean(loss, off=0.2)(xt, got.t, {}).double(), xt, c, predicts, "data")
    expected = ((c.alpha / c.sigma) ** 2).clamp(max=5.0)[:, 0] * (data - X1).square().mean(1)
    torch.testing.assert_close(got.total.double(), expected, rtol=2e-3, atol=1e-4)


def test_logit_normal_weighting_is_logit_normal_sampling():
    flat = FlowMatching(weighting="logit-normal", density_mean=-0.3, density_std=0.8)
    drawn = FlowMatching(times=LogitNormal(-0.3, 0.8))
    a, b = (float(loss(Mean(loss, off=0.5), X1, {}, R).total.mean()) for loss in (flat, drawn))
    assert a == pytest.approx(b, rel=0.03)
    assert float(FlowMatching()(Mean(flat, off=0.5), X1, {}, R).total.mean()) != pytest.approx(b, rel=0.03)


def test_huber():
    x1 = torch.zeros(BATCH, 2)
    for size in (0.1, 3.0):
        plain, huber = (
            FlowMatching(predicts="data", huber=h)(lambda x, t, cond, s=size: torch.full_like(x, s), x1, {}, R).total[0]
            for h in (None, 0.5)
        )
        expected = size**2 if size <= 0.5 else 2 * 0.5 * (size - 0.25)
        assert float(plain) == pytest.approx(size**2)
        assert float(huber) == pytest.approx(expected)


def test_uncertainty_learns_the_logarithm_of_the_loss():
    loss = Uncertainty(knots=9)
    network = Mean(loss)
    optimizer = torch.optim.Adam(loss.parameters(), lr=0.1)
    plain = None
    for step in range(150):
        out = loss(network, X1, {}, Randomness(0, step % 4, BATCH))
        optimizer.zero_grad()
        out.total.mean().backward()
        optimizer.step()
    plain = FlowMatching()(network, X1, {}, R)
    bins = (plain.t * 8).long()
    for k in (1, 3, 5, 7):
        rows = bins == k
        expected = float(plain.total[rows].mean().log())
        assert float(loss.log_loss(plain.t[rows]).mean()) == pytest.approx(expected, abs=0.12)


@pytest.mark.parametrize("path", [Linear(), Cosine(), VP(), VE(0.01, 5.0)], ids=lambda p: type(p).__name__)
@pytest.mark.parametrize("data_std", [1.0, 0.4])
def test_preconditioning_sees_and_makes_unit_variance(path, data_std):
    g = torch.Generator().manual_seed(0)
    x1 = data_std * torch.randn(BATCH, 4, generator=g)
    seen = []

    def network(x, t, cond):
        seen.append(x)
        return torch.zeros_like(x)

    out = EDM(path, data_std=data_std, output="data")(network, x1, {}, R)
    for part in range(4):  # at every time, not only in the mean
        rows = (out.t * 4).long() == part
        assert float(seen[0][rows].std()) == pytest.approx(1.0, abs=0.05)
        assert float(out.total[rows].mean()) == pytest.approx(1.0, abs=0.1)


@pytest.mark.parametrize("output", ["velocity", "data"])
@pytest.mark.parametrize("path", [Linear(), Cosine(), VP(), VE(0.01, 5.0)], ids=lambda p: type(p).__name__)
def test_preconditioned_training_and_sampling_agree(path, output):
    """The F that has no EDM loss, assembled as for sampling, is the conditional field."""
    loss = EDM(path, LogitNormal(), data_std=0.7, output=output)
    x0, x1 = R.normal(X1).double(), X1
    kept = {}

    def perfect(x, t, cond):
        c = path(t.double()[:, None])
        root = torch.sqrt((c.alpha * 0.7) ** 2 + c.sigma**2)
        kept["t"] = t
        return (c.sigma * x1 - c.alpha * 0.49 * x0) / (0.7 * root)

    assert float(loss(perfect, X1.float(), {}, R).total.max()) < 1e-3
    t = kept["t"].double()
    c = path(t[:, None])
    xt = c.alpha * x1 + c.sigma * x0
    said = Preconditioned(perfect, path, 0.7, output)(xt, t, {})
    torch.testing.assert_close(said, convert(x0, xt, c, "noise", output), rtol=1e-5, atol=1e-5)
    assert loss.flow(perfect).predicts == loss.predicts == output


def test_presets_set_path_prediction_and_loss_together():
    assert (ddpm().path, ddpm().predicts) == (VP(), "noise")
    assert (score_matching().path, score_matching().predicts, score_matching().space) == (VE(), "score", "noise")
    assert (rectified_flow().path, rectified_flow().predicts) == (Linear(), "velocity")
    # DDPM's simple loss is the error of the noise; denoising score matching that of sigma score
    x0 = R.normal(X1).float()
    zero = ddpm()(lambda x, t, cond: torch.zeros_like(x), X1.float(), {}, R)
    torch.testing.assert_close(zero.total, x0.square().mean(1))
    loss = score_matching(sigma_max=5.0)
    got = loss(Mean(loss), X1, {}, R)
    score = Mean(loss)(X1 + loss.path(got.t.double()).sigma[:, None] * x0, got.t, {})
    expected = (loss.path(got.t).sigma[:, None] * score + x0).square().mean(1)
    torch.testing.assert_close(got.total, expected, rtol=1e-2, atol=1e-3)


def test_masked_and_known_positions_do_not_matter():
    g = torch.Generator().manual_seed(0)
    x1 = torch.randn(8, 6, 3, generator=g)
    mask = torch.arange(6) < torch.tensor([6, 5, 4, 3, 2, 1, 6, 6])[:, None]
    known = torch.zeros(8, 6, dtype=torch.bool)
    known[6, :2] = True
    known[7] = True  # nothing is left to generate
    random = Randomness(0, 0, 8)
    seen = {}

    def network(x, t, cond):
        seen["t"], seen["x"] = t, x
        return 0.1 * x

    for loss in (FlowMatching(), FlowMatching(Cosine(), predicts="data"), EDM()):
        a = loss(network, x1, {"mask": mask}, random, known)
        assert bool((seen["t"][known] == 1).all())
        if isinstance(loss, FlowMatching):
            torch.testing.assert_close(seen["x"][known], x1[known])
        spoilt = torch.where((mask & ~known)[..., None], x1, x1 + 100 * torch.randn(x1.shape, generator=g))
        b = loss(
            lambda x, t, cond: 0.1 * torch.where((mask & ~known)[..., None], x, 0.0),
            spoilt,
            {"mask": mask},
            random,
            known,
        )
        torch.testing.assert_close(a.total, b.total)
        assert float(a.total[7]) == 0.0


def test_streams_are_told_apart():
    x1 = {"a": torch.ones(4, 5, 2), "b": torch.zeros(4, 3)}
    paths = {"a": Linear(), "b": Cosine()}
    out = FlowMatching(paths, predicts="data")(
        lambda x, t, cond: {k: torch.zeros_like(v) for k, v in x.items()}, x1, {}, Randomness(0, 0, 4)
    )
    torch.testing.assert_close(out.by_stream["a"], torch.ones(4))
    torch.testing.assert_close(out.by_stream["b"], torch.zeros(4))
    torch.testing.assert_close(out.total, torch.full((4,), 0.5))


def test_given_pairs_take_the_place_of_the_noise():
    partner = torch.randn(BATCH, 2, generator=torch.Generator().manual_seed(8))
    seen = {}

    def network(x, t, cond):
        seen.update(x=x, t=t, names=sorted(cond))
        return torch.zeros_like(x)

    out = FlowMatching(coupling=GivenPairs())(network, X1.float(), {"source": partner, "label": torch.zeros(BATCH)}, R)
    torch.testing.assert_close(out.total, (X1.float() - partner).square().mean(1), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(seen["x"], torch.lerp(partner, X1.float(), seen["t"][:, None]), rtol=1e-4, atol=1e-4)
    assert seen["names"] == ["label"]
    with pytest.raises(ValueError, match="under the condition 'source'"):
        FlowMatching(coupling=GivenPairs())(network, X1.float(), {}, R)


def test_shift_by_tokens_shifts_times():
    x1 = torch.zeros(64, 1024, 1)
    times = {}
    for name, k in (("number", 2.0), ("tokens", TokenShift(base=256))):
        times[name] = FlowMatching(shift=k)(lambda x, t, cond: x, x1, {}, Randomness(0, 0, 64)).t
    torch.testing.assert_close(times["number"], times["tokens"])


def test_the_rows_of_a_batch_do_not_depend_on_the_split():
    whole = FlowMatching()(lambda x, t, cond: 0.5 * x, X1[:64].float(), {}, Randomness(0, 7, 64)).total
    parts = [
        FlowMatching()(lambda x, t, cond: 0.5 * x, X1[rows].float(), {}, Randomness(0, 7, 64, rows=rows)).total
        for rows in torch.arange(64).split(24)
    ]
    assert torch.equal(torch.cat(parts), whole)


def test_likelihood_training_pulls_a_flow_to_its_data():
    """One learnable affine velocity: the maximum-likelihood fit of N(m, s^2) has the moments of the data."""
    g = torch.Generator().manual_seed(0)
    x1 = 1.5 + 0.5 * torch.randn(256, 1, generator=g)
    network = torch.nn.Linear(1, 1)
    torch.nn.init.zeros_(network.weight)
    torch.nn.init.zeros_(network.bias)
    loss = Likelihood(steps=4, divergence="exact")
    optimizer = torch.optim.Adam(network.parameters(), lr=0.05)
    for step in range(120):
        total = loss(lambda x, t, cond: network(x), x1, {}, Randomness(0, step, 256)).total.mean()
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
    entropy = 0.5 * math.log(2 * math.pi * math.e * float(x1.var(unbiased=False)))
    assert float(total) == pytest.approx(entropy, abs=0.02)
    x = sample(
        loss.flow(lambda x, t, cond: network(x)), torch.randn(4096, 1, generator=g), uniform_grid(8), solver=RK4()
    )
    assert float(x.mean()) == pytest.approx(1.5, abs=0.05)
    assert float(x.std()) == pytest.approx(0.5, abs=0.05)


def test_likelihood_refuses_parts_of_clips():
    with pytest.raises(ValueError, match="whole clip"):
        Likelihood()(
            lambda x, t, cond: x,
            torch.zeros(2, 3, 1),
            {"mask": torch.ones(2, 3, dtype=torch.bool)},
            Randomness(0, 0, 2),
        )


@pytest.mark.parametrize(
    "options",
    [
        {"predicts": "speed"},
        {"space": "speed"},
        {"max_ratio": 0.0},
        {"huber": -1.0},
        {"snr_cap": 0.0},
        {"weighting": "min-snr", "space": "noise"},
    ],
)
def test_impossible_options_are_refused(options):
    with pytest.raises(ValueError, match=r"unknown|positive|unset"):
        FlowMatching(**options)


INFINITE = r"^the velocity of {} is infinite at t = 1, and so is the mean of its squared error: "
OTHER_TIMES = r", or draw times that leave out t = 1 \(times: logit-normal\)$"


@pytest.mark.parametrize("path", [VP(), VP(1.0, 1.0), Betas(), Betas((0.1, 0.4)), ShiftedPath(VP(), 3.0)], ids=repr)
def test_a_loss_on_a_velocity_without_bound_is_refused(path):
    said = INFINITE.format(type(path).__name__)
    ways = said + r"predict data, noise or v \(predicts: v\)" + OTHER_TIMES
    for build in (
        FlowMatching,
        lambda *a: FlowMatching(*a, space="data"),
        Uncertainty,
        lambda *a: FlowDPO("run", path=path),
    ):
        with pytest.raises(ValueError, match=ways):
            build(path).check_limits()
        assert build(path).flow(lambda x, t, cond: x) is not None  # what was trained so can be sampled
    for times in (Mode(), Mode(-1.0), lambda u: u):
        with pytest.raises(ValueError, match=ways):
            FlowMatching(path, times).check_limits()
    with pytest.raises(ValueError, match=said + "train on another path"):
        FlowMapMatching(path).check_limits()
    with pytest.raises(ValueError, match=said + "train on another path, as linear or cosine$"):
        FlowMapMatching(path, LogitNormal(), to_end=0.1).check_limits()
    with pytest.raises(ValueError, match=said + "let `end` be below 1, as 0.95$"):
        Distillation("run", path=path, end=1.0).check_limits()
    # nothing but these is infinite
    for predicts in ("data", "noise", "score", "v"):
        FlowMatching(path, predicts=predicts).check_limits()
    for loss in (FlowMatching, Uncertainty, FlowMapMatching):
        loss(path, LogitNormal()).check_limits()
    Distillation("run", path=path).check_limits()
    with pytest.raises(ValueError, match=ways):  # a loop of one's own is told, too
        FlowMatching(path)(lambda x, t, cond: x, torch.zeros(2, 3), {}, Randomness(0, 0, 2))


def test_a_velocity_without_bound_is_refused_by_stream():
    paths = {"a": Linear(), "b": VP()}
    with pytest.raises(ValueError, match=INFINITE.format("VP, the path of b,")):
        FlowMatching(paths).check_limits()
    with pytest.raises(ValueError, match=INFINITE.format("VP, the path of b,")):
        FlowMatching(VP(), predicts={"a": "data", "b": "velocity"}).check_limits()
    FlowMatching(paths, predicts={"a": "velocity", "b": "v"}).check_limits()
    levels = {"a": "one", "b": "other"}
    FlowMatching(paths, {"a": Uniform(), "b": LogitNormal()}, noise_levels=levels).check_limits()
    with pytest.raises(ValueError, match=INFINITE.format("VP, the path of b,")):
        FlowMatching(paths, {"b": Uniform(), "a": LogitNormal()}, noise_levels=levels).check_limits()


@pytest.mark.parametrize("times", [Uniform(), Mode(0.8), LogitNormal()], ids=lambda t: type(t).__name__)
def test_times_that_leave_out_the_end_are_those_of_a_finite_loss(times):
    """What two stretches of quantiles, of equal ratio, add to the mean of dsigma^2 on VP: as much each, or less and less."""

    def added(first, last):
        u = 1 - torch.logspace(-first, -last, 4001, base=2, dtype=torch.float64)
        return float(torch.trapezoid(VP()(times(u)).dsigma.square(), u))

    ratio = added(24, 34) / added(14, 24)
    assert ratio < 0.05 if times.leaves_out_ends else ratio > 0.9


def test_every_option_of_the_loss_changes_it():
    """Rule 5: an option that does nothing is a defect."""
    base = FlowMatching(Cosine(), LogitNormal(), predicts="data")
    before = base(Mean(base, off=0.5), X1, {}, R).total
    changed = [
        FlowMatching(Cosine(), LogitNormal(), predicts="data", **options)
        for options in (
            {"shift": 2.0},
            {"space": "velocity"},
            {"weighting": "min-snr"},
            {"weighting": "logit-normal"},
            {"huber": 0.1},
        )
    ]
    for loss in changed:
        assert not torch.allclose(loss(Mean(loss, off=0.5), X1, {}, R).total, before)
    pairs = [({"weighting": "min-snr"}, {"snr_cap": 1.0}), ({"weighting": "logit-normal"}, {"density_mean": 1.0})]
    pairs += [({"weighting": "logit-normal"}, {"density_std": 0.3}), ({"space": "velocity"}, {"max_ratio": 1.0})]
    for given, extra in pairs:
        a, b = (FlowMatching(Cosine(), LogitNormal(), predicts="data", **o) for o in (given, {**given, **extra}))
        assert not torch.allclose(a(Mean(a, off=0.5), X1, {}, R).total, b(Mean(b, off=0.5), X1, {}, R).total)
    assert isinstance(base.coupling, Independent)
    assert Heun().order == 2

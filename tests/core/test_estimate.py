import itertools

import pytest
import torch

from flowgen.core.estimate import Estimate
from flowgen.core.interfaces import PREDICTIONS
from flowgen.core.paths import VE, VP, CondOT, Cosine, Linear
from flowgen.testing.oracle import GaussianMixture

PATHS = [Linear(), CondOT(), Cosine(), VP(), VE()]


@pytest.mark.parametrize("path", PATHS, ids=lambda p: type(p).__name__)
@pytest.mark.parametrize("source", PREDICTIONS)
@pytest.mark.parametrize("target", PREDICTIONS)
def test_conversions_agree_with_the_oracle(mixture, path, source, target, g):
    x = torch.randn(32, 2, generator=g, dtype=torch.float64) * 2
    for t in (torch.tensor(0.3), torch.tensor(0.9), torch.rand(32, generator=g), torch.rand(32, 2, generator=g)):
        t = 0.05 + 0.9 * t.double()
        read = mixture.flow(path, source)(x, t).read(target)
        torch.testing.assert_close(read, mixture.flow(path, target)(x, t).value, rtol=1e-8, atol=1e-8)


def test_score_is_the_gradient_of_the_log_density(mixture, g):
    x = torch.randn(16, 2, generator=g, dtype=torch.float64, requires_grad=True)
    for path, t in itertools.product(PATHS, (0.0, 0.4, 1.0)):
        expected = torch.autograd.grad(mixture.log_prob(x, path, t).sum(), x)[0]
        score = mixture.flow(path, "score")(x, torch.tensor(t, dtype=torch.float64)).value
        torch.testing.assert_close(score, expected, rtol=1e-9, atol=1e-9)


def test_velocity_carries_the_density(mixture):
    """The continuity equation dp/dt + div(p v) = 0, by finite differences: what makes v a flow of p_t at all."""
    x = torch.tensor([[0.3, -0.4], [1.2, 0.7]], dtype=torch.float64, requires_grad=True)
    for path in PATHS:
        t, h = 0.6, 1e-5
        v = mixture.flow(path)(x, torch.tensor(t, dtype=torch.float64)).velocity
        div = sum(torch.autograd.grad(v[:, i].sum(), x, retain_graph=True)[0][:, i] for i in range(2))
        score = torch.autograd.grad(mixture.log_prob(x, path, t).sum(), x)[0]
        dlog = (mixture.log_prob(x, path, t + h) - mixture.log_prob(x, path, t - h)) / (2 * h)
        torch.testing.assert_close(dlog, -div - (v * score).sum(1), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("predicts", "target", "t", "where"),
    [
        ("data", "velocity", 1.0, "sigma = 0"),
        ("noise", "velocity", 0.0, "alpha = 0"),
        ("velocity", "score", 1.0, "sigma = 0"),
    ],
)
def test_singular_readings_are_refused_with_the_reason(mixture, predicts, target, t, where):
    estimate = mixture.flow(Linear(), predicts)(torch.zeros(1, 2, dtype=torch.float64), torch.tensor(t))
    with pytest.raises(ValueError, match=rf"{predicts} prediction cannot be read as {target} at t = {t:g}.*{where}"):
        estimate.read(target)


@pytest.mark.parametrize("path", PATHS, ids=lambda p: type(p).__name__)
@pytest.mark.parametrize("target", ["data", "noise"])
@pytest.mark.parametrize("t", [0.0, 1.0])
def test_v_is_regular_at_both_ends(mixture, path, target, t, g):
    x, t = torch.randn(8, 2, generator=g, dtype=torch.float64), torch.tensor(t, dtype=torch.float64)
    read = mixture.flow(path, "v")(x, t).read(target)
    torch.testing.assert_close(read, mixture.flow(path, target)(x, t).value, rtol=1e-9, atol=1e-9)


def test_v_of_a_pair_is_its_rotation():
    """On the circle x_t = sin(a) x1 + cos(a) x0 moves by dx/da = cos(a) x1 - sin(a) x0 = -v at the angle a (Salimans and Ho)."""
    x1, x0, t = torch.tensor([[2.0]]), torch.tensor([[-0.7]]), torch.tensor(0.3)
    c = Cosine()(t)
    v = Estimate(Cosine(), c.alpha * x1 + c.sigma * x0, t, "velocity", c.dalpha * x1 + c.dsigma * x0).read("v")
    torch.testing.assert_close(v, c.alpha * x0 - c.sigma * x1)
    torch.testing.assert_close(v, -(c.dalpha * x1 + c.dsigma * x0) / (torch.pi / 2))


def test_streams_have_a_path_and_a_time_each():
    a, b = GaussianMixture.random(2, 3, seed=1), GaussianMixture.random(3, 2, seed=2)
    paths = {"a": Linear(), "b": Cosine()}
    x = {"a": torch.ones(2, 3, dtype=torch.float64), "b": torch.ones(2, 2, dtype=torch.float64)}
    t = {"a": torch.tensor(0.2, dtype=torch.float64), "b": torch.tensor([0.5, 0.7], dtype=torch.float64)}
    value = {"a": a.flow(paths["a"])(x["a"], t["a"]).value, "b": b.flow(paths["b"])(x["b"], t["b"]).value}
    data = Estimate(paths, x, t, "velocity", value).data
    for key, mixture in (("a", a), ("b", b)):
        torch.testing.assert_close(data[key], mixture.flow(paths[key], "data")(x[key], t[key]).value)

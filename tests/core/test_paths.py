import math
from functools import cached_property

import pytest
import torch

from flowgen.core.betas import Betas
from flowgen.core.flow import ShiftedPath
from flowgen.core.losses import FlowMatching
from flowgen.core.paths import (
    VE,
    VP,
    AffinePath,
    CondOT,
    Cosine,
    Linear,
    affine_path,
    coefficients,
    velocity_bounded,
)
from flowgen.plugins import registry
from flowgen.plugins.abilities import class_of

PATHS = [
    Linear(),
    CondOT(),
    CondOT(sigma_min=0.2),
    Cosine(),
    VP(),
    VP(beta_min=1.0, beta_max=1.0),
    VE(),
    Betas(),
    Betas((0.1, 0.3, 0.05, 0.7)),
    AffinePath(lambda t: t**2, lambda t: 1 - t**2),
    AffinePath(lambda t: t, lambda t: 1 - t, dalpha=torch.ones_like, dsigma=lambda t: -torch.ones_like(t)),
]
each_path = pytest.mark.parametrize("path", PATHS, ids=lambda p: type(p).__name__)


@each_path
def test_derivatives_are_those_of_alpha_and_sigma(path):
    t = torch.linspace(0.01, 0.97, 57, dtype=torch.float64, requires_grad=True)
    c = path(t)
    for value, derivative in ((c.alpha, c.dalpha), (c.sigma, c.dsigma)):
        expected = torch.autograd.grad(value.sum() + 0 * t.sum(), t, retain_graph=True)[0]
        torch.testing.assert_close(derivative, expected, rtol=1e-10, atol=1e-10)


@each_path
def test_snr_rises_and_is_inverted(path):
    t = torch.linspace(0.001, 0.999, 101, dtype=torch.float64)
    c = path(t)
    assert (c.det > 0).all()
    assert (c.snr.diff() > 0).all()
    torch.testing.assert_close(path.time_of_snr(c.snr), t, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("path", [Linear(), Cosine(), VP(), CondOT(0.0), Betas()], ids=lambda p: type(p).__name__)
def test_data_end_is_exact(path):
    c = coefficients(path, torch.tensor(1.0, dtype=torch.float64))
    assert (c.alpha, c.sigma) == (1.0, 0.0)
    assert c.snr == math.inf
    assert float(path.time_of_snr(torch.tensor(math.inf))) == 1.0


def test_vp_keeps_its_digits_near_the_data():
    t = 1 - torch.tensor(1e-9, dtype=torch.float64)
    # T = 1e-9 * 0.1 to first order; 1 - exp(-T) would keep six digits of it
    assert float(VP()(t).sigma) == pytest.approx(math.sqrt((1 - float(t)) * 0.1), rel=1e-7)


@pytest.mark.parametrize("schedule", ["linear", "scaled-linear", "squared-cosine", (0.02, 0.1, 0.4, 0.9)])
def test_betas_have_the_noise_of_the_discrete_schedule(schedule):
    """By the formulae of the papers, written once more: alpha^2 is the cumulative product at every step of the table."""
    n, i = 1000, torch.arange(1001, dtype=torch.float64)
    match schedule:
        case "linear":
            betas = torch.linspace(1e-4, 0.02, n, dtype=torch.float64)
        case "scaled-linear":
            betas = torch.linspace(0.00085**0.5, 0.012**0.5, n, dtype=torch.float64) ** 2
        case "squared-cosine":
            bar = torch.cos((i / n + 0.008) / 1.008 * math.pi / 2) ** 2
            betas = (1 - bar[1:] / bar[:-1]).clamp(max=0.999)
        case _:
            betas = torch.tensor(schedule, dtype=torch.float64)
    product = torch.cat([torch.ones(1, dtype=torch.float64), (1 - betas).cumprod(0)])
    path, t = Betas(schedule), 1 - torch.arange(len(product), dtype=torch.float64) / len(betas)
    c = path(t)
    torch.testing.assert_close(c.alpha, product.sqrt(), rtol=1e-10, atol=0)
    torch.testing.assert_close(c.sigma, (1 - product).sqrt(), rtol=1e-9, atol=1e-12)
    assert float(path(t.float()).alpha.double().sub(product.sqrt()).abs().max()) < 1e-4


def test_betas_of_a_continuous_schedule_are_that_schedule():
    """DDPM's betas are the VP path with beta_min = N first and beta_max = N last, as the steps become many."""
    t = torch.linspace(0.01, 0.99, 99, dtype=torch.float64)
    found, exact = Betas(steps=4000, first=0.1 / 4000, last=20 / 4000)(t), VP()(t)
    for a, b in zip(found, exact, strict=True):
        torch.testing.assert_close(a, b, rtol=0.02, atol=2e-3)


def test_betas_that_are_none_are_refused():
    for options, message in (
        ({"schedule": (0.1, 1.0)}, r"each above 0 and below 1, got 2: 0\.1, 1"),
        ({"schedule": ()}, "got 0: none"),
        ({"schedule": "cosine"}, "squared-cosine or a list of betas, got 'cosine'"),
        ({"schedule": (0.1, 0.2), "steps": 2}, "leave it out"),
        ({"schedule": "squared-cosine", "last": 0.1}, "leave them out"),
    ):
        with pytest.raises(ValueError, match=message):
            Betas(**options)


def test_affine_path_refuses_what_is_no_path():
    with pytest.raises(ValueError, match=r"dalpha\(0\.\d+\) is 3"):
        AffinePath(lambda t: t, lambda t: 1 - t, dalpha=lambda t: 3 * torch.ones_like(t))
    with pytest.raises(ValueError, match="must rise"):
        AffinePath(lambda t: 1 - t, lambda t: t)
    with pytest.raises(ValueError, match="shape of t"):
        AffinePath(lambda t: t.sum(), lambda t: 1 - t)
    with pytest.raises(ValueError, match="importable"):
        affine_path("math:cos", "nowhere:f")


def test_affine_path_hides_no_detached_function():
    with pytest.raises(ValueError, match=r"dsigma\(0\.\d+\) is 0"):
        AffinePath(lambda t: t, lambda t: 1 - t.detach())


@pytest.mark.parametrize(
    "build", [lambda: CondOT(1.0), lambda: VP(0.0, 1.0), lambda: VP(3.0, 1.0), lambda: VE(2.0, 1.0)]
)
def test_impossible_options_are_refused(build):
    with pytest.raises(ValueError, match="got"):
        build()


@pytest.mark.parametrize(
    ("path", "bounded"),
    [
        *((path, True) for path in (Linear(), CondOT(), CondOT(0.2), Cosine(), VE(), VE(0.002, 80.0))),
        *((path, False) for path in (VP(), VP(1.0, 1.0), Betas(), Betas("squared-cosine"), Betas((0.1, 0.3)))),
        *((ShiftedPath(path, k), True) for path in (Linear(), Cosine()) for k in (0.2, 3.0)),
        *((ShiftedPath(path, k), False) for path in (VP(), Betas()) for k in (0.2, 3.0)),
        (AffinePath(lambda t: t**2, lambda t: 1 - t**2), True),
        (AffinePath(lambda t: t, lambda t: (1 - t**2).sqrt()), False),
        (AffinePath(lambda t: t.sqrt(), lambda t: 1 - t), False),  # without bound at the noise
    ],
    ids=lambda p: repr(p) if not isinstance(p, AffinePath) else "AffinePath",
)
def test_a_path_says_whether_its_velocity_is_bounded(path, bounded):
    """As its coefficients show near both ends: a slope that is bounded changes little from 2^-30 to 2^-40 of them."""
    near = torch.tensor([2.0**-30, 2.0**-40], dtype=torch.float64)
    measured = all(
        float(slope[1].abs()) < 2 * float(slope[0].abs()) + 1e-6
        for t in (near, 1 - near)
        for slope in (path(t).dalpha, path(t).dsigma)
    )
    assert measured == bounded == velocity_bounded(path)


def test_a_path_that_does_not_say_is_taken_to_be_bounded():
    """Paths of plugins that were written before the declaration."""

    class Old:
        def __call__(self, t):
            return VP()(t)

    assert velocity_bounded(Old())
    FlowMatching(Old())


def test_every_path_that_ships_declares():
    for component in registry().components("path"):
        made = class_of(component.load())
        assert made is not None
        assert isinstance(made.velocity_bounded, bool | cached_property)

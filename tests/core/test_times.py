import math

import pytest
import torch

from flowgen.core.paths import VE, VP, Cosine, Linear
from flowgen.core.random import Randomness
from flowgen.core.times import (
    LogitNormal,
    Mode,
    TokenShift,
    Uniform,
    explicit_grid,
    karras_grid,
    make_grid,
    shift,
    shift_factor,
    uniform_grid,
)

U = torch.linspace(1e-4, 1 - 1e-4, 4001, dtype=torch.float64)


@pytest.mark.parametrize("times", [Uniform(), LogitNormal(), LogitNormal(-0.5, 0.7), Mode(), Mode(-1.0), Mode(1.7)])
def test_a_time_distribution_is_a_quantile_function(times):
    t = times(U)
    assert (t.diff() >= 0).all()
    assert float(t[0]) > 0
    assert float(t[-1]) < 1


@pytest.mark.parametrize("k", [0.3, 1.0, 3.0])
def test_shift_is_additive_on_the_logit(k):
    torch.testing.assert_close(torch.logit(shift(U, k)), torch.logit(U) - math.log(k))
    torch.testing.assert_close(shift(shift(U, k), k), shift(U, k * k))  # applied twice it is k^2, not k
    torch.testing.assert_close(LogitNormal(0.2, 1.3).shifted(k)(U), shift(LogitNormal(0.2, 1.3)(U), k))
    # SD3's formula in its own, mirrored time
    tau = 1 - U
    torch.testing.assert_close(1 - shift(U, k), k * tau / (1 + (k - 1) * tau))


def test_mode_is_sd3s_formula_mirrored():
    s = 1.29
    torch.testing.assert_close(1 - Mode(s)(U), 1 - U - s * (torch.cos(math.pi / 2 * U) ** 2 - 1 + U))


def test_shift_by_token_count():
    state = {"a": torch.zeros(2, 8, 8, 3), "b": torch.zeros(2, 960, 5)}
    assert shift_factor(TokenShift(base=256), state) == pytest.approx(math.sqrt(1024 / 256))
    assert shift_factor(2.5, state) == 2.5


def test_stratified_over_the_global_batch_whoever_holds_which_rows():
    whole = Randomness(seed=1, step=3, batch=32).uniform(stratified=True)
    assert sorted((whole * 32).long().tolist()) == list(range(32))
    halves = [Randomness(1, 3, 32, rows=rows).uniform(stratified=True) for rows in torch.arange(32).chunk(2)]
    assert torch.equal(torch.cat(halves), whole)
    # the mean of a batch is far steadier than that of independent draws (0.29/sqrt(32) = 0.051)
    means = torch.stack([Randomness(1, i, 32).uniform(stratified=True).mean() for i in range(200)])
    assert float(means.std()) < 0.004


@pytest.mark.parametrize("path", [Linear(), Cosine(), VP()], ids=lambda p: type(p).__name__)
def test_karras_levels(path):
    grid = karras_grid(path, 10)
    c = path(grid[1:-1])
    ramp = torch.linspace(0, 1, 10, dtype=torch.float64)[1:]
    levels = (80 ** (1 / 7) + ramp * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7
    torch.testing.assert_close(c.sigma / c.alpha, levels, rtol=1e-8, atol=0)
    assert (float(grid[0]), float(grid[-1]), len(grid)) == (0.0, 1.0, 11)


def test_grids_that_are_none_are_refused():
    with pytest.raises(ValueError, match="noise levels"):
        karras_grid(VE(sigma_min=0.1, sigma_max=10.0), 8)
    for bad in ([0.0], [0.0, 0.5, 0.4], [0.0, 1.1], [-0.1, 1.0]):
        with pytest.raises(ValueError, match="increasing"):
            explicit_grid(bad)
    with pytest.raises(ValueError, match="unknown grid"):
        make_grid("spline", 8)
    with pytest.raises(ValueError, match="at least 1 step"):
        uniform_grid(0)


def test_grids_by_name():
    assert torch.equal(make_grid("uniform", 4, k=2.0), uniform_grid(4, 2.0))
    assert torch.equal(make_grid([0.0, 0.3, 1.0], 99), torch.tensor([0.0, 0.3, 1.0], dtype=torch.float64))
    assert torch.equal(make_grid("karras", 6, VP()), karras_grid(VP(), 6))
    eased = make_grid("eased", 8)
    assert (float(eased[0]), float(eased[-1])) == (0.0, 1.0)
    steps = eased.diff()
    assert steps[0] < steps[3]
    torch.testing.assert_close(steps, steps.flip(0))


@pytest.mark.parametrize(
    "build", [lambda: LogitNormal(0, 0), lambda: Mode(2.0), lambda: Mode(-1.1), lambda: TokenShift(0)]
)
def test_impossible_options_are_refused(build):
    with pytest.raises(ValueError, match="got"):
        build()

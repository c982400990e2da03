import math

import pytest
import torch

from flowgen.core.estimate import Estimate
from flowgen.core.flow import NetworkFlow
from flowgen.core.paths import VE, VP, Cosine, Linear
from flowgen.core.sampler import invert, prior, sample
from flowgen.core.solvers import (
    DDIM,
    NAMED,
    RK4,
    Ancestral,
    DormandPrince,
    DPMSolverPP2M,
    Euler,
    EulerMaruyama,
    Heun,
    HeunSDE,
    Midpoint,
    UniPC,
)
from flowgen.core.times import uniform_grid
from flowgen.plugins import builtin
from flowgen.testing.oracle import FunctionFlow, GaussianMixture

X = torch.zeros(2, 2, dtype=torch.float64)


@pytest.mark.parametrize(
    ("grid", "reason"),
    [
        (torch.tensor([0.0, 0.5, 0.5, 1.0]), "increase"),
        (torch.tensor([1.0, 0.5, 0.0]), "invert"),
        (torch.tensor([0.0, 1.5]), r"\[0, 1\]"),
        (torch.tensor([-0.1, 1.0]), r"\[0, 1\]"),
        (torch.tensor([0.0, math.nan, 1.0]), "increase"),
        (torch.tensor([0.0]), "at least 2"),
        (torch.zeros(2, 2), "vector"),
    ],
)
def test_what_is_no_grid_is_refused(mixture, grid, reason):
    with pytest.raises(ValueError, match=reason):
        sample(mixture.flow(), X, grid)


@pytest.mark.parametrize(
    ("x", "reason"),
    [
        (torch.zeros(3), "channels"),
        (torch.zeros(2, 2, dtype=torch.bfloat16), "float32 or float64"),
        ({"a": torch.zeros(2, 1), "b": torch.zeros(3, 1)}, "one batch size"),
    ],
)
def test_what_is_no_state_is_refused(mixture, x, reason):
    with pytest.raises(ValueError, match=reason):
        sample(mixture.flow(), x, uniform_grid(2))


@pytest.mark.parametrize(
    ("predicts", "solver", "path", "reason"),
    [
        ("data", HeunSDE(), Linear(), "t = 1 .*sigma = 0"),
        ("data", DormandPrince(), Linear(), "t = 1 .*sigma = 0.* heun, ralston, unipc and dpm.*space=velocity"),
        ("noise", Euler(), Linear(), "t = 0 .*alpha = 0"),
        ("noise", DPMSolverPP2M(), Linear(), "t = 0 .*alpha = 0"),
        ("score", Midpoint(), Linear(), "t = 0 .*alpha = 0"),
        ("noise", Heun(), Linear(), "t = 0 .*alpha = 0"),
    ],
)
def test_a_prediction_singular_on_the_grid_is_refused_before_anything_runs(mixture, predicts, solver, path, reason):
    class Untouched:
        def __init__(self):
            self.path, self.predicts = path, predicts

        def __call__(self, x, t, cond=None):
            raise AssertionError("the network was evaluated")

    with pytest.raises(
        ValueError,
        match=f"the solver {type(solver).__name__}, from .*{predicts} prediction cannot be read as .*{reason}",
    ):
        sample(Untouched(), X, uniform_grid(4), solver=solver)


@pytest.mark.parametrize(
    ("predicts", "solver", "path"),
    [
        ("data", Euler(), Linear()),
        ("data", Midpoint(), Linear()),
        ("data", Heun(), Linear()),
        ("data", RK4(), Cosine()),
        ("noise", Heun(), VP()),
        ("data", DPMSolverPP2M(), Linear()),
        ("data", UniPC(), Cosine()),
        ("data", DDIM(), Linear()),
        ("noise", DDIM(), VP()),
        ("noise", Euler(), VP()),
        ("noise", DPMSolverPP2M(), VP()),
        ("score", Euler(), VE()),
        ("velocity", RK4(), Linear()),
    ],
)
def test_what_is_regular_is_not_refused(mixture, predicts, solver, path):
    assert sample(mixture.flow(path, predicts), X, uniform_grid(4), solver=solver).isfinite().all()


def test_values_that_are_not_finite_are_reported(mixture):
    def broken(x, t, cond=None):
        value = torch.where(torch.arange(len(x))[:, None] == 1, math.nan, x)
        return Estimate(Linear(), x, t, "velocity", value)

    with pytest.raises(ValueError, match=r"not finite in the result \(1 of 2 samples\)"):
        sample(FunctionFlow(broken, Linear()), X, uniform_grid(2))
    with pytest.raises(ValueError, match="sample 1 is not finite between t = 0"):
        sample(FunctionFlow(broken, Linear()), X, uniform_grid(2), solver=DormandPrince())


def test_stochastic_solvers_do_not_run_backwards(mixture):
    for solver in (EulerMaruyama(), Ancestral()):
        with pytest.raises(ValueError, match="backwards"):
            invert(mixture.flow(), X, uniform_grid(4), solver=solver)


def test_network_sees_float32_and_the_state_keeps_its_precision():
    seen = []

    def network(x, t, cond):
        seen.append((x.dtype, t.dtype, tuple(t.shape)))
        return torch.full_like(x, 1.0)

    out = sample(NetworkFlow(network, Linear()), X, uniform_grid(3), solver=Heun())
    assert set(seen) == {(torch.float32, torch.float32, (2,))}
    assert out.dtype == torch.float64
    torch.testing.assert_close(out, X + 1)


def test_steps_are_reported(mixture):
    seen = []
    sample(mixture.flow(), X, uniform_grid(3), on_step=lambda i, t, x: seen.append((i, round(t, 6), tuple(x.shape))))
    assert seen == [(0, 0.333333, (2, 2)), (1, 0.666667, (2, 2)), (2, 1.0, (2, 2))]


def test_streams_move_as_if_alone():
    a, b = GaussianMixture.random(2, 3, seed=1), GaussianMixture.random(3, 2, seed=2)
    paths = {"a": Linear(), "b": Cosine()}

    class Both:
        path, predicts = paths, "velocity"

        def __call__(self, x, t, cond=None):
            value = {"a": a.flow(paths["a"])(x["a"], t).value, "b": b.flow(paths["b"])(x["b"], t).value}
            return Estimate(paths, x, t, "velocity", value)

    x = {"a": torch.ones(4, 3, dtype=torch.float64), "b": torch.ones(4, 2, dtype=torch.float64)}
    for solver in (RK4(), DPMSolverPP2M(), UniPC()):
        out = sample(Both(), x, uniform_grid(8), solver=solver)
        torch.testing.assert_close(out["a"], sample(a.flow(paths["a"]), x["a"], uniform_grid(8), solver=solver))
        torch.testing.assert_close(out["b"], sample(b.flow(paths["b"]), x["b"], uniform_grid(8), solver=solver))


def test_prior_has_the_width_of_the_path(mixture, g):
    z = torch.randn(4, 2, generator=g)
    torch.testing.assert_close(prior(VE(sigma_max=7.0), z), 7 * z)
    torch.testing.assert_close(prior(Linear(), z), z)


def test_a_solver_by_name_and_a_grid_as_list_or_number(mixture):
    flow, x = mixture.flow(), X + 0.5
    expected = sample(flow, x, uniform_grid(4), solver=Heun())
    for grid in (4, [0.0, 0.25, 0.5, 0.75, 1.0], uniform_grid(4).numpy(), (0, 0.25, 0.5, 0.75, 1)):
        torch.testing.assert_close(sample(flow, x, grid, solver="heun"), expected, rtol=0, atol=0)
    torch.testing.assert_close(
        invert(flow, x, 4, solver="rk4"), invert(flow, x, uniform_grid(4), solver=RK4()), rtol=0, atol=0
    )


def test_the_names_of_solvers_are_those_of_the_config():
    solvers = [c for c in builtin.flowgen_components() if c.kind == "solver" and c.name not in ("table", "learned")]
    registered = {c.name: c.target for c in solvers}
    assert registered == {name: f"flowgen.core.solvers:{made.__name__}" for name, made in NAMED.items()}


@pytest.mark.parametrize(
    ("grid", "solver", "reason"),
    [
        (4, "hein", r"no built-in solver is named 'hein'; there are euler, .*flowgen\.build"),
        (4, Heun, r"the class Heun is no solver: .*Heun\(\)"),
        (4, torch.nn.Linear(1, 1), "a Linear is no solver"),
        ("uniform", Heun(), "a grid is a tensor or list"),
        ([0.0, None], Heun(), "a grid is a tensor or list"),
        (0, Heun(), "at least 1 step"),
    ],
)
def test_what_is_no_solver_or_grid_is_one_sentence(mixture, grid, solver, reason):
    with pytest.raises(ValueError, match=reason):
        sample(mixture.flow(), X, grid, solver=solver)


@pytest.mark.parametrize("name", [n for n in NAMED if n != "flow-map"])
def test_of_an_empty_batch_nothing_is_sampled(mixture, name):
    assert sample(mixture.flow(), X[:0], 4, solver=name).shape == (0, 2)

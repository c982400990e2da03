import itertools

import pytest
import torch

from flowgen.core.flow import NetworkFlow, OnPath
from flowgen.core.paths import VE, VP, CondOT, Cosine, Linear
from flowgen.core.sampler import sample
from flowgen.core.solvers import RK4, DPMSolverPP2M
from flowgen.core.times import uniform_grid

PATHS = [Linear(), Cosine(), VP(), VE()]


@pytest.mark.parametrize("predicts", ["velocity", "data", "noise", "score", "v"])
@pytest.mark.parametrize(("trained", "asked"), list(itertools.permutations(PATHS, 2)), ids=lambda p: type(p).__name__)
def test_another_path_is_that_paths_own_flow(mixture, trained, asked, predicts, g):
    t = torch.tensor([0.35, 0.5, 0.6], dtype=torch.float64)
    x = torch.randn(3, 2, generator=g, dtype=torch.float64)
    moved = OnPath(mixture.flow(trained, predicts), asked, start=0.3, end=0.65)
    for target in ("velocity", "data", "noise", "score", "v"):
        expected = mixture.flow(asked, target)(x, t).value
        torch.testing.assert_close(moved(x, t).read(target), expected, rtol=1e-8, atol=1e-8)


def test_both_ends_where_the_ratios_allow_it(mixture, g):
    x0 = torch.randn(32, 2, generator=g, dtype=torch.float64)
    moved = OnPath(mixture.flow(Linear()), Cosine())
    got = sample(moved, x0, uniform_grid(100), solver=RK4())
    torch.testing.assert_close(
        got, sample(mixture.flow(Linear()), x0, uniform_grid(100), solver=RK4()), rtol=1e-4, atol=1e-4
    )
    assert sample(moved, x0, uniform_grid(8), solver=DPMSolverPP2M()).isfinite().all()


def test_ratios_that_training_never_saw_are_refused(mixture):
    with pytest.raises(ValueError, match=r"Linear\(\) has alpha/sigma = 0 at t = 0, outside the 0\.006\d+ to inf"):
        OnPath(mixture.flow(VP()), Linear())
    with pytest.raises(ValueError, match=r"at t = 1, outside the 0\.02 to 100"):
        OnPath(mixture.flow(VE()), Linear(), start=0.1)
    with pytest.raises(ValueError, match="outside"):
        OnPath(mixture.flow(CondOT(0.1)), Linear())
    inside = OnPath(mixture.flow(VP()), Linear(), start=0.01)
    with pytest.raises(ValueError, match="checked range"):
        inside(torch.zeros(1, 2, dtype=torch.float64), torch.tensor(0.0, dtype=torch.float64))


def test_a_network_that_changes_the_state_is_refused():
    x = torch.zeros(2, 3, 4)
    with pytest.raises(ValueError, match=r"made \[2, 3, 2\] of a state \[2, 3, 4\]"):
        NetworkFlow(lambda x, t, cond: x[..., :2], Linear())(x, torch.tensor(0.5))
    with pytest.raises(ValueError, match=r"made \['a'\] of a state of \['a', 'b'\]"):
        NetworkFlow(lambda x, t, cond: {"a": x["a"]}, Linear())({"a": x, "b": x}, torch.tensor(0.5))

"""Straightness of trajectories, against closed forms."""

import math

import pytest
import torch

import flowgen
from flowgen.core.estimate import Estimate
from flowgen.testing.oracle import FunctionFlow, GaussianMixture


def field(velocity):
    path = flowgen.Linear()
    return FunctionFlow(lambda x, t, cond: Estimate(path, x, t, "velocity", velocity(x, t)), path)


def test_even_lines_are_straight_and_uneven_speed_is_not():
    x = torch.randn(8, 3, dtype=torch.float64)
    assert flowgen.straightness(field(lambda x, t: torch.full_like(x, 2.0)), x).max() < 1e-12
    speeding = field(lambda x, t: torch.ones_like(x) * 2 * t)  # mean of (2t)² is 4/3
    assert flowgen.straightness(speeding, x, 512, solver="heun") == pytest.approx(torch.full((8,), 1 / 3), abs=1e-3)


@pytest.mark.parametrize("turn", [0.3, math.pi / 2, 3.0])
def test_an_arc_is_as_curved_as_its_angle(turn):
    def around(x, t):
        return turn * torch.stack([-x[:, 1], x[:, 0]], 1)

    x = torch.randn(5, 2, dtype=torch.float64)
    expected = turn**2 / (4 * math.sin(turn / 2) ** 2) - 1
    found = flowgen.straightness(field(around), x, 256, solver="rk4")
    assert found == pytest.approx(torch.full((5,), expected), rel=1e-3)


def test_a_state_of_several_parts_is_one_vector():
    target = GaussianMixture.random(3, 4)
    x = torch.randn(6, 4, dtype=torch.float64)
    whole = flowgen.straightness(target.flow(), x, 64)
    flow, path = target.flow(), flowgen.Linear()

    def split(x, t, cond):
        v = flow(torch.cat([x["a"], x["b"]], 1), t).velocity
        return dict(zip("ab", v.split(2, 1), strict=True))

    parts = flowgen.NetworkFlow(split, {"a": path, "b": path})
    found = flowgen.straightness(parts, {"a": x[:, :2], "b": x[:, 2:]}, 64)
    torch.testing.assert_close(found, whole)


def test_one_mode_far_away_is_straight_and_two_modes_bend():
    far = GaussianMixture(
        torch.tensor([[9.0, 0.0]], dtype=torch.float64), torch.ones(1).double(), torch.ones(1).double()
    )
    two = GaussianMixture(
        torch.tensor([[3.0, 0.0], [-3.0, 0.0]], dtype=torch.float64),
        0.1 * torch.ones(2).double(),
        torch.ones(2).double(),
    )
    x = torch.randn(256, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    near, bent = (float(flowgen.straightness(m.flow(), x, 128).mean()) for m in (far, two))
    assert near < 0.05
    assert bent > 0.2

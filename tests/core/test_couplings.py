import itertools
import math

import pytest
import torch

from flowgen.core.couplings import Independent, OptimalTransport, Sinkhorn, condition_groups
from flowgen.core.losses import FlowMatching
from flowgen.core.random import Randomness


def cost(x0, x1, order):
    return float((x0[order] - x1).square().sum())


def test_exact_assignment_is_the_best_of_all(g):
    for _ in range(5):
        x0, x1 = torch.randn(6, 2, generator=g), torch.randn(6, 2, generator=g)
        best = min(cost(x0, x1, torch.tensor(p)) for p in itertools.permutations(range(6)))
        assert cost(x0, x1, OptimalTransport()(x0, x1)) == pytest.approx(best)


def test_in_one_dimension_it_sorts(g):
    x0, x1 = torch.randn(50, 1, generator=g), torch.randn(50, 1, generator=g)
    order = OptimalTransport()(x0, x1)
    assert torch.equal(x0[order][x1[:, 0].argsort(), 0], x0[:, 0].sort().values)


@pytest.mark.parametrize("coupling", [OptimalTransport(), Sinkhorn()], ids=lambda c: type(c).__name__)
def test_a_coupling_permutes_within_groups(coupling, g):
    if isinstance(coupling, Sinkhorn):
        pytest.importorskip("ot")
    x0, x1 = torch.randn(64, 3, generator=g), torch.randn(64, 3, generator=g)
    group = torch.randint(0, 4, (64,), generator=g)
    order = coupling(x0, x1, group)
    assert torch.equal(order.sort().values, torch.arange(64))
    assert torch.equal(group[order], group)
    assert cost(x0, x1, order) < 0.8 * cost(x0, x1, torch.arange(64))


def test_sinkhorn_comes_near_the_exact_assignment(g):
    pytest.importorskip("ot")
    x0, x1 = torch.randn(200, 2, generator=g), 0.5 * torch.randn(200, 2, generator=g) + 2
    exact = cost(x0, x1, OptimalTransport()(x0, x1))
    near = [cost(x0, x1, Sinkhorn(regularisation=r)(x0, x1)) for r in (0.01, 1.0)]
    assert exact <= near[0] < 1.05 * exact
    assert near[0] < near[1]


def test_across_conditions_the_prior_is_skewed_and_within_it_is_not(g):
    """max_c |E[x0 | c]| is 0 at inference; an assignment over all conditions makes it large, one within each does not."""
    n = 512
    label = torch.arange(n) % 2
    x1 = torch.where(label[:, None] == 0, -2.0, 2.0) + 0.3 * torch.randn(n, 1, generator=g)
    x0 = torch.randn(n, 1, generator=g)

    def skew(order):
        return max(abs(float(x0[order][label == c].mean())) for c in (0, 1))

    limit = 4 / math.sqrt(n / 2)
    assert skew(OptimalTransport()(x0, x1, label)) < limit
    assert skew(OptimalTransport()(x0, x1)) > 2 * limit


def test_groups_are_equal_conditions():
    cond = {
        "label": torch.tensor([0, 1, 0, 0]),
        "pitch": torch.tensor([1.0, 1.0, math.nan, math.nan]),
        "mask": torch.rand(4, 7) > 0.5,
    }
    groups = condition_groups(cond)
    assert groups[2] == groups[3]
    assert len(groups.unique()) == 3
    assert condition_groups({}) is None
    assert condition_groups({"mask": torch.ones(4, 2)}) is None


def test_the_loss_couples_within_conditions():
    x1 = torch.randn(32, 2)
    label = torch.arange(32) % 4
    seen = {}

    class Watched(OptimalTransport):
        def __call__(self, x0, x1, group=None):
            seen["order"] = super().__call__(x0, x1, group)
            return seen["order"]

    paired, plain = (
        FlowMatching(coupling=c)(
            lambda x, t, cond: torch.zeros_like(x), x1, {"label": label}, Randomness(0, 0, 32)
        ).total
        for c in (Watched(), Independent())
    )
    assert torch.equal(label[seen["order"]], label)
    assert float(paired.sum()) < float(plain.sum())  # straighter: |x1 - x0|^2 is what the zero network pays


def test_streams_are_assigned_together(g):
    x0 = {k: torch.randn(16, 2, generator=g) for k in "ab"}
    x1 = {k: torch.randn(16, 2, generator=g) for k in "ab"}
    joint = OptimalTransport()(torch.cat([x0["a"], x0["b"]], 1), torch.cat([x1["a"], x1["b"]], 1))
    assert torch.equal(OptimalTransport()(x0, x1), joint)


def test_impossible_options_are_refused():
    with pytest.raises(ValueError, match="positive"):
        Sinkhorn(regularisation=0.0)

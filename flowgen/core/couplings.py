"""Which noise goes with which data. A coupling returns a permutation of the noise; data and conditions stay put."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from flowgen.core.interfaces import MASK, SOURCE
from flowgen.core.ranges import Count, Positive
from flowgen.core.tree import State, batch_size, leaves


@dataclass(frozen=True)
class Independent:
    """Noise and data drawn independently."""

    def __call__(self, x0: State, x1: State, group: Tensor | None = None) -> None:
        return None


@dataclass(frozen=True)
class OptimalTransport:
    """The assignment of least squared distance within the minibatch (Pooladian et al. 2023; Tong et al. 2023), exact.

    It takes cubic time: at a batch of 1000 about a tenth of a second, beyond that see `Sinkhorn`.
    """

    def __call__(self, x0: State, x1: State, group: Tensor | None = None) -> Tensor:
        return by_group(x0, x1, group, lambda rows, cost: exact_assignment(cost))


@dataclass(frozen=True)
class Sinkhorn:
    """Entropic optimal transport by the POT library, rounded to a permutation: the mean of the noise that the plan sends
    to a clip is what the clip is assigned to.

    For large batches. `regularisation` is relative to the mean squared distance; smaller is nearer to the exact
    assignment and slower. ValueError: POT is not installed (pip install "flowgen[ot]").
    """

    regularisation: Positive = 0.05
    max_iterations: Count = 1000

    def __post_init__(self) -> None:
        if self.regularisation <= 0 or self.max_iterations < 1:
            raise ValueError(
                f"regularisation and max_iterations must be positive, got {self.regularisation} and {self.max_iterations}"
            )

    def __call__(self, x0: State, x1: State, group: Tensor | None = None) -> Tensor:
        def assign(rows: Tensor, cost: Tensor) -> Tensor:
            return _rounded(entropic_plan(cost, self.regularisation * float(cost.mean()), self.max_iterations))

        return by_group(x0, x1, group, assign)


@dataclass(frozen=True)
class GivenPairs:
    """The partner of each clip is given, under the condition "source", and takes the place of the noise at t = 0.

    In a config it is the data set that gives it, as `Clip.start` (the data sets `reflow` and `pairs` do).

    Args:
        start: what the partners are. "noise": standard normal, each with the sample that a trained flow makes of it
            (reflow). "clips": those of another data set (a bridge), so that sampling starts from clips, too.
    """

    start: Literal["noise", "clips"] = "noise"

    def __call__(self, x0: State, x1: State, group: Tensor | None = None) -> None:
        return None

    def source(self, cond: Mapping[str, Any]) -> State:
        """The partners [B, ...]. ValueError: they are not there."""
        if SOURCE not in cond:
            raise ValueError(
                f"given pairs want the partner of each clip under the condition {SOURCE!r}; there are {sorted(cond) or 'none'}"
            )
        return cond[SOURCE]


def condition_groups(cond: Mapping[str, Any]) -> Tensor | None:
    """Numbers that are equal for samples with equal conditions, int64 [B]; None where there are no conditions."""
    rows = [
        leaf.detach().reshape(len(leaf), -1).cpu().double().nan_to_num(nan=torch.finfo(torch.float64).max)
        for name, value in sorted(cond.items())
        if name not in (MASK, SOURCE)
        for leaf in leaves(value)
    ]
    return torch.cat(rows, 1).unique(dim=0, return_inverse=True)[1] if rows else None


def by_group(x0: State, x1: State, group: Tensor | None, choose: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """`choose(rows, cost)` within each group, int64 [B]: for each of its clips, the place in `rows` of the noise it gets.

    cost[i, j] is the squared distance of clip i and noise j, float64. Whoever is alone in its group keeps its own.
    """
    flat0, flat1 = (torch.cat([leaf.detach().flatten(1).cpu().double() for leaf in leaves(x)], 1) for x in (x0, x1))
    order = torch.arange(batch_size(x0))
    for rows in [order.clone()] if group is None else [(group == value).nonzero()[:, 0] for value in group.unique()]:
        if len(rows) > 1:
            order[rows] = rows[choose(rows, torch.cdist(flat1[rows], flat0[rows]).square())]
    return order


def exact_assignment(cost: Tensor) -> Tensor:
    """The permutation of least cost, int64 [n]."""
    from scipy.optimize import linear_sum_assignment

    return torch.as_tensor(linear_sum_assignment(cost.numpy())[1])


def entropic_plan(cost: Tensor, regularisation: float, iterations: int) -> Tensor:
    """The plan of least cost less `regularisation` times its entropy, between uniform weights [n, n]."""
    each = uniform(cost)
    return pot().bregman.sinkhorn_log(each, each, cost, regularisation, numItermax=iterations, warn=False)


def uniform(cost: Tensor) -> Tensor:
    """Weights that are all alike, [n]."""
    return torch.full((len(cost),), 1 / len(cost), dtype=cost.dtype)


def pot() -> Any:
    """The POT library. ValueError: it is not installed."""
    try:
        import ot
    except ImportError as error:
        raise ValueError('this coupling needs the POT library: pip install "flowgen[ot]"') from error
    return ot


def _rounded(plan: Tensor) -> Tensor:
    """A permutation near the plan: in rounds, every clip left asks for its likeliest noise left, and the likeliest gets it."""
    plan = plan.clone()
    order = torch.full((len(plan),), -1)
    left = torch.arange(len(plan))
    while len(left):
        mass, wanted = plan[left].max(1)
        by_mass = mass.argsort(descending=True)
        claims = torch.full((len(plan),), len(left))
        claims.scatter_reduce_(0, wanted[by_mass], torch.arange(len(left)), "amin")  # the first claim by mass
        won = claims[wanted[by_mass]] == torch.arange(len(left))
        winners = by_mass[won]
        order[left[winners]] = wanted[winners]
        plan[:, wanted[winners]] = -1.0  # below any mass: taken
        keep = torch.ones(len(left), dtype=torch.bool)
        keep[winners] = False
        left = left[keep]
    return order

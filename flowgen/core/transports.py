"""Couplings between two sets of clips: each clip is trained with partners of the other set that a transport plan sends to it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from flowgen.core.couplings import GivenPairs, by_group, entropic_plan, exact_assignment, pot, uniform
from flowgen.core.interfaces import Bridge, Coupling, Pairs, Solver
from flowgen.core.random import Randomness
from flowgen.core.ranges import Count, Positive
from flowgen.core.solvers.sde import BrownianBridge
from flowgen.core.tree import State, batch_size


@dataclass(frozen=True)
class Transport(GivenPairs):
    """Optimal transport between two sets of clips (Tong et al. 2023, section 3.2): within each minibatch, among like conditions.

    The sources are those of the condition "source", as for `GivenPairs`; which of them goes with which clip is drawn from the
    plan of least squared distance, a clip's own row of it.

    Args:
        start: as of `GivenPairs`.
        plan: "exact", an assignment. "entropic": a plan blurred by `regularisation`. "unbalanced": neither set has to be used
            in full; mass may be left out at a price, so that outliers and clips without a like are not forced together. What a
            clip keeps of its mass is the weight of its loss (Eyring et al. 2023; the plan is that of Chizat et al. 2018).
        regularisation: of the entropic and the unbalanced plan, relative to the mean squared distance.
        mass_penalty: of the unbalanced plan, the price of left out mass relative to the mean squared distance (the factor of
            a Kullback-Leibler divergence); large is balanced.

    ValueError: a plan other than the exact one without the POT library (pip install "flowgen[ot]").
    """

    start: Literal["noise", "clips"] = "clips"
    plan: Literal["exact", "entropic", "unbalanced"] = "exact"
    regularisation: Positive = 0.05
    mass_penalty: Positive = 0.1
    max_iterations: Count = 1000

    def __post_init__(self) -> None:
        if self.plan not in ("exact", "entropic", "unbalanced"):
            raise ValueError(f"plan is exact, entropic or unbalanced, got {self.plan!r}")

    @property
    def weighted(self) -> bool:
        """Whether pairs count differently in the loss."""
        return self.plan == "unbalanced"

    def draw_pairs(self, x0: State, x1: State, group: Tensor | None, random: Randomness) -> Pairs:
        """A source for each clip; see `flowgen.core.interfaces.DrawsPairs`."""
        if self.plan == "exact":
            return Pairs(by_group(x0, x1, group, lambda rows, cost: exact_assignment(cost)), None)
        return drawn(x0, x1, group, random, self._plan, self.weighted)

    def _plan(self, cost: Tensor) -> Tensor:
        scale = float(cost.mean())
        if self.plan == "entropic":
            return entropic_plan(cost, self.regularisation * scale, self.max_iterations)
        return pot().unbalanced.sinkhorn_unbalanced(
            *(uniform(cost), uniform(cost), cost, self.regularisation * scale, self.mass_penalty * scale),
            method="sinkhorn_stabilized",
            numItermax=self.max_iterations,
        )


@dataclass(frozen=True)
class SchroedingerBridge(GivenPairs):
    """The most likely way for Brownian motion of variance sigma^2 a unit of time to carry one set of clips to the other.

    Simulation-free (Tong et al. 2024, "Simulation-free Schroedinger bridges", algorithm 1): pairs are drawn from the plan of entropy
    2 sigma^2 within each minibatch, and x_t = (1 - t) x0 + t x1 + sigma sqrt(t (1 - t)) z between them. Train
    `flow-matching` with `predicts: data` on the path `linear`, and sample with the solver `brownian-bridge` of the same sigma:
    dX = (E[x1 | x_t] - X)/(1 - t) dt + sigma dW.

    Args:
        start: as of `GivenPairs`.
        sigma: standard deviation of the motion over all of the way, in latents.

    ValueError: the POT library is not installed (pip install "flowgen[ot]").
    """

    start: Literal["noise", "clips"] = "clips"
    sigma: Positive = 1.0
    max_iterations: Count = 1000
    weighted = False

    def __post_init__(self) -> None:
        if not self.sigma > 0:
            raise ValueError(f"sigma must be positive, got {self.sigma}")

    def draw_pairs(self, x0: State, x1: State, group: Tensor | None, random: Randomness) -> Pairs:
        """A source for each clip; see `flowgen.core.interfaces.DrawsPairs`."""

        def plan(cost: Tensor) -> Tensor:
            return entropic_plan(cost, 2 * self.sigma**2, self.max_iterations)

        return drawn(x0, x1, group, random, plan, False)


def drawn(
    x0: State,
    x1: State,
    group: Tensor | None,
    random: Randomness,
    plan: Callable[[Tensor], Tensor],
    weighted: bool,
) -> Pairs:
    """Draw each clip's source from its row of `plan(cost)`; the weight is the row's mass, 1 where nothing is left out."""
    u = random.uniform("pairs")
    weight = torch.ones(batch_size(x1), dtype=torch.float64)

    def choose(rows: Tensor, cost: Tensor) -> Tensor:
        mass = plan(cost)
        each = mass.sum(1)
        # a clip without any mass has no partner, and counts for nothing: whatever it gets
        share = torch.where(each[:, None] > 0, mass / each[:, None], uniform(cost)[None])
        if weighted:
            weight[rows] = each * len(rows)
        return (share.cumsum(1) < u[rows, None]).sum(1).clamp(max=len(rows) - 1)

    order = by_group(x0, x1, group, choose)
    return Pairs(order, weight if weighted else None)


def check_motion(coupling: Coupling, solver: Solver) -> None:
    """ValueError: a bridge is sampled by another motion than it was trained with."""
    trained = coupling.sigma if isinstance(coupling, Bridge) else 0.0
    sampled = solver.sigma if isinstance(solver, BrownianBridge) else 0.0
    if trained != sampled:
        way = f"{{type: brownian-bridge, sigma: {trained:g}}}" if trained else "one of an ODE, as heun"
        raise ValueError(
            f"this run was trained with a Brownian motion of sigma={trained:g} and would be sampled with {sampled:g}; "
            f"take the solver {way}"
        )

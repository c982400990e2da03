"""Training objectives. A loss returns a value for every sample, so that weighting and logging happen outside it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from flowgen.conditions import MASK
from flowgen.couplings import Coupling, Independent
from flowgen.estimate import Prediction
from flowgen.flow import Cond, Flow, NetworkFlow
from flowgen.paths import Coefficients, Linear, Path, Paths, interpolate, velocity
from flowgen.random import Randomness
from flowgen.times import Times, Uniform, shift
from flowgen.tree import State, first_leaf, leaves, left, tree_map


class LossOutput(NamedTuple):
    """Per-sample losses: `total` [B], the times [B] they were taken at, and one [B] for each stream."""

    total: Tensor
    t: Tensor
    by_stream: dict[str, Tensor]


class Loss(Protocol):
    path: Paths
    predicts: Prediction

    def __call__(
        self, network: Callable[..., State], x1: State, cond: Cond, random: Randomness, known: State | None = None
    ) -> LossOutput:
        """The loss of `network` on data x1 [B, ...].

        `cond` may hold a mask of valid positions; `known` (bool, left-aligned with x1) marks positions that are given,
        not generated: they are shown at t = 1 and carry no loss.
        """

    def flow(self, network: Callable[..., State]) -> Flow:
        """The flow that `network` is once trained by this loss: what sampling integrates."""


@dataclass(frozen=True)
class FlowMatching:
    """Regression on the conditional velocity (Lipman et al. 2022, eq. 9), or on data, noise or score, in any space.

    The network outputs `predicts`; the squared error is measured in `space` (the same by default). Errors in different
    spaces are proportional, dv = (D/sigma) dx1 = -(D/alpha) dx0, so another space is a factor on the network's own
    error, capped at `max_ratio` where it would be singular.
    """

    path: Paths = field(default_factory=Linear)
    times: Times = field(default_factory=Uniform)
    coupling: Coupling = field(default_factory=Independent)
    shift: float = 1.0
    predicts: Prediction = "velocity"
    space: Prediction | None = None
    max_ratio: float = 20.0

    def __call__(
        self, network: Callable[..., State], x1: State, cond: Cond, random: Randomness, known: State | None = None
    ) -> LossOutput:
        x0 = random.normal(x1)
        order = self.coupling(x0, x1)
        x0 = tree_map(lambda x: x[order.to(x.device)], x0)
        t = shift(self.times(random.uniform(stratified=True)), self.shift).float().to(first_leaf(x1).device)
        times = t if known is None else tree_map(lambda k: torch.where(k, 1.0, left(t, k)), known)
        prediction = network(interpolate(self.path, x1, x0, times), times, cond)
        weights = _valid(cond.get(MASK), known, x1)
        target = self._target(x1, x0, t)

        def leaf(predicted: Tensor, target: Tensor, weight: Tensor | None, path: Path) -> Tensor:
            error = (predicted.float() - target) * left(self._ratio(path(t)), target)
            return _mean(error.square(), weight)

        each = tree_map(leaf, prediction, target, weights, self.path)
        by_stream = each if isinstance(each, dict) else {}
        return LossOutput(torch.stack(list(leaves(each))).mean(0), t, by_stream)

    def flow(self, network: Callable[..., State]) -> Flow:
        """The flow of `network`, bound to the path and prediction it is trained on."""
        return NetworkFlow(network, self.path, self.predicts)

    def _target(self, x1: State, x0: State, t: Tensor) -> State:
        match self.predicts:
            case "velocity":
                return velocity(self.path, x1, x0, t)
            case "data":
                return x1
            case "noise":
                return x0
            case "score":
                return tree_map(lambda x, path: -x / left(path(t).sigma, x), x0, self.path)
        raise ValueError(f"unknown prediction {self.predicts!r}")

    def _ratio(self, c: Coefficients) -> Tensor:
        """|error in `space`| / |error in `predicts`|, capped."""
        if self.space is None or self.space == self.predicts:
            return torch.ones_like(c.alpha)
        # size of each parameterisation's error for a unit error of the velocity
        unit = {"velocity": torch.ones_like(c.alpha), "data": c.sigma / c.det, "noise": c.alpha / c.det}
        unit["score"] = unit["noise"] / c.sigma
        return (unit[self.space] / unit[self.predicts]).nan_to_num(nan=0.0).clamp(max=self.max_ratio)


def _valid(mask: State | None, known: State | None, x1: State) -> Any:
    """1 where a position counts, a leaf for each of x1; None where all count."""
    if mask is None and known is None:
        return tree_map(lambda x: None, x1)

    def leaf(x: Tensor, mask: Tensor | None, known: Tensor | None) -> Tensor:
        w = torch.ones((), dtype=x.dtype, device=x.device).expand(x.shape)
        if mask is not None:
            w = w * left(mask, x)
        return w if known is None else w * ~left(known, x)

    return tree_map(leaf, x1, mask, known)


def _mean(squared: Tensor, weight: Tensor | None) -> Tensor:
    """Mean over all but the batch, of the positions that count; 0 for a sample in which none does."""
    if weight is None:
        return squared.flatten(1).mean(1)
    return (squared * weight).flatten(1).sum(1) / weight.flatten(1).sum(1).clamp(min=1)

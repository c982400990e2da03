"""Preconditioning of Karras et al. 2022 for any affine path: a network that always sees and makes unit variance."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from flowgen.core.couplings import Independent
from flowgen.core.flow import NetworkFlow, check_output
from flowgen.core.interfaces import Coefficients, Cond, Coupling, Flow, LossOutput, Path, Paths, Times
from flowgen.core.losses.balance import shown_averages
from flowgen.core.losses.base import (
    by_name,
    check_balance,
    check_named,
    check_streams,
    draw,
    mean_error,
    output,
    refuse_bridges,
    valid_in,
)
from flowgen.core.paths import Linear, interpolate
from flowgen.core.random import Randomness
from flowgen.core.ranges import Decay, NonNegative, Positive
from flowgen.core.times import Shifts, Uniform
from flowgen.core.tree import State, lincomb, tree_map


def _width(c: Coefficients, data_std: float) -> Tensor:
    """S = alpha^2 data_std^2 + sigma^2, the variance of x_t."""
    return (c.alpha * data_std) ** 2 + c.sigma**2


@dataclass(frozen=True)
class Preconditioned:
    """A network F around which x_t and data are assembled, with S = alpha^2 s^2 + sigma^2 and s the std of the data:

    x1 = (alpha s^2/S) x + (sigma s/sqrt(S)) F(x/sqrt(S), t), or the velocity that goes with it.
    """

    network: Callable[..., State]
    path: Paths
    data_std: float
    output: Literal["velocity", "data"]

    def __call__(self, x: State, t: Any, cond: Cond) -> State:
        value = self.network(scaled_input(self.path, x, t, self.data_std), t, cond)
        check_output(value, x)

        def leaf(x: Tensor, value: Tensor, path: Path, t: Tensor) -> State:
            c, s = path(t), self.data_std
            var = _width(c, s)
            if self.output == "data":
                return lincomb((c.alpha * s * s / var, x), (c.sigma * s / var.sqrt(), value))
            of_x = (c.dalpha * c.alpha * s * s + c.dsigma * c.sigma) / var
            return lincomb((of_x, x), (c.det * s / var.sqrt(), value))

        return tree_map(leaf, x, value, self.path, t)


def scaled_input(path: Paths, x: State, t: Any, data_std: float) -> State:
    """x / sqrt(S)."""
    return tree_map(lambda x, path, t: lincomb((_width(path(t), data_std) ** -0.5, x)), x, path, t)


@dataclass(frozen=True)
class EDM:
    """The training of Karras et al. 2022 on any path: the network's own output F has unit variance, and so has its loss.

    That weighs the error of the data by S/(sigma s)^2, their lambda(sigma). Sampling goes through the same
    preconditioning, see `flow`.

    Args:
        data_std: standard deviation of the data; 1 for latents of unit variance.
        output: what the assembled network counts as. The velocity is regular at both ends of the linear and cosine
            paths; data suits the VP path, whose velocity is singular at t = 1.
        weights, noise_levels, balance: of several streams, as for `FlowMatching`.
    """

    path: Paths = field(default_factory=Linear)
    times: Times | Mapping[str, Times] = field(default_factory=Uniform)
    coupling: Coupling = field(default_factory=Independent)
    shift: Shifts = 1.0
    data_std: Positive = 1.0
    output: Literal["velocity", "data"] = "velocity"
    weights: dict[str, NonNegative] | None = None
    noise_levels: Literal["shared", "independent"] | dict[str, str] = "shared"
    balance: Decay | None = None

    def __post_init__(self) -> None:
        check_streams(self.weights, self.noise_levels, self.times)
        refuse_bridges("EDM", self.coupling)
        if self.data_std <= 0:
            raise ValueError(f"data_std must be positive, got {self.data_std}")

    def streams_named(self) -> dict[str, Collection[str]]:
        """The streams that options name, by option."""
        return by_name(weights=self.weights, noise_levels=self.noise_levels)

    @property
    def predicts(self) -> Literal["velocity", "data"]:
        return self.output

    def flow(self, network: Callable[..., State]) -> Flow:
        """The flow of the preconditioned network."""
        return NetworkFlow(Preconditioned(network, self.path, self.data_std, self.output), self.path, self.output)

    def __call__(
        self, network: Callable[..., State], x1: State, cond: Cond, random: Randomness, known: State | None = None
    ) -> LossOutput:
        check_named({**self.streams_named(), **by_name(path=self.path)}, x1)
        check_balance(self.balance, x1)
        averages, cond = shown_averages(cond)
        x0, t, times, cond = draw(x1, cond, random, known, self.times, self.coupling, self.shift, self.noise_levels)
        xt = interpolate(self.path, x1, x0, times)
        value = network(scaled_input(self.path, xt, times, self.data_std), times, cond)
        check_output(value, xt)
        weights = valid_in(cond, known, x1)

        def leaf(x1: Tensor, value: Tensor, x0: Tensor, weight: Tensor | None, path: Path, t: Tensor) -> Tensor:
            c, s = path(t), self.data_std
            root = torch.sqrt(_width(c, s))
            target = lincomb((c.sigma / (s * root), x1), (-c.alpha * s / root, x0))
            return mean_error(value, target, weight)  # type: ignore[arg-type]

        return output(tree_map(leaf, x1, value, x0, weights, self.path, t), t, weights, self.weights, averages)

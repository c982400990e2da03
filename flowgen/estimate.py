"""What a network said about x_t, readable as velocity, data, noise or score.

The one owner of conversions. They are lazy: a data-predicting network under a solver that asks for data never divides by
sigma, and what is singular is met only by those who ask for it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal, TypeAlias, get_args

from torch import Tensor

from flowgen.paths import Coefficients, Path, Paths
from flowgen.tree import State, lincomb, tree_map

Prediction: TypeAlias = Literal["velocity", "data", "noise", "score"]
PREDICTIONS: tuple[str, ...] = get_args(Prediction)


def convert(value: Tensor, x: Tensor, c: Coefficients, source: str, target: str) -> Tensor:
    """Read a prediction of one kind about `x` as another: the inverse of (x_t, v) = [[alpha, sigma], [dalpha, dsigma]] (x1, x0)."""
    if source == target:
        return value
    if source == "score":
        value, source = lincomb((-c.sigma, value)), "noise"  # type: ignore[assignment]
        if target == "noise":
            return value
    match source, target:
        case _, "score":
            return lincomb((-1 / c.sigma, convert(value, x, c, source, "noise")))  # type: ignore[return-value]
        case "velocity", "data":
            terms = (c.sigma / c.det, value), (-c.dsigma / c.det, x)
        case "velocity", "noise":
            terms = (c.dalpha / c.det, x), (-c.alpha / c.det, value)
        case "data", "velocity":
            terms = (c.dsigma / c.sigma, x), (c.det / c.sigma, value)
        case "noise", "velocity":
            terms = (c.dalpha / c.alpha, x), (-c.det / c.alpha, value)
        case "data", "noise":
            terms = (1 / c.sigma, x), (-c.alpha / c.sigma, value)
        case "noise", "data":
            terms = (1 / c.alpha, x), (-c.sigma / c.alpha, value)
        case _:
            raise ValueError(f"unknown prediction {source!r} or {target!r}; expected one of {', '.join(PREDICTIONS)}")
    return lincomb(*terms)  # type: ignore[return-value]


@dataclass(frozen=True)
class Estimate:
    """A network's output `value` of kind `prediction` about the state `x` at time `t` on `path`."""

    path: Paths
    x: State
    t: Tensor | dict[str, Tensor]
    prediction: Prediction
    value: State

    def read(self, target: Prediction) -> State:
        """The estimate in another parameterisation."""
        if target == self.prediction:
            return self.value

        def leaf(value: Tensor, x: Tensor, path: Path, t: Tensor) -> Tensor:
            return convert(value, x, path(t), self.prediction, target)

        return tree_map(leaf, self.value, self.x, self.path, self.t)

    @cached_property
    def velocity(self) -> State:
        return self.read("velocity")

    @cached_property
    def data(self) -> State:
        """E[x1 | x_t]."""
        return self.read("data")

    @cached_property
    def noise(self) -> State:
        """E[x0 | x_t]."""
        return self.read("noise")

    @cached_property
    def score(self) -> State:
        """grad log p_t(x_t)."""
        return self.read("score")

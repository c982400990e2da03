"""What a network said about x_t, readable as velocity, data, noise, score or v.

The one owner of conversions. They are lazy: a data-predicting network under a solver that asks for data never divides by
sigma, and what is singular is met only by those who ask for it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from torch import Tensor

from flowgen.core.interfaces import PREDICTIONS, Coefficients, Path, Paths, Prediction, Predictions
from flowgen.core.paths import coefficients
from flowgen.core.tree import State, lincomb, tree_map


def reading(c: Coefficients, source: str, target: str) -> tuple[Any, Any]:
    """(a, b) with target = a x + b source: the inverse of (x_t, v) = [[alpha, sigma], [dalpha, dsigma]] (x1, x0).

    No epsilon in a denominator: ZeroDivisionError for numbers, inf for tensors, where the reading is singular.
    """
    if source == target:
        return 0.0, 1.0
    if source == "score":  # x0 = -sigma score
        a, b = reading(c, "noise", target)
        return a, -b * c.sigma
    if target == "score":
        a, b = reading(c, source, "noise")
        return -a / c.sigma, -b / c.sigma
    if "v" in (source, target):
        return _reading_of_v(c, source, target)
    match source, target:
        case "velocity", "data":
            return -c.dsigma / c.det, c.sigma / c.det
        case "velocity", "noise":
            return c.dalpha / c.det, -c.alpha / c.det
        case "data", "velocity":
            return c.dsigma / c.sigma, c.det / c.sigma
        case "noise", "velocity":
            return c.dalpha / c.alpha, -c.det / c.alpha
        case "data", "noise":
            return 1 / c.sigma, -c.alpha / c.sigma
        case "noise", "data":
            return 1 / c.alpha, -c.sigma / c.alpha
    raise ValueError(f"unknown prediction {source!r} or {target!r}; expected one of {', '.join(PREDICTIONS)}")


def _reading_of_v(c: Coefficients, source: str, target: str) -> tuple[Any, Any]:
    """`reading` from or to v = alpha x0 - sigma x1: a rotation of (x1, x0) up to scale, so from v it is regular on every path."""
    size = c.alpha * c.alpha + c.sigma * c.sigma
    half_rate = c.alpha * c.dalpha + c.sigma * c.dsigma  # of the size
    match source, target:
        case "v", "data":
            return c.alpha / size, -c.sigma / size
        case "v", "noise":
            return c.sigma / size, c.alpha / size
        case "v", "velocity":
            return half_rate / size, -c.det / size
        case "data", "v":
            return c.alpha / c.sigma, -size / c.sigma
        case "noise", "v":
            return -c.sigma / c.alpha, size / c.alpha
        case "velocity", "v":
            return half_rate / c.det, -size / c.det
    raise ValueError(f"unknown prediction {source!r} or {target!r}; expected one of {', '.join(PREDICTIONS)}")


def convert(value: Tensor, x: Tensor, c: Coefficients, source: str, target: str) -> Tensor:
    """Read a prediction of one kind about `x` as another."""
    if source == target:
        return value
    a, b = reading(c, source, target)
    return lincomb((a, x), (b, value))  # type: ignore[return-value]


@dataclass(frozen=True, init=False, eq=False)
class Estimate:
    """A network's output `value` of kind `prediction` about the state `x` at time `t` on `path`.

    Of a state of several streams, each of path, time and prediction is one for all or a dict with one a stream.
    """

    path: Paths
    x: State
    t: Tensor | dict[str, Tensor]
    prediction: Predictions
    value: State

    def __init__(
        self, path: Paths, x: State, t: Tensor | dict[str, Tensor], prediction: Predictions, value: State
    ) -> None:
        # one is made in every evaluation; the own reading is put where the others will be cached
        own: dict[str, Any] = {prediction: value} if isinstance(prediction, str) else {}
        self.__dict__.update({"path": path, "x": x, "t": t, "prediction": prediction, "value": value, **own})

    def read(self, target: Predictions) -> State:
        """The estimate in another parameterisation, or one a stream. ValueError: it is singular at this (single) time."""
        if target == self.prediction:
            return self.value

        def leaf(value: Tensor, x: Tensor, path: Path, t: Tensor, source: Prediction, target: Prediction) -> State:
            if source == target:
                return value
            a, b = safe_reading(path, t, coefficients(path, t), source, target)
            return lincomb((a, x), (b, value))

        return tree_map(leaf, self.value, self.x, self.path, self.t, self.prediction, target)

    @cached_property
    def velocity(self) -> State:
        """dx/dt."""
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


def safe_reading(path: Path, t: Tensor, c: Coefficients, source: str, target: str) -> tuple[Any, Any]:
    """`reading`, refused with the reason where it is singular at a single time t."""
    try:
        a, b = reading(c, source, target)
        if not isinstance(b, float) or math.isfinite(a + b):
            return a, b
    except ZeroDivisionError:
        pass
    at = float(t)
    what = "sigma = 0" if c.sigma == 0 else "alpha = 0" if c.alpha == 0 else f"D = {c.det:g}"
    away = "end the grid before it, as at 0.999" if at > 0.5 else "start the grid after it, as at 0.001"
    raise ValueError(
        f"a {source} prediction cannot be read as {target} at t = {at:g} on {path}, where {what}; "
        f"{away}, or take a solver that reads {source} there"
    )

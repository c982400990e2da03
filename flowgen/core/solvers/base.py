"""What a solver is: a pure `init` and `step` with threaded state."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from flowgen.core.estimate import Estimate, safe_reading
from flowgen.core.interfaces import Coefficients, Path, Paths, Prediction
from flowgen.core.paths import coefficients
from flowgen.core.tree import State, lincomb, tree_map


class Stateless:
    """A solver that starts from the state alone."""

    def init(self, x: State) -> None:
        return None


def number(t: Tensor) -> float:
    """A single time as a number. ValueError: it requires gradients, which would be lost."""
    if t.requires_grad:
        raise ValueError(
            "this solver is not differentiable by its times: take a Runge-Kutta solver such as heun, or detach the grid"
        )
    return float(t)


def at(paths: Paths, t: Tensor) -> Any:
    """Coefficients at a single time, one for each path."""
    number(t)
    return tree_map(lambda path: coefficients(path, t), paths)


def combine(estimate: Estimate, now: Any, weights: Callable[..., dict[str, float]], *trees: Any) -> State:
    """weights["x"] x + sum_k weights[k] (the estimate read as k), with one pass for each of x and what the network said.

    `weights(now, *trees)` is asked for each leaf; a reading whose weight is 0 is not taken, so that its singularity does not matter.
    """

    def leaf(value: Tensor, x: Tensor, path: Path, t: Tensor, said: Prediction, now: Coefficients, *rest: Any) -> State:
        asked = weights(now, *rest)
        a, b = asked.pop("x", 0.0), 0.0
        for target, weight in asked.items():
            if weight:
                of_x, of_value = safe_reading(path, t, now, said, target)
                a, b = a + weight * of_x, b + weight * of_value
        return lincomb((a, x), (b, value))

    return tree_map(leaf, estimate.value, estimate.x, estimate.path, estimate.t, estimate.prediction, now, *trees)


def interpolatory(nodes: Sequence[float], moments: Sequence[float]) -> list[float]:
    """Weights w with sum_j w_j nodes_j^k = moments_k: the integral of the polynomial through the nodes (Bjorck and Pereyra 1970)."""
    w, n = list(moments), len(nodes)
    for k in range(n - 1):
        for i in range(n - 1, k, -1):
            w[i] -= nodes[k] * w[i - 1]
    for k in range(n - 2, -1, -1):
        for i in range(k + 1, n):
            w[i] /= nodes[i] - nodes[i - k - 1]
        for i in range(k, n - 1):
            w[i] -= w[i + 1]
    return w

"""What guidance is, and what every kind of it shares: an interval of t, and branches that run as one batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from flowgen.core.estimate import Estimate
from flowgen.core.interfaces import Breaks, Cond, Flow, Paths, Predictions
from flowgen.core.tree import State, batch_size, concat, first_leaf, left, tree_map


@dataclass(frozen=True)
class Guided:
    """A flow with a rule that is in force in an interval of t.

    `rule(x, t, cond)` evaluates what it wants and returns the plain estimate and the guided one. Outside of the interval
    the plain flow is asked, at its own price. Times that differ within a batch are each judged on their own.
    """

    flow: Flow
    start: float
    end: float
    rule: Callable[[State, Any, Cond], tuple[Estimate, Estimate]]
    predicts_guided: Predictions | None = None

    @property
    def path(self) -> Paths:
        return self.flow.path

    @property
    def predicts(self) -> Predictions:
        """What the guided estimate is: the network's own prediction, or that of the rule's space."""
        return self.predicts_guided or self.flow.predicts

    @property
    def breaks(self) -> tuple[float, ...]:
        """The ends of the interval, and of those of guidances within."""
        return (self.start, self.end, *(self.flow.breaks if isinstance(self.flow, Breaks) else ()))

    def __call__(self, x: State, t: Any, cond: Cond | None = None) -> Estimate:
        inside = tree_map(lambda t: (t >= self.start) & (t <= self.end), t)
        first = first_leaf(inside)
        if isinstance(t, Tensor) and first.ndim == 0:
            return self.rule(x, t, dict(cond or {}))[1] if first else self.flow(x, t, cond)
        plain, guided = self.rule(x, t, dict(cond or {}))

        def leaf(guided: Tensor, plain: Tensor, inside: Tensor) -> Tensor:
            return torch.where(left(inside, guided).to(guided.device), guided, plain)

        value = tree_map(leaf, guided.value, plain.read(guided.prediction), inside)
        return replace(guided, value=value)


def branches(flow: Flow, x: State, t: Any, conditions: Sequence[Cond]) -> list[Estimate]:
    """The flow under each of several conditions, evaluated as one batch."""
    n = len(conditions)
    times = tree_map(lambda t: t if t.ndim == 0 else torch.cat([t] * n), t)
    joined = flow(tree_map(lambda x: torch.cat([x] * n), x), times, concat([dict(c) for c in conditions]))
    # the state is taken from the estimate: a flow with known regions puts them there
    values, states = (tree_map(lambda v: v.chunk(n), tree) for tree in (joined.value, joined.x))

    def part(tree: Any, i: int) -> State:
        return tree_map(lambda v: v[i], tree)

    return [Estimate(joined.path, part(states, i), t, joined.prediction, part(values, i)) for i in range(n)]


def for_batch(null: Cond, x: State) -> dict[str, Any]:
    """Null conditions for a batch that a guidance further out has repeated."""
    n = batch_size(x)
    return tree_map(lambda v: v if len(v) == n else v.repeat(n // len(v), *[1] * (v.ndim - 1)), dict(null))


def check_interval(start: float, end: float) -> None:
    if not 0 <= start < end <= 1:
        raise ValueError(f"expected 0 <= start < end <= 1, got start={start}, end={end}")


def quotient(a: Tensor, b: Tensor, otherwise: float) -> Tensor:
    """a/b where b > 0, else a constant; its gradient is finite where b = 0, too."""
    there = b > 0
    return torch.where(there, a / torch.where(there, b, 1.0), otherwise)


def inner(a: Tensor, b: Tensor) -> Tensor:
    """<a, b> of each sample [B]."""
    return (a * b).flatten(1).sum(1)

"""Classifier-free guidance, for one condition or several."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from flowgen.core.estimate import Estimate
from flowgen.core.guidance.base import Guided, branches, check_interval, for_batch
from flowgen.core.interfaces import Cond, Flow
from flowgen.core.ranges import Real, Share
from flowgen.core.tree import State, lincomb


@dataclass(frozen=True)
class CFG:
    """Classifier-free guidance, u + scale (c - u) (Ho and Salimans 2022, eq. 6), in an interval of t (Kynkaanniemi et al. 2024).

    scale 1 is the plain conditional flow. At t = 0 the push is one constant vector for all x, so it is off there by
    default. Both branches run as one batch.
    """

    scale: Real = 2.0
    start: Share = 0.1
    end: Share = 1.0

    def __post_init__(self) -> None:
        check_interval(self.start, self.end)

    def __call__(self, flow: Flow, null: Cond) -> Flow:
        if self.scale == 1 or not null:  # without conditions both branches are one
            return flow

        def rule(x: State, t: Any, cond: Cond) -> tuple[Estimate, Estimate]:
            c, u = branches(flow, x, t, [cond, {**cond, **for_batch(null, x)}])
            return c, replace(c, value=lincomb((self.scale, c.value), (1 - self.scale, u.value)))

        return Guided(flow, self.start, self.end, rule)


@dataclass(frozen=True)
class MultiCFG:
    """A scale for each condition: v_0 + sum_k scale_k (v_k - v_{k-1}), v_k knowing the first k conditions (Brooks et al. 2022, eq. 3).

    Conditions without a scale are given throughout. With all scales 1 it is the plain conditional flow. It costs one branch
    more than there are scales.

    Args:
        scales: by name of the condition, the first being what the others build on.
    """

    scales: dict[str, Real] = field(default_factory=dict)
    start: Share = 0.1
    end: Share = 1.0

    def __post_init__(self) -> None:
        check_interval(self.start, self.end)

    def __call__(self, flow: Flow, null: Cond) -> Flow:
        missing = [name for name in self.scales if name not in null]
        if missing:
            raise ValueError(f"no null value for {', '.join(missing)}; the conditions are {', '.join(null) or 'none'}")
        names, scales = list(self.scales), list(self.scales.values())

        def rule(x: State, t: Any, cond: Cond) -> tuple[Estimate, Estimate]:
            # from everything given (the plain estimate) down to none of the named
            away = for_batch(null, x)
            known = [{**cond, **{name: away[name] for name in names[k:]}} for k in range(len(names), -1, -1)]
            steps = branches(flow, x, t, known)
            weights = [*reversed(scales), 1.0]
            for k in range(len(names)):
                weights[k + 1] -= scales[len(names) - 1 - k]
            value = lincomb(*((w, e.value) for w, e in zip(weights, steps, strict=True)))
            return steps[0], replace(steps[0], value=value)

        return Guided(flow, self.start, self.end, rule) if names else flow

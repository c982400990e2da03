"""Guidance away from a worse version of the model itself."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from flowgen.core.estimate import Estimate
from flowgen.core.guidance.base import Guided, check_interval
from flowgen.core.interfaces import Cond, Flow
from flowgen.core.tree import State, lincomb


@dataclass(frozen=True)
class AutoGuidance:
    """w + scale (c - w) with w from a smaller or less trained flow under the same conditions (Karras et al. 2024, eq. 4).

    Both flows are on one path; `flowgen.core.flow.OnPath` brings another one there. Both may predict what they like.
    """

    weak: Flow
    scale: float = 2.0
    start: float = 0.0
    end: float = 1.0

    def __post_init__(self) -> None:
        check_interval(self.start, self.end)

    def __call__(self, flow: Flow, null: Cond) -> Flow:
        ours, theirs = flow.path, self.weak.path
        if ours != theirs:
            raise ValueError(
                f"the weaker flow is on {theirs}, this one on {ours}; bring it there with flowgen.core.flow.OnPath"
            )

        def rule(x: State, t: Any, cond: Cond) -> tuple[Estimate, Estimate]:
            strong = flow(x, t, cond)
            weak = self.weak(x, t, cond).read(strong.prediction)
            value = lincomb((self.scale, strong.value), (1 - self.scale, weak))
            return strong, replace(strong, value=value)

        return Guided(flow, self.start, self.end, rule)

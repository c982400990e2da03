"""Guidance by the other streams: each stream is led away from what it would be without them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from flowgen.core.estimate import Estimate
from flowgen.core.guidance.base import Guided, branches, check_interval
from flowgen.core.interfaces import MASK, Cond, Flow
from flowgen.core.tree import State, lincomb, tree_map


@dataclass(frozen=True)
class CrossStream:
    """w + scale (c - w), by stream: c knows all streams, w is the estimate of a stream for a clip that lacks all others.

    That is classifier-free guidance (Ho and Salimans 2022, eq. 6) with the other streams in the place of the condition: of a
    given stream, its sound or picture; of streams that are generated together, each relative to the other dropped. Scale 1 is
    the plain flow, 0 a stream without the others. The network is told by the mask that a stream is absent; it must have been
    trained with such clips. It costs one branch for each stream whose scale is not 1.

    Args:
        scale: one for all streams, or by stream; those that are not named have scale 1.

    Raises ValueError for a state of one stream and for streams that it does not have.
    """

    scale: float | Mapping[str, float] = 2.0
    start: float = 0.0
    end: float = 1.0

    def __post_init__(self) -> None:
        check_interval(self.start, self.end)

    def check(self, streams: Collection[str]) -> None:
        """ValueError: these are not several streams, or not those that are named."""
        if len(streams) < 2:
            raise ValueError("cross-stream guidance is of several streams, and the latents are one; take cfg")
        if isinstance(self.scale, Mapping) and (strangers := self.scale.keys() - set(streams)):
            raise ValueError(f"scale names {', '.join(sorted(strangers))}; the streams are {', '.join(streams)}")

    def __call__(self, flow: Flow, null: Cond) -> Flow:
        if all(scale == 1 for scale in (self.scale.values() if isinstance(self.scale, Mapping) else [self.scale])):
            return flow

        def rule(x: State, t: Any, cond: Cond) -> tuple[Estimate, Estimate]:
            self.check(x.keys() if isinstance(x, Mapping) else ())
            scales = self.scale if isinstance(self.scale, Mapping) else dict.fromkeys(x, self.scale)
            guided = [name for name, scale in scales.items() if scale != 1]
            mask: Any = cond.get(MASK)
            if mask is None:
                mask = tree_map(lambda x: torch.ones(x.shape[:-1], dtype=torch.bool, device=x.device), x)

            def alone(name: str) -> dict[str, Tensor]:
                return {other: m if other == name else torch.zeros_like(m) for other, m in mask.items()}

            c, *without = branches(flow, x, t, [{**cond, MASK: m} for m in (mask, *map(alone, guided))])
            value: Any = dict(c.value)
            for name, w in zip(guided, without, strict=True):
                own: Any = w.value
                value[name] = lincomb((scales[name], value[name]), (1 - scales[name], own[name]))
            return c, replace(c, value=value)

        return Guided(flow, self.start, self.end, rule)

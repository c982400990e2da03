"""A flow: a network, what it predicts and the path it was trained on, bound together."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import torch
from torch import Tensor

from flowgen.estimate import Estimate, Prediction
from flowgen.paths import Paths
from flowgen.tree import State, batch_size, first_leaf, tree_map

Cond: TypeAlias = Mapping[str, Any]
"""Conditions as a network takes them: batch-first tensors (or trees of them) by name. See `flowgen.conditions`."""


class Flow(Protocol):
    """`flow(x, t, cond)` -> Estimate. Guidance wraps a Flow and is a Flow."""

    def __call__(self, x: State, t: Tensor | dict[str, Tensor], cond: Cond | None = None) -> Estimate: ...


@dataclass(frozen=True)
class NetworkFlow:
    """The flow of a network `network(x, t, cond)`.

    The state stays in the caller's precision; the network sees it in float32 (or what autocast makes of it) and times
    in float32 as [B] or [B, ...], whatever shape they came in.
    """

    network: Callable[..., State]
    path: Paths
    predicts: Prediction = "velocity"

    def __call__(self, x: State, t: Tensor | dict[str, Tensor], cond: Cond | None = None) -> Estimate:
        n, device = batch_size(x), first_leaf(x).device
        times = tree_map(lambda t: _times(t, n, device), t)
        value = self.network(tree_map(lambda leaf: leaf.float(), x), times, dict(cond or {}))
        return Estimate(self.path, x, t, self.predicts, tree_map(lambda v, x: v.to(x.dtype), value, x))


def _times(t: Tensor, n: int, device: torch.device) -> Tensor:
    t = t.to(device=device, dtype=torch.float32)
    return t.expand(n) if t.ndim == 0 else t

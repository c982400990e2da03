"""Streams that count alike whatever the scale of their losses: each loss is divided by a moving average of its own."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from flowgen.core.interfaces import STREAM_LOSSES, Cond

_SMALLEST = 1e-12
"""A stream that is learned exactly is not divided by 0."""


class StreamAverages:
    """Exponential moving averages of the losses of streams, each over the steps in which the stream was there.

    m <- decay m + (1 - decay) loss, divided by 1 - decay^n after n such steps, as Adam's moments are: the average is of the
    right size from the first step on. A training loop owns one and shows it to the loss (`LossWithBalance`):

        output = loss(network, x1, {**cond, **averages.shown(len(x1))}, random)
        averages.update({name: float(each.nanmean()) for name, each in output.by_stream.items()})

    Its state is plain numbers by stream, exact as JSON.
    """

    def __init__(self, decay: float) -> None:
        self.decay = decay
        self._kept: dict[str, tuple[float, float]] = {}

    def update(self, losses: Mapping[str, float]) -> None:
        """Move the averages by the mean losses of one step. A stream that is not in `losses`, or not-a-number, stays."""
        for name, loss in losses.items():
            if not math.isnan(loss):
                total, weight = self._kept.get(name, (0.0, 0.0))
                new = 1 - self.decay
                self._kept[name] = (self.decay * total + new * loss, self.decay * weight + new)

    @property
    def values(self) -> dict[str, float]:
        """The averages, of the streams that have been there."""
        return {name: max(total / weight, _SMALLEST) for name, (total, weight) in self._kept.items()}

    def shown(self, n: int, device: torch.device | str = "cpu") -> dict[str, Any]:
        """What n clips bring a loss beside their conditions."""
        return {STREAM_LOSSES: {name: torch.full((n,), m, device=device) for name, m in self.values.items()}}

    def state(self) -> dict[str, list[float]]:
        return {name: list(kept) for name, kept in self._kept.items()}

    def load(self, state: Mapping[str, list[float]]) -> None:
        """Go on from a `state`."""
        self._kept = {name: (total, weight) for name, (total, weight) in state.items()}


def shown_averages(cond: Cond) -> tuple[Mapping[str, Tensor], Cond]:
    """The averages [B] by stream that came with conditions ({}: none), and the conditions without them."""
    return cond.get(STREAM_LOSSES, {}), {k: v for k, v in cond.items() if k != STREAM_LOSSES}

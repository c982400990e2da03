"""Averages of the weights.

An average lives on the float32 master shards that each rank updates, so it is exact under every ZeRO stage and costs
each rank its share alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from flowgen.training.internals import lerp_, master_shards
from flowgen.training.ranks import Ranks
from flowgen.training.shards import collect, fill, spread


def ramped(decay: float) -> Callable[[int], float]:
    """min(decay, (1 + step)/(10 + step)): early averages forget the initial weights."""
    return lambda step: min(decay, (1 + step) / (10 + step))


def power(width: float) -> Callable[[int], float]:
    """The decay of a power-function average whose profile has a relative width (Karras et al. 2024, section 3.1).

    The profile t^gamma has the width sqrt((gamma + 1)/((gamma + 2)^2 (gamma + 3))) of the run; as a share of its length it
    stays the same however long the run is. Raises ValueError for a width outside (0, 0.28).
    """
    gamma = exponent(width)
    return lambda step: (1 - 1 / (step + 1)) ** (gamma + 1)


def exponent(width: float) -> float:
    """The gamma of a profile of relative width `width`, by bisection: the width falls as gamma grows."""
    if not 0 < width < 0.28:
        raise ValueError(f"the relative width of an average lies in (0, 0.28), got {width}")

    def spread(gamma: float) -> float:
        return math.sqrt((gamma + 1) / ((gamma + 2) ** 2 * (gamma + 3)))

    low, high = 0.0, 1.0
    while spread(high) > width:
        high *= 2
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if spread(middle) > width else (low, middle)
    return (low + high) / 2


class Average:
    """An average of the master shards, in float32, whose decay is a function of the step."""

    def __init__(self, engine: Any, ranks: Ranks, decay: Callable[[int], float]) -> None:
        self.engine, self.ranks, self.decay = engine, ranks, decay
        self.masters = master_shards(engine)
        self.shards = [t.clone() for t in self.masters]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights after step `step` (from 0)."""
        lerp_(self.shards, self.masters, 1 - self.decay(step))

    def collect(self, kept: dict[int, Tensor] | None = None) -> dict[str, Tensor]:
        """Whole averaged parameters by name, on the first rank (see `shards.collect`). All ranks must call it."""
        return collect(self.engine, self.shards, self.ranks, kept)

    def show(self, network: nn.Module) -> None:
        """Copy the averaged weights into a network like the trained one, on every rank. All ranks must call it."""
        own = {f"network.{name}": p.detach() for name, p in network.named_parameters()}
        spread(self.engine, self.shards, self.ranks, own)
        for name, buffer in self.engine.module.network.named_buffers():
            network.get_buffer(name).copy_(buffer)

    def load(self, read: Callable[[str, int, int], Tensor]) -> None:
        """Set this rank's share from flat values (see `shards.fill`)."""
        fill(self.engine, self.shards, self.ranks, read)

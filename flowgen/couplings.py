"""Which noise goes with which data. A coupling returns a permutation of the noise; data and conditions stay put."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from flowgen.tree import State, batch_size


class Coupling(Protocol):
    def __call__(self, x0: State, x1: State, group: Tensor | None = None) -> Tensor:
        """A permutation p of the noise, int64 [B]: x0[p[i]] goes with x1[i]. `group` [B]: only like may be permuted with like."""


@dataclass(frozen=True)
class Independent:
    """Noise and data drawn independently."""

    def __call__(self, x0: State, x1: State, group: Tensor | None = None) -> Tensor:
        return torch.arange(batch_size(x0))

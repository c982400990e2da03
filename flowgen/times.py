"""Training times and sampling grids, and the one shift that warps both.

A time distribution is its quantile function: it maps uniform numbers to times, so stratification, fixed quantiles for
validation and shifting need no code of their own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


class Times(Protocol):
    def __call__(self, u: Tensor) -> Tensor:
        """Times in (0, 1) at the quantiles u in (0, 1)."""


def shift(t: Tensor, k: float) -> Tensor:
    """t/(t + k(1 - t)), that is logit t - log k: k > 1 spends more time near the noise (SD3, section 5.3.2, mirrored)."""
    return t if k == 1 else t / (t + k * (1 - t))


@dataclass(frozen=True)
class Uniform:
    """Every time equally often."""

    def __call__(self, u: Tensor) -> Tensor:
        return u


@dataclass(frozen=True)
class LogitNormal:
    """sigmoid(mean + std z), z standard normal (SD3, eq. 19; its mean has the other sign, as its time runs backwards)."""

    mean: float = 0.0
    std: float = 1.0

    def __post_init__(self) -> None:
        if self.std <= 0:
            raise ValueError(f"std must be positive, got {self.std}")

    def __call__(self, u: Tensor) -> Tensor:
        return torch.sigmoid(self.mean + self.std * torch.special.ndtri(u))


def uniform_grid(steps: int, k: float = 1.0) -> Tensor:
    """steps + 1 increasing times from 0 to 1, float64, shifted by k."""
    if steps < 1:
        raise ValueError(f"a grid needs at least 1 step, got {steps}")
    return shift(torch.linspace(0, 1, steps + 1, dtype=torch.float64), k)

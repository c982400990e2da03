"""The path of a diffusion model that is defined by a table of betas, in continuous time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import ClassVar, Literal

import torch
from torch import Tensor

from flowgen.core.interfaces import Coefficients
from flowgen.core.ranges import Count, Positive

_RANGE = {"linear": (1e-4, 0.02), "scaled-linear": (0.00085, 0.012)}


@dataclass(frozen=True)
class Betas:
    """Variance preserving, with the noise of a discrete schedule: alpha^2 = prod_{i <= n} (1 - beta_i) at t = 1 - n/N.

    n = 0 is the data and n = N the noise, so the time of the index i that such a network is shown (from 0) is
    1 - (i + 1)/N. Between those times log alpha is a monotone cubic (Fritsch and Butland 1984), so the velocity has no jumps.
    Like `VP`, its prior is not quite a unit normal and dsigma is -inf at t = 1.

    Args:
        schedule: "linear" (Ho et al. 2020, section 4), "scaled-linear" (the square roots of beta are equidistant: latent
            diffusion), "squared-cosine" (Nichol and Dhariwal 2021, eq. 17), or the betas themselves, from data to noise.
        steps: N, 1000 by default; not with betas of one's own.
        first: the first beta of a linear or scaled-linear schedule; 0.0001 or 0.00085 by default.
        last: the last one; 0.02 or 0.012 by default.
    """

    schedule: Literal["linear", "scaled-linear", "squared-cosine"] | tuple[Positive, ...] = "linear"
    steps: Count | None = None
    first: Positive | None = None
    last: Positive | None = None
    velocity_bounded: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if not isinstance(self.schedule, str):
            object.__setattr__(self, "schedule", tuple(self.schedule))
        elif self.schedule not in (*_RANGE, "squared-cosine"):
            raise ValueError(
                f"schedule is linear, scaled-linear, squared-cosine or a list of betas, got {self.schedule!r}"
            )
        if not isinstance(self.schedule, str) and self.steps is not None:
            raise ValueError("steps is the number of betas where a list of them is given: leave it out")
        if self.schedule not in _RANGE and not (self.first is None and self.last is None):
            raise ValueError("first and last are of a linear or scaled-linear schedule: leave them out")
        betas = self.betas
        if len(betas) < 2 or not all(0 < beta < 1 for beta in betas):
            raise ValueError(f"expected 2 or more betas, each above 0 and below 1, got {len(betas)}: {_shown(betas)}")

    @cached_property
    def betas(self) -> tuple[float, ...]:
        """From data to noise."""
        if not isinstance(self.schedule, str):
            return self.schedule
        n = 1000 if self.steps is None else self.steps
        if self.schedule == "squared-cosine":
            bars = [math.cos((i / n + 0.008) / 1.008 * math.pi / 2) ** 2 for i in range(n + 1)]
            return tuple(min(1 - after / before, 0.999) for before, after in pairwise(bars))
        usual = _RANGE[self.schedule]
        power = 1 if self.schedule == "linear" else 2
        ends = (usual[0] if self.first is None else self.first, usual[1] if self.last is None else self.last)
        low, high = (end ** (1 / power) for end in ends)
        return tuple((low + (high - low) * i / max(n - 1, 1)) ** power for i in range(n))

    @cached_property
    def _table(self) -> Tensor:
        """[2, N + 1]: T = -log alpha^2 at n = 0 .. N, and its slope dT/dn there, float64."""
        rise = -torch.log1p(-torch.tensor(self.betas, dtype=torch.float64))
        height = torch.cat([rise.new_zeros(1), rise.cumsum(0)])
        inner = 2 * rise[1:] * rise[:-1] / (rise[1:] + rise[:-1])  # the harmonic mean keeps every piece monotone
        return torch.stack([height, torch.cat([rise[:1], inner, rise[-1:]])])

    def __call__(self, t: Tensor) -> Coefficients:
        exponent, rate = (value.to(t.dtype) for value in self._exponent((1 - t).double()))
        alpha, sigma = torch.exp(-exponent / 2), torch.sqrt(-torch.expm1(-exponent))
        dalpha = rate / 2 * alpha
        return Coefficients(alpha, sigma, dalpha, -alpha * dalpha / sigma)

    def time_of_snr(self, rho: Tensor) -> Tensor:
        wanted = torch.log1p(rho.double() ** -2)
        low, high = torch.zeros_like(wanted), torch.ones_like(wanted)
        for _ in range(60):  # bisection to the last bit of float64
            middle = (low + high) / 2
            below = self._exponent(middle)[0] < wanted
            low, high = torch.where(below, middle, low), torch.where(below, high, middle)
        return (1 - (low + high) / 2).to(rho.dtype)

    def _exponent(self, back: Tensor) -> tuple[Tensor, Tensor]:
        """T and dT/d(back) at back = 1 - t, float64."""
        table, n = self._table.to(back.device), len(self.betas)
        place = back * n
        left = place.detach().floor().long().clamp(0, n - 1)
        u = place - left
        (y0, m0), (y1, m1) = table[:, left], table[:, left + 1]
        rise = y1 - y0
        # the cubic of Hermite, from y0 up
        a, b = m0 + m1 - 2 * rise, 3 * rise - 2 * m0 - m1
        return y0 + u * (m0 + u * (b + u * a)), n * (m0 + u * (2 * b + 3 * u * a))


def _shown(betas: Sequence[float]) -> str:
    text = ", ".join(f"{beta:g}" for beta in betas[:3])
    return f"{text}, ..." if len(betas) > 3 else text or "none"

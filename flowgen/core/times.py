"""Training times and sampling grids, and the one shift that warps both.

A time distribution is its quantile function: it maps uniform numbers to times, so stratification, fixed quantiles for
validation and shifting need no code of their own.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, TypeAlias

import torch
from torch import Tensor

from flowgen.core.interfaces import Path
from flowgen.core.ranges import Positive, Real
from flowgen.core.tree import State, leaves, tree_map


def shift(t: Tensor, k: float | Tensor) -> Tensor:
    """t/(t + k(1 - t)), that is logit t - log k: k > 1 spends more time near the noise (SD3, section 5.3.2, mirrored)."""
    return t if isinstance(k, float | int) and k == 1 else t / (t + k * (1 - t))


def shift_rate(t: Tensor, k: float) -> Tensor:
    """The derivative of `shift` by t."""
    return k / (t + k * (1 - t)) ** 2


@dataclass(frozen=True)
class Uniform:
    """Every time equally often."""

    leaves_out_ends: ClassVar[bool] = False

    def __call__(self, u: Tensor) -> Tensor:
        return u


@dataclass(frozen=True)
class LogitNormal:
    """sigmoid(mean + std z), z standard normal (SD3, eq. 19; its mean has the other sign, as its time runs backwards)."""

    mean: Real = 0.0
    std: Positive = 1.0
    leaves_out_ends: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.std <= 0:
            raise ValueError(f"std must be positive, got {self.std}")

    def __call__(self, u: Tensor) -> Tensor:
        return torch.sigmoid(self.mean + self.std * torch.special.ndtri(u))

    def shifted(self, k: float) -> LogitNormal:
        """The distribution of shift(t, k): this family is closed under it."""
        return replace(self, mean=self.mean - math.log(k))


@dataclass(frozen=True)
class Mode:
    """u + scale (cos^2(pi u/2) - 1 + u): more (scale > 0) or less of the middle, at any rate some of both ends (SD3, eq. 20)."""

    scale: Real = 1.29
    leaves_out_ends: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if not -1 <= self.scale <= 2 / (math.pi - 2):
            raise ValueError(f"scale must lie in [-1, {2 / (math.pi - 2):.3f}] for times to increase, got {self.scale}")

    def __call__(self, u: Tensor) -> Tensor:
        return u + self.scale * (torch.cos(math.pi / 2 * u) ** 2 - 1 + u)


@dataclass(frozen=True)
class TokenShift:
    """k = (tokens/base)^power: a longer or larger clip hides less under the same noise, so it gets more of it (SD3, eq. 23).

    `tokens` are the positions of one latent, over all streams. The same object shifts training times and the grid.
    """

    base: int = 256
    power: float = 0.5

    def __post_init__(self) -> None:
        if self.base < 1:
            raise ValueError(f"base must be at least 1 token, got {self.base}")

    def factor(self, tokens: int) -> float:
        return (tokens / self.base) ** self.power


Shift: TypeAlias = float | TokenShift
Shifts: TypeAlias = Shift | Mapping[str, Shift]
"""One shift of the times, or one a stream."""


def shift_factor(shift: Shift, state: Any) -> float:
    """The k of a shift, for a state (tensors [B, *axes, C], one a stream); a number stands for itself."""
    if not isinstance(shift, TokenShift):
        return float(shift)
    tokens = sum(leaf.shape[1:-1].numel() for leaf in leaves(state))
    return shift.factor(tokens)


def stream_factors(shift: Shifts, state: Any) -> dict[str, float] | None:
    """The k of each stream, where streams have shifts of their own: a `TokenShift` there counts those of its stream."""
    if not isinstance(shift, Mapping):
        return None
    return {name: shift_factor(one, state[name]) for name, one in shift.items()}


def row_factors(shift: Shift, state: State, mask: State | None) -> float | Tensor:
    """The k of a shift for each row, by its own positions where a mask (bool [B, *axes]) tells them: float64 [B]."""
    if mask is None or not isinstance(shift, TokenShift):
        return shift_factor(shift, state)
    counts: list[Tensor] = []
    tree_map(lambda x, m: counts.append(m.flatten(1).sum(1) * math.prod(x.shape[m.ndim : -1])), state, mask)
    tokens = torch.stack(counts).sum(0).clamp(min=1)  # of a stream that a clip lacks, none
    return (tokens.double().cpu() / shift.base) ** shift.power


def uniform_grid(steps: int, k: float = 1.0) -> Tensor:
    """steps + 1 increasing times from 0 to 1, float64, shifted by k."""
    if steps < 1:
        raise ValueError(f"a grid needs at least 1 step, got {steps}")
    return shift(torch.linspace(0, 1, steps + 1, dtype=torch.float64), k)


def eased_grid(steps: int, ease: float = 0.4) -> Tensor:
    """(1 - ease) u + ease sin^2(pi u/2), u uniform: shorter steps at both ends, where a multistep solver starts and ends."""
    if not 0 <= ease < 1:
        raise ValueError(f"ease must lie in [0, 1), got {ease}")
    u = uniform_grid(steps)
    return (1 - ease) * u + ease * torch.sin(math.pi / 2 * u) ** 2


def karras_grid(
    path: Path, steps: int, *, sigma_min: float = 0.002, sigma_max: float = 80.0, rho: float = 7.0
) -> Tensor:
    """The noise levels of Karras et al. 2022 (eq. 5), sigma/alpha, as times of `path`, with 0 and 1 for its ends.

    ValueError: the path does not reach those levels.
    """
    if steps < 2 or not 0 < sigma_min < sigma_max or rho <= 0:
        raise ValueError(
            f"expected at least 2 steps, 0 < sigma_min < sigma_max and rho > 0, got {steps}, {sigma_min}, {sigma_max}, {rho}"
        )
    ramp = torch.linspace(0, 1, steps, dtype=torch.float64)
    levels = (sigma_max ** (1 / rho) + ramp * (sigma_min ** (1 / rho) - sigma_max ** (1 / rho))) ** rho
    inner = path.time_of_snr(1 / levels[1:])
    if not bool((inner > 0).all() and (inner < 1).all()):
        raise ValueError(
            f"{path} does not have all noise levels from {sigma_max:g} to {sigma_min:g} inside (0, 1); narrow them"
        )
    return torch.cat([torch.zeros(1, dtype=torch.float64), inner, torch.ones(1, dtype=torch.float64)])


def explicit_grid(times: Sequence[float]) -> Tensor:
    """A grid from its times, both ends included. ValueError: they do not increase within [0, 1]."""
    grid = torch.tensor(list(times), dtype=torch.float64)
    if len(grid) < 2 or not bool((grid.diff() > 0).all()) or float(grid[0]) < 0 or float(grid[-1]) > 1:
        raise ValueError(f"a grid is at least two increasing times in [0, 1], got {list(times)}")
    return grid


def make_grid(
    kind: Literal["uniform", "eased", "karras"] | Sequence[float], steps: int, path: Path | None = None, k: float = 1.0
) -> Tensor:
    """A grid by name (shifted by k, but for karras), or from a list of times; what a command line or config offers."""
    if not isinstance(kind, str):
        return explicit_grid(kind)
    if kind == "uniform":
        return uniform_grid(steps, k)
    if kind == "eased":
        return shift(eased_grid(steps), k)
    if kind == "karras":
        if path is None:
            raise ValueError("the karras grid is made for a path, and none was given")
        return karras_grid(path, steps)
    raise ValueError(f"unknown grid {kind!r}; expected uniform, eased, karras or a list of times")

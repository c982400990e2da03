"""Positions of a grid grouped into tokens."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from einops import rearrange, reduce
from torch import Tensor

from flowgen.nn.overlap import crossfade, span


@dataclass(frozen=True)
class Patches:
    """Tokens of a stream: `patch` steps of each of its axes make one. ValueError: it is not one size for each axis.

    What tokens say overlaps along the axes that `overlap` names, and is cross-faded (`flowgen.nn.overlap`).
    """

    names: tuple[str, ...]
    patch: tuple[int, ...]
    overlap: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if len(self.patch) != len(self.names):
            raise ValueError(
                f"patch {self.patch} has {len(self.patch)} sizes for the {len(self.names)} axes {self.names}"
            )

        if unknown := set(self.overlap) - set(self.names):
            raise ValueError(f"overlap {sorted(unknown)} names none of the axes {self.names}")

    @property
    def volume(self) -> int:
        return math.prod(self.patch)

    @property
    def reach(self) -> tuple[int, ...]:
        """Positions of each axis that a token says something about."""
        return tuple(span(p) if name in self.overlap else p for name, p in zip(self.names, self.patch, strict=True))

    def grid(self, sizes: tuple[int, ...]) -> tuple[int, ...]:
        """The grid of tokens of a grid of positions. ValueError: the patch does not divide it."""
        for name, size, p in zip(self.names, sizes, self.patch, strict=True):
            if size < 1 or size % p:
                raise ValueError(f"axis {name!r} has {size} steps, which a patch of {p} does not divide")
        return tuple(size // p for size, p in zip(sizes, self.patch, strict=True))

    def split(self, x: Tensor) -> Tensor:
        """[B, *axes, C] to [B, tokens, volume of a patch x C]."""
        return rearrange(
            x, f"b {_outer(self.patch)} c -> b ({_g(self.patch)}) ({_p(self.patch)} c)", **_sizes(self.patch)
        )

    def join(self, x: Tensor, grid: tuple[int, ...], mask: Tensor | None = None) -> Tensor:
        """[B, tokens, volume of the reach x C] to [B, *axes, C]; `mask`: which positions are real, left-aligned."""
        sizes = _sizes(self.reach) | {f"g{i}": n for i, n in enumerate(grid)}
        if self.reach == self.patch:
            return rearrange(x, f"b ({_g(grid)}) ({_p(grid)} c) -> b {_outer(grid)} c", **sizes)
        valid = x.new_ones((len(x), *grid)) if mask is None else self.mask(mask, grid)[..., 0]
        x = rearrange(x, f"b ({_g(grid)}) ({_p(grid)} c) -> b {_apart(grid)} c", **sizes)
        return crossfade(x, valid, self.patch)

    def times(self, t: Tensor) -> Tensor:
        """The earliest time of each token, [B, L] with as many tokens for each as the axes that t lacks have."""
        return self._each(t, "min").flatten(1) if t.ndim > 1 else t[:, None]

    def mask(self, mask: Tensor, grid: tuple[int, ...]) -> Tensor:
        """Which tokens have a valid position, [B, *grid, 1]."""
        valid = self._each(mask.to(torch.uint8), "max").bool()
        return valid.reshape(valid.shape + (1,) * (len(grid) + 2 - valid.ndim)).expand(len(mask), *grid, 1)

    def _each(self, x: Tensor, operation: Literal["min", "max"]) -> Tensor:
        """A value for each position of the leading axes to one for each token."""
        patch = self.patch[: x.ndim - 1]
        return reduce(x, f"b {_outer(patch)} -> b {' '.join(_g(patch).split())}", operation, **_sizes(patch))


def real_times(t: Tensor, mask: Tensor) -> Tensor:
    """Times in which padding counts as given, so that it never is the earliest of a token."""
    if t.ndim == 1:
        return t
    valid = (
        mask.flatten(t.ndim).any(-1) if mask.ndim > t.ndim else mask.reshape(mask.shape + (1,) * (t.ndim - mask.ndim))
    )
    return torch.where(valid, t, 1.0)


def _g(axes: tuple[int, ...]) -> str:
    return " ".join(f"g{i}" for i in range(len(axes)))


def _p(axes: tuple[int, ...]) -> str:
    return " ".join(f"p{i}" for i in range(len(axes)))


def _outer(axes: tuple[int, ...]) -> str:
    return " ".join(f"(g{i} p{i})" for i in range(len(axes)))


def _apart(axes: tuple[int, ...]) -> str:
    return " ".join(f"g{i} p{i}" for i in range(len(axes)))


def _sizes(patch: tuple[int, ...]) -> dict[str, int]:
    return {f"p{i}": p for i, p in enumerate(patch)}

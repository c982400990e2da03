"""Some rows of what is sampled: noise that is theirs alone, and which of their positions are real."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch
from torch import Tensor

from flowgen.core.random import normal_rows
from flowgen.core.tree import State, tree_map


@dataclass(frozen=True)
class Rows:
    """Some rows of what is sampled, padded to the longest of them.

    Args:
        draws: of each row the seed and the row whose noise it has, where rows of several samples are made together.
    """

    seed: int
    rows: range
    shapes: Sequence[Any]
    device: torch.device
    draws: Sequence[tuple[int, int]] | None = None

    def noise(self, purpose: str) -> State:
        """Standard normal noise; that of a row depends on its seed, the row and its own shape alone."""
        draws = [(self.seed, row) for row in self.rows] if self.draws is None else list(self.draws)

        def leaf(*shapes: tuple[int, ...]) -> Tensor:
            noise = torch.zeros(len(shapes), *_longest(shapes), device=self.device)
            first = 0
            for (seed, shape), group in groupby(zip(draws, shapes, strict=True), lambda d: (d[0][0], d[1])):
                rows = torch.tensor([row for (_, row), _ in group])
                at = (slice(first, first + len(rows)), *_corner(shape))
                noise[at] = normal_rows((seed, purpose), rows, shape, self.device)
                first += len(rows)
            return noise

        return tree_map(leaf, *self.shapes)

    @property
    def mask(self) -> State | None:
        """Which positions are real, bool [B, *axes]; None where all are."""

        def leaf(*shapes: tuple[int, ...]) -> Tensor:
            real = torch.zeros(len(shapes), *_longest(shapes), dtype=torch.bool, device=self.device)
            for i, shape in enumerate(shapes):
                real[i][_corner(shape)] = True
            return real[..., 0]

        return tree_map(leaf, *self.shapes) if len({str(shape) for shape in self.shapes}) > 1 else None


def _longest(shapes: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
    return tuple(max(sizes) for sizes in zip(*shapes, strict=True))


def _corner(shape: tuple[int, ...]) -> tuple[slice, ...]:
    return tuple(slice(size) for size in shape)

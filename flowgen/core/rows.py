"""Some rows of what is sampled: noise that is theirs alone, and which of their positions are real."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from flowgen.core.random import normal_rows
from flowgen.core.tree import State, tree_map


@dataclass(frozen=True)
class Rows:
    """Some rows of what is sampled, padded to the longest of them."""

    seed: int
    rows: range
    shapes: Sequence[Any]
    device: torch.device

    def noise(self, purpose: str) -> State:
        """Standard normal noise; that of a row depends on the row and its own shape alone."""

        def leaf(*shapes: tuple[int, ...]) -> Tensor:
            rows = torch.tensor(self.rows)
            if len(set(shapes)) == 1:
                return normal_rows((self.seed, purpose), rows, shapes[0], self.device)
            padded = torch.zeros(len(shapes), *_longest(shapes), device=self.device)
            for i, shape in enumerate(shapes):
                padded[i][_corner(shape)] = normal_rows((self.seed, purpose), rows[i : i + 1], shape, self.device)[0]
            return padded

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

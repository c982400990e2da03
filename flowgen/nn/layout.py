"""Which tokens of a grid attend to each other, and which of them this rank holds."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from flowgen.nn.parallel import SequenceGroup


@dataclass(frozen=True)
class Layout:
    """Tokens that differ in the axes `axes` only attend to each other; `group`: the ranks over which they lie in order."""

    grid: tuple[int, ...]
    axes: tuple[int, ...]
    group: SequenceGroup | None = None

    def split(self, x: Tensor) -> Tensor:
        """[B, ..., channels] with a token for each place of the grid to [B x others, attending, channels]."""
        if len(self.axes) == len(self.grid):
            return x.reshape(len(x), -1, x.shape[-1])
        x = x.reshape(len(x), *self.grid, x.shape[-1]).permute(self._order)
        return x.reshape(-1, math.prod(self.grid[i] for i in self.axes), x.shape[-1])

    def join(self, x: Tensor, shape: torch.Size) -> Tensor:
        """Back to `shape`, [B, ..., channels]."""
        if len(self.axes) == len(self.grid):
            return x.reshape(shape)
        sizes = [(shape[0], *self.grid, shape[-1])[i] for i in self._order]
        inverse = sorted(range(len(sizes)), key=self._order.__getitem__)
        return x.reshape(sizes).permute(inverse).reshape(shape)

    @property
    def _order(self) -> list[int]:
        others = [i + 1 for i in range(len(self.grid)) if i not in self.axes]
        return [0, *others, *(i + 1 for i in self.axes), len(self.grid) + 1]

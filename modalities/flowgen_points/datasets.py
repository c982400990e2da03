"""Densities that every flow-matching tutorial knows. They are endless: a clip is a function of (index, seed)."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from flowgen.core.random import uniform_rows
from flowgen.core.ranges import NonNegative, Positive
from flowgen.errors import UsageError
from flowgen.media.clip import Clip
from flowgen_points.modality import Points, read_points

_EPOCH = 2**18  # what a data set without end calls its length
_HELD_OUT = 0x5DEECE66D


class Density(ABC):
    """What the endless data sets share."""

    classes: tuple[str, ...] = ()
    salt = 0
    endless: ClassVar[bool] = True

    @abstractmethod
    def points(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """Points [B, 2] of uniform numbers [B, 4], and the index of their class [B]."""

    @property
    def conditions(self) -> dict[str, dict[str, Any]]:
        return {"class": {"type": "class", "names": list(self.classes)}} if self.classes else {}

    def __len__(self) -> int:
        return _EPOCH

    def clip(self, index: int, seed: int) -> Clip:
        return self.clips([index], [seed])[0]

    def clips(self, indices: Sequence[int], seeds: Sequence[int]) -> list[Clip]:
        """Many clips at once, each as `clip` gives it."""
        points, kinds = self.points(uniform_rows(indices, [seed ^ self.salt for seed in seeds], 4))
        said = [{"class": self.classes[k]} if self.classes else {} for k in kinds.tolist()]
        return [Clip(row, conditions=c) for row, c in zip(points.float().unbind(0), said, strict=True)]

    def validation(self) -> Density:
        """The same density, from other random numbers."""
        other = copy(self)
        object.__setattr__(other, "salt", _HELD_OUT)
        return other

    def describe(self) -> dict[str, Any]:
        return {"points": "endless", "classes": ", ".join(self.classes) or "none"}


@dataclass(frozen=True)
class Checkerboard(Density):
    """Every other square of a 4x4 board on [-half, half]^2; the square at the lower left is empty."""

    modality: Points
    half: Positive = 4.0

    def __post_init__(self) -> None:
        if self.half <= 0:
            raise UsageError(f"data.half must be positive, got {self.half:g}")

    def points(self, u: Tensor) -> tuple[Tensor, Tensor]:
        square = (u[:, 0] * 8).long()
        row = square // 2
        column = 2 * (square % 2) + (row % 2 == 0)
        return (torch.stack([column, row], 1) + u[:, 1:3]) * (self.half / 2) - self.half, square

    def describe(self) -> dict[str, Any]:
        return super().describe() | {"density": f"8 of the 16 squares of a board on [-{self.half:g}, {self.half:g}]^2"}


@dataclass(frozen=True)
class Ring(Density):
    """Eight Gaussians on a circle, by class: 0 (to the right) to 7, counter-clockwise."""

    modality: Points
    radius: NonNegative = 3.5
    std: NonNegative = 0.3
    classes = tuple(map(str, range(8)))

    def points(self, u: Tensor) -> tuple[Tensor, Tensor]:
        mode = (u[:, 0] * 8).long()
        angle = mode * (math.pi / 4)
        return self.radius * torch.stack([angle.cos(), angle.sin()], 1) + self.std * normal(u), mode


def normal(u: Tensor) -> Tensor:
    """Standard normal numbers [B, 2], of the last two of the uniform ones [B, 4]."""
    return torch.special.ndtri(u[:, 2:4].clamp(2.0**-53))


@dataclass(frozen=True)
class PointsFile:
    """The points of an npy or csv file, a point a row. One in ten is held out for validation."""

    modality: Points
    path: str
    held_out: bool = field(default=False, init=False)
    conditions: Mapping[str, Mapping[str, Any]] = field(default_factory=dict, init=False)

    @cached_property
    def table(self) -> Tensor:
        points = read_points(Path(self.path))
        tenth = torch.arange(len(points)) % 10 == 9
        return points[tenth if self.held_out else ~tenth]

    def __len__(self) -> int:
        return len(self.table)

    def clip(self, index: int, seed: int) -> Clip:
        return Clip(self.table[index], source=f"{self.path}:{index}")

    def validation(self) -> PointsFile:
        other = PointsFile(self.modality, self.path)
        object.__setattr__(other, "held_out", True)
        if not len(other):
            raise UsageError(
                f"{self.path}: has {len(self)} points, of which every tenth would be held out; give 10 or more"
            )
        return other

    def describe(self) -> dict[str, Any]:
        return {"points": len(self), "file": self.path}

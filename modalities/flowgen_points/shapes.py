"""More densities that tutorials know: moons, spirals, and any picture."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from flowgen.core.ranges import NonNegative, Positive
from flowgen.errors import FlowgenError, UsageError
from flowgen_points.datasets import Density, normal
from flowgen_points.modality import Points


@dataclass(frozen=True)
class Moons(Density):
    """Two half circles of radius `size` that reach into each other, by class: 0 (above) and 1 (below)."""

    modality: Points
    size: Positive = 2.5
    std: NonNegative = 0.15
    classes = ("0", "1")

    def points(self, u: Tensor) -> tuple[Tensor, Tensor]:
        moon, angle = (u[:, 0] * 2).long(), math.pi * u[:, 1]
        # the second is the first turned by half a circle about (1/2, 1/4)
        x, y = angle.cos() - 0.5, angle.sin() - 0.25
        sign = 1.0 - 2.0 * moon
        return self.size * sign[:, None] * torch.stack([x, y], 1) + self.std * normal(u), moon


@dataclass(frozen=True)
class Spirals(Density):
    """Two Archimedean spirals of `turns` turns out to `radius`, by class: 0, and 1, the same turned by half a circle.

    A spiral is evenly dense along its length, up to the very centre.
    """

    modality: Points
    turns: Positive = 1.5
    radius: Positive = 4.0
    std: NonNegative = 0.1
    classes = ("0", "1")

    def points(self, u: Tensor) -> tuple[Tensor, Tensor]:
        arm, share = (u[:, 0] * 2).long(), u[:, 1].sqrt()  # the length up to a radius grows with its square
        angle = 2 * math.pi * self.turns * share + math.pi * arm
        return self.radius * share[:, None] * torch.stack([angle.cos(), angle.sin()], 1) + self.std * normal(u), arm


@dataclass(frozen=True)
class Picture(Density):
    """A picture as a density on [-half, half] along its longer side: the darker, the more points.

    A transparent place has none. FlowgenError: the file is no picture; UsageError: all of it is white.
    """

    modality: Points
    path: str
    half: Positive = 4.0

    @cached_property
    def _ink(self) -> tuple[Tensor, int, int]:
        """The distribution function over pixels, row by row, and their rows and columns."""
        from PIL import Image

        try:
            with Image.open(Path(self.path)) as image:
                shown = image.convert("RGBA")
        except (OSError, ValueError) as error:
            raise FlowgenError(f"data.path: {self.path} cannot be read as a picture ({error})") from None
        shown.thumbnail((512, 512))
        white = Image.new("RGBA", shown.size, "white")
        grey = Image.alpha_composite(white, shown).convert("L")
        ink = 255.0 - torch.tensor(list(grey.tobytes()), dtype=torch.float64)
        if not float(ink.sum()):
            raise UsageError(f"data.path: {self.path} is all white; points lie where it is dark")
        return ink.cumsum(0) / ink.sum(), grey.height, grey.width

    def points(self, u: Tensor) -> tuple[Tensor, Tensor]:
        below, height, width = self._ink
        pixel = torch.searchsorted(below, u[:, 0].double().contiguous(), right=True).clamp(max=len(below) - 1)
        row, column = pixel // width, pixel % width
        x, y = column + u[:, 1] - width / 2, height / 2 - row - u[:, 2]
        return torch.stack([x, y], 1) * (2 * self.half / max(height, width)), torch.zeros_like(pixel)

    def describe(self) -> dict[str, Any]:
        return super().describe() | {"picture": self.path}

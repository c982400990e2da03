"""How well generated points keep to the squares they should be on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor

from flowgen.errors import UsageError
from flowgen.evaluation.features import FromFeatures
from flowgen.media.clip import Clip
from flowgen.media.interfaces import Better
from flowgen_points.datasets import Checkerboard
from flowgen_points.modality import Points, stack


class CheckerboardShare(FromFeatures):
    """Of all points: the share on filled squares, and the least and the most that any of these got of its due, an eighth."""

    def __init__(self, modality: Points, dataset: Checkerboard) -> None:
        if not isinstance(dataset, Checkerboard):
            raise UsageError(
                f"the metric checkerboard measures the data set checkerboard, not {type(dataset).__name__}"
            )
        self.half = dataset.half

    better: ClassVar[Mapping[str, Better]] = {
        "on_filled_squares": "higher",
        "least_filled_square": "higher",
        "most_filled_square": "lower",
    }

    def features(self, clips: Sequence[Clip]) -> dict[str, Tensor]:
        """The filled square of each point, from 0 to 15, or -1."""
        place = ((stack(clips) + self.half) / (self.half / 2)).floor().long()
        filled = ((place >= 0) & (place < 4)).all(1) & (place.sum(1) % 2 == 1)
        return {"square": torch.where(filled, place[:, 0] * 4 + place[:, 1], -1)}

    def figures(self, found: Mapping[str, Tensor], reference: Mapping[str, Tensor]) -> dict[str, float]:
        square = found["square"]
        counts = torch.bincount(square[square >= 0], minlength=16).reshape(4, 4)
        due = counts[(torch.arange(4)[:, None] + torch.arange(4)) % 2 == 1] * 8 / len(square)
        return {
            "on_filled_squares": float((square >= 0).double().mean()),
            "least_filled_square": float(due.min()),
            "most_filled_square": float(due.max()),
        }

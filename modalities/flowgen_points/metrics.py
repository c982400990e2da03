"""How well generated points keep to the squares they should be on."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from flowgen.errors import UsageError
from flowgen.media.clip import Clip
from flowgen_points.datasets import Checkerboard
from flowgen_points.modality import Points, stack


class CheckerboardShare:
    """Of all points: the share on filled squares, and the least and the most that any of these got of its due, an eighth."""

    def __init__(self, modality: Points, dataset: Checkerboard) -> None:
        if not isinstance(dataset, Checkerboard):
            raise UsageError(
                f"the metric checkerboard measures the data set checkerboard, not {type(dataset).__name__}"
            )
        self.half = dataset.half

    def measure(self, clips: Sequence[Clip], reference: Sequence[Clip]) -> dict[str, float]:
        place = ((stack(clips) + self.half) / (self.half / 2)).floor().long()
        on_board = ((place >= 0) & (place < 4)).all(1)
        place = place[on_board & (place.sum(1) % 2 == 1)]
        counts = torch.bincount(place[:, 0] * 4 + place[:, 1], minlength=16).reshape(4, 4)
        filled = (torch.arange(4)[:, None] + torch.arange(4)) % 2 == 1
        due = counts[filled] * 8 / len(clips)
        return {
            "on_filled_squares": len(place) / len(clips),
            "least_filled_square": float(due.min()),
            "most_filled_square": float(due.max()),
        }

"""Which part of a recording a clip is: crops, windows, and groups of about one length.

Options are read from signatures, so this module does without postponed annotations.
"""

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from flowgen.core.ranges import Whole
from flowgen.errors import UsageError


@dataclass(frozen=True)
class Windows:
    """How clips of `frames` frames are taken from recordings of any length.

    `stride` 0 takes one clip a recording, at a place that changes with the seed; n takes one every n frames, so that longer
    recordings give more. Of held-out recordings the places never change. A recording that is up to `tolerance` frames short
    shows its last frame again.
    """

    frames: int
    stride: Whole
    tolerance: Whole
    crop: str = "random"

    def __post_init__(self) -> None:
        if self.stride < 0 or not 0 <= self.tolerance < self.frames:
            raise UsageError(
                f"data.stride must be 0 or more and data.tolerance from 0 to {self.frames - 1}, "
                f"got stride={self.stride} and tolerance={self.tolerance}"
            )

    def count(self, n: int) -> int:
        """Clips in a recording of n frames."""
        if n < self.frames - self.tolerance:
            return 0
        return 1 + max(0, n - self.frames) // self.stride if self.stride else 1

    def place(self, n: int, window: int, rng: torch.Generator | None) -> Tensor:
        """The frames of clip `window` of n, [frames]; without a generator, the centre or the fixed place."""
        last = max(0, n - self.frames)
        if self.stride:
            low, high = window * self.stride, min((window + 1) * self.stride - 1, last)
            start = low if rng is None else int(torch.randint(low, high + 1, (), generator=rng))
        elif self.crop == "random" and rng is not None:
            start = int(torch.randint(0, last + 1, (), generator=rng))
        else:
            start = int(spare(n, self.frames, self.crop, None))
        return (start + torch.arange(self.frames)).clamp(max=n - 1)

    def drawn_from(self, n: int, window: int) -> Tensor | None:
        """The frames that clip `window` of n may show, where a generator says which; None: there is no choice."""
        last = max(0, n - self.frames)
        low, high = (window * self.stride, min((window + 1) * self.stride - 1, last)) if self.stride else (0, last)
        if high <= low or (not self.stride and self.crop != "random"):
            return None
        return torch.arange(low, high + self.frames)


def spare(length: float, wanted: float, crop: str, rng: torch.Generator | None) -> float:
    """Where a crop of `wanted` begins in `length`: at random by `rng` (in the centre without one), at the start or the centre."""
    rest = max(length - wanted, 0.0)
    if crop == "start" or not math.isfinite(rest):
        return 0.0
    if crop == "random" and rng is not None:
        return rest * float(torch.rand((), generator=rng))
    return rest / 2


@dataclass(frozen=True)
class LengthGroups:
    """Groups of clips of about one length, of equally many clips each, named by their longest.

    `edges` are seconds, rising. A clip of the group costs what its longest does, relative to one of `full_s`.
    """

    edges: tuple[float, ...]
    full_s: float

    @classmethod
    def of(cls, lengths_s: Sequence[float], count: int, full_s: float) -> "LengthGroups":
        """`count` groups, or fewer where lengths are the same. UsageError: there are not so many clips."""
        if not 0 <= count <= len(lengths_s):
            raise UsageError(f"data.buckets: expected 0 to {len(lengths_s)} (as there are recordings), got {count}")
        ordered = sorted(math.ceil(length * 1000) / 1000 for length in lengths_s)
        return cls(tuple(sorted({ordered[(i + 1) * len(ordered) // count - 1] for i in range(count)})), full_s)

    @property
    def costs(self) -> dict[str, float]:
        return {f"up to {edge:g} s": min(edge / self.full_s, 1.0) for edge in self.edges}

    def of_length(self, length_s: float) -> str:
        """The group of a clip; one longer than all goes to the last."""
        at = bisect_left(self.edges, min(length_s, self.full_s))
        return f"up to {self.edges[min(at, len(self.edges) - 1)]:g} s"

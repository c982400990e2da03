"""Clips longer than what a run was trained on: window by window, each seeing the half of a window before it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from flowgen.errors import UsageError
from flowgen.media.clip import Clip

if TYPE_CHECKING:
    from flowgen.runs.generator import Generator

Making = Callable[[Sequence[Clip], int, int], list[Clip]]
"""From the ends that are given (one for all, or one each), a seed and the number of the window to the clips of that window."""


@dataclass(frozen=True)
class Windows:
    """How a run goes on from a clip of some length.

    Args:
        seen_s: of what is there, the most that the next window sees.
        new_s: that a window adds.
    """

    seen_s: float
    new_s: float

    @staticmethod
    def after(generator: Generator, clip: Clip) -> Windows:
        """UsageError: nothing of the clip fits half a window."""
        modality: Any = generator.modality
        window = generator.lengths.window_s
        seen = modality.seconds(generator.lengths.end_within(clip, window / 2))
        if not 0 < seen < window:
            raise UsageError(f"{clip.source or 'the clip'} is too short to continue: nothing of it fits half a window")
        return Windows(seen, window - seen)

    def count(self, seconds: float) -> int:
        """Windows that `seconds` more take. UsageError: no such length."""
        if not 0 < seconds < math.inf:
            raise UsageError(f"a continuation takes more than 0 s, got {seconds:g}")
        return max(1, math.ceil(seconds / self.new_s - 1e-6))

    def follow(
        self, modality: Any, before: Sequence[Clip], seconds: float, seed: int, make: Making
    ) -> Iterator[list[Clip]]:
        """What comes after `before`, part by part, `seconds` in all. No more is held than what the next window sees."""
        ends, made, turn = list(before), 0.0, 0
        while made < seconds - 1e-6:
            same = len({id(clip) for clip in ends}) == 1
            ends = [modality.cut(c, modality.seconds(c) - self.seen_s, modality.seconds(c)) for c in ends]
            clips = make(ends[:1] if same else ends, seed + turn, turn)
            new = min(
                modality.seconds(clips[0]) - self.seen_s, seconds - made
            )  # a clip may be shorter than its latents
            parts = [modality.cut(clip, self.seen_s, self.seen_s + new) for clip in clips]
            yield parts
            ends = [modality.join([end, part]) for end, part in zip(ends, parts, strict=True)]
            made, turn = made + new, turn + 1

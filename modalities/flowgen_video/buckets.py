"""Clips of different length and shape in batches of equal cost: which bucket each goes to, and how many fit in a batch."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from flowgen.errors import UsageError


@dataclass(frozen=True, order=True)
class Bucket:
    """Clips brought to `frames` x `height` x `width`."""

    frames: int
    height: int
    width: int

    def __str__(self) -> str:
        return f"{self.frames}x{self.height}x{self.width}"

    @property
    def sizes(self) -> tuple[int, int, int]:
        return (self.frames, self.height, self.width)

    def tokens(self, patch: tuple[int, int, int]) -> int:
        """Tokens of one clip. UsageError: the patch does not divide it."""
        sizes = self.sizes
        if any(size % p for size, p in zip(sizes, patch, strict=True)):
            raise UsageError(f"bucket {self}: a patch of {'x'.join(map(str, patch))} does not divide it")
        return math.prod(size // p for size, p in zip(sizes, patch, strict=True))


def parse_bucket(text: str) -> Bucket:
    """The bucket that is written "16x32x32". UsageError: it is none."""
    found = re.fullmatch(r"(\d+)x(\d+)x(\d+)", text)
    sizes = [int(n) for n in found.groups()] if found else [0]
    if not all(sizes):
        raise UsageError(f"data.buckets: expected frames, height and width as in 16x32x32, got {text!r}")
    return Bucket(*sizes)


@dataclass(frozen=True)
class Assignment:
    """Where a clip goes, and what that costs it."""

    clip: int
    bucket: Bucket | None
    """None: it is left out."""
    status: str
    """kept, cropped, padded (its last frame is shown again) or left out."""
    why: str


def assign(shapes: Sequence[tuple[int, int, int]], buckets: Sequence[Bucket], tolerance: int = 1) -> list[Assignment]:
    """A bucket for every clip of (frames, height, width).

    A clip goes where its proportions change least; among those, to the bucket with the most frames that it fills (up to
    `tolerance` frames short is allowed); among those, to the largest picture that it need not be enlarged for, or else to
    the smallest. One that fills no bucket is left out.
    """
    if not buckets:
        raise UsageError("there are no buckets to put clips in")
    if tolerance < 0:
        raise UsageError(f"tolerance must be 0 or more frames, got {tolerance}")
    return [_assign(i, shape, buckets, tolerance) for i, shape in enumerate(shapes)]


def batch_sizes(buckets: Sequence[Bucket], patch: tuple[int, int, int], token_budget: int) -> dict[Bucket, int]:
    """Clips a batch for each bucket, so that no batch has more than `token_budget` tokens.

    Raises UsageError where one clip alone has more.
    """
    sizes = {}
    for bucket in buckets:
        tokens = bucket.tokens(patch)
        if tokens > token_budget:
            raise UsageError(
                f"bucket {bucket}: one clip has {tokens} tokens, more than the budget of {token_budget}; "
                "raise the budget, or take a larger patch or a smaller bucket"
            )
        sizes[bucket] = token_budget // tokens
    return sizes


def summary(assignments: Sequence[Assignment], sizes: Mapping[Bucket, int]) -> list[dict[str, Any]]:
    """One row a bucket: clips, clips a batch, full batches an epoch and clips that wait for the next one; the last row
    counts what is left out."""
    rows = []
    for bucket, size in sizes.items():
        clips = sum(a.bucket == bucket for a in assignments)
        batches, waiting = divmod(clips, size)
        rows.append({"bucket": str(bucket), "clips": clips, "batch": size, "batches": batches, "waiting": waiting})
    left_out = sum(a.bucket is None for a in assignments)
    return [*rows, {"bucket": "left out", "clips": left_out, "batch": 0, "batches": 0, "waiting": 0}]


def _assign(clip: int, shape: tuple[int, int, int], buckets: Sequence[Bucket], tolerance: int) -> Assignment:
    frames, height, width = shape
    filled = [b for b in buckets if frames >= b.frames - tolerance]
    if not filled:
        shortest = min(b.frames for b in buckets)
        return Assignment(
            clip, None, "left out", f"too short: {frames} frames, the shortest bucket needs {shortest - tolerance}"
        )

    def cost(b: Bucket) -> tuple[float, ...]:
        enlarged = b.height > height or b.width > width
        area = b.height * b.width
        return (
            round(abs(math.log(b.width / b.height * height / width)), 6),
            -b.frames,
            enlarged,
            area if enlarged else -area,
        )

    best = min(filled, key=cost)
    changes = []
    if frames > best.frames:
        changes.append(f"{best.frames} of {frames} frames")
    if frames < best.frames:
        changes.append(f"{best.frames - frames} frames short: the last one is shown again")
    scale = max(best.height / height, best.width / width)
    seen = best.height * best.width / (scale * scale * height * width)
    if seen < 0.995:
        changes.append(f"{seen:.0%} of the picture")
    if scale > 1:
        changes.append(f"enlarged {scale:.2g} times")
    status = "padded" if frames < best.frames else "cropped" if changes else "kept"
    return Assignment(clip, best, status, ", ".join(changes))

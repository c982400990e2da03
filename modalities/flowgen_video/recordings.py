"""Clips from video files: which there are, how long they are, what is kept of them, and why not.

The data sets over folders, manifests and tar shards (`flowgen_video.folders` and so on) find the files; everything
after that is here.
"""

from __future__ import annotations

import math
import os
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor

from flowgen.core.random import generator
from flowgen.data.facts import cached
from flowgen.data.shards import Source, located
from flowgen.errors import BadData, FlowgenError, UsageError, unknown
from flowgen.media.clip import Clip
from flowgen_video.buckets import Bucket, assign, parse_bucket
from flowgen_video.modality import Video
from flowgen_video.reading import FrameIndex, decode_frames, index_frames, resample, shown_size

_VERSION = 1

Kind = Literal["class", "text", "number"]
HeldOut: TypeAlias = float | dict[str, list[str | int | float | bool]]


@dataclass(frozen=True)
class Recording:
    """A file and what is known about it."""

    path: Source
    name: str
    values: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Usable:
    """A recording that is long enough: which frames of the file make its clip at the modality's rate, [n]."""

    recording: Recording
    index: FrameIndex
    order: Tensor
    bucket: Bucket
    """What its clips are brought to."""


@dataclass(frozen=True)
class Windows:
    """How clips of `frames` frames are taken from recordings of any length.

    `stride` 0 takes one clip a recording, at a place that changes with the seed; n takes one every n frames, so that longer
    recordings give more. Of held-out recordings the places never change. A recording that is up to `tolerance` frames short
    shows its last frame again.
    """

    frames: int
    stride: int
    tolerance: int

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
        """The frames of clip `window` of n, [frames]; without a generator, the middle or the fixed place."""
        spare = max(0, n - self.frames)
        low, high = (window * self.stride, (window + 1) * self.stride - 1) if self.stride else (0, spare)
        high = min(high, spare)
        if rng is not None:
            start = int(torch.randint(low, high + 1, (), generator=rng))
        else:
            start = low if self.stride else spare // 2
        return (start + torch.arange(self.frames)).clamp(max=n - 1)


class Recordings:
    """The part of a data set that is the same for all video files. Files are looked at when first needed, and
    again only when they have changed.

    Args:
        columns: which values of a recording become conditions, and of which kind.
        cache: keep the decoded frames of every recording in memory.
        buckets: sizes, such as "8x64x64" (frames, height, width), to one of which each training clip is brought; that of
            the modality where there are none.
        max_bad_share: more unusable files than this share are an error.
    """

    buckets: dict[str, float]
    max_bad_share: float

    def __init__(
        self,
        modality: Video,
        training: Sequence[Recording],
        held_out: Sequence[Recording],
        columns: Mapping[str, Kind],
        windows: Windows,
        cache: bool,
        origin: str,
        part: Literal["training", "validation"] = "training",
        buckets: Sequence[str] = (),
        max_bad_share: float = 1.0,
    ) -> None:
        if not 0 <= max_bad_share <= 1:
            raise UsageError(f"data.max_bad_share must lie in [0, 1], got {max_bad_share:g}")
        self.modality, self.columns, self.windows, self.cache, self.origin = modality, columns, windows, cache, origin
        self.max_bad_share = max_bad_share
        self._full = Bucket(modality.frames, modality.height, modality.width)
        self._buckets = [parse_bucket(text) for text in dict.fromkeys(buckets)]
        self._windows = {b: replace(windows, frames=b.frames) for b in [self._full, *self._buckets]}
        self.buckets = {str(b): math.prod(b.sizes) / math.prod(self._full.sizes) for b in self._buckets}
        self.parts = {"training": list(training), "validation": list(held_out)}
        self.part = part
        self.conditions = {name: _condition(name, kind, [*training, *held_out]) for name, kind in columns.items()}
        self._surveyed: tuple[list[Usable], list[dict[str, Any]]] | None = None
        self._starts: list[tuple[int, int]] = []
        self._frames: dict[int, Tensor] = {}

    def __len__(self) -> int:
        self._survey()
        return len(self._starts)

    def clip(self, index: int, seed: int) -> Clip:
        if not 0 <= index < len(self):
            raise IndexError(f"clip {index} of {len(self)}")
        which, window = self._starts[index]
        usable = self._survey()[0][which]
        rng = generator(seed, "window", index) if self.part == "training" else None
        place = self._windows[usable.bucket].place(len(usable.order), window, rng)
        m = self.modality
        if self.cache:
            if which not in self._frames:
                self._frames[which] = self._decode(usable, usable.order)
            data = self._frames[which][place]
        else:
            data = self._decode(usable, usable.order[place])
        first = float(usable.index.times[usable.order[place[0]]])
        return Clip(
            data=data,
            rate=m.fps,
            conditions={name: usable.recording.values[name] for name in self.columns},
            source=f"{usable.recording.path} from {first:.2f} s",
        )

    def bucket_of(self, index: int) -> str:
        return str(self._survey()[0][self._starts[index][0]].bucket)

    def validation(self) -> Recordings:
        if not self.parts["validation"]:
            raise UsageError(f"{self.origin}: nothing is held out; set data.held_out")
        return self._of_part("validation")

    def full_size(self) -> Recordings:
        """The training clips that fill the modality's own size, in that size."""
        return self._of_part("training")

    def _of_part(self, part: Literal["training", "validation"]) -> Recordings:
        share = 1.0 if self._buckets else self.max_bad_share  # what fills a bucket may well be short of full size
        return Recordings(
            self.modality, self.parts["training"], self.parts["validation"], self.columns, self.windows, self.cache,
            self.origin, part, max_bad_share=share,
        )  # fmt: skip

    def describe(self) -> dict[str, Any]:
        usable, report = self._survey()
        m = self.modality
        seconds = sum(len(u.order) for u in usable) / m.fps
        described: dict[str, Any] = {
            "recordings": f"{len(usable)} of {len(report)} in {self.origin} ({len(self.parts['validation'])} held out)",
            "clips": len(self),
            "frames": f"{m.frames} of {m.height}x{m.width} at {m.fps:g} a second ({m.frames / m.fps:g} s)",
            "seconds": round(seconds, 1),
        }
        if self.buckets:
            counts = Counter(str(usable[which].bucket) for which, _ in self._starts)
            described["buckets"] = ", ".join(f"{name} ({counts[name]})" for name in self.buckets)
        for status, number in Counter(row["status"] for row in report).items():
            described[status] = number
        for name, kind in self.columns.items():
            if kind == "class":
                counts = Counter(str(u.recording.values[name]) for u in usable)
                described[name] = ", ".join(f"{value} ({n})" for value, n in sorted(counts.items()))
        left_out = [f"{row['file']}: {row['why']}" for row in report if row["status"] == "left out"]
        if left_out:
            described["left out because"] = "; ".join(left_out[:5]) + (" ..." if len(left_out) > 5 else "")
        return described

    def report(self) -> list[dict[str, Any]]:
        """What becomes of each file of this part; frames and seconds are those at the modality's rate."""
        return [dict(row) for row in self._survey()[1]]

    def _survey(self) -> tuple[list[Usable], list[dict[str, Any]]]:
        if self._surveyed is None:
            usable: list[Usable] = []
            rows, starts = [], []
            recordings = self.parts[self.part]
            kind, threads = f"video-{_VERSION}-{self.modality.fps}", min(4, os.cpu_count() or 1)
            seen = cached(kind, (r.path for r in recordings), self._examine, threads)
            for recording in recordings:
                row, found = self._judge(recording, seen[recording.path])
                rows.append(row)
                if found is not None:
                    starts += [(len(usable), window) for window in range(row["clips"])]
                    usable.append(found)
            left_out = [row for row in rows if row["status"] == "left out"]
            reasons = "; ".join(f"{row['file']}: {row['why']}" for row in left_out[:3])
            if not usable:
                raise BadData(f"{self.origin}: no {self.part} clip can be used ({reasons or 'no files'})", rows)
            if len(left_out) > self.max_bad_share * len(rows):
                raise BadData(
                    f"{self.origin}: {len(left_out)} of {len(rows)} files cannot be used, more than "
                    f"data.max_bad_share={self.max_bad_share:g} allows ({reasons}{', ...' if len(left_out) > 3 else ''})",
                    rows,
                )
            self._surveyed, self._starts = (usable, rows), starts
        return self._surveyed

    def _examine(self, path: Source) -> dict[str, Any]:
        """What is in a file, or why it cannot be read, as JSON values."""
        try:
            index, size = index_frames(path, self.modality.fps), shown_size(path)
        except FlowgenError as error:
            return {"problem": str(error)}
        return {"times": index.times.tolist(), "keys": index.keys, "stamps": index.stamps, "size": size}

    def _judge(self, recording: Recording, seen: Mapping[str, Any]) -> tuple[dict[str, Any], Usable | None]:
        fps = self.modality.fps
        row: dict[str, Any] = {"file": recording.name, "part": self.part, "clips": 0, **located(recording.path)}
        if "problem" in seen:
            return {**row, "status": "left out", "why": seen["problem"]}, None
        times = torch.tensor(seen["times"], dtype=torch.float64)
        index = FrameIndex(times, tuple(seen["keys"]), tuple(seen["stamps"]))
        height, width = seen["size"]
        order = resample(index.times, fps)
        n = len(order)
        row |= {"source_frames": len(index), "rate": round(index.rate, 3), "seconds": round(n / fps, 3), "frames": n}
        row["size"] = f"{height}x{width}"
        bucket, status, why = self._assign(n, (height, width))
        if bucket is None:
            return {**row, "status": status, "why": why}, None
        row |= {"clips": self._windows[bucket].count(n), "status": status, "why": why}
        return row | ({"bucket": str(bucket)} if self._buckets else {}), Usable(recording, index, order, bucket)

    def _assign(self, n: int, size: tuple[int, int]) -> tuple[Bucket | None, str, str]:
        """The bucket of a recording of n frames, and what becomes of it."""
        tolerance = self.windows.tolerance
        if self._buckets:
            (found,) = assign([(n, *size)], self._buckets, tolerance)
            if found.bucket is not None and self.windows.stride and n > found.bucket.frames:  # all of them are seen
                (found,) = assign([(found.bucket.frames, *size)], [found.bucket], tolerance)
            return found.bucket, found.status, found.why
        wanted, fps = self._full.frames, self.modality.fps
        if not self.windows.count(n):
            why = f"{n} frames at {fps:g} a second, {wanted} are needed (data.tolerance allows {tolerance} less)"
            return None, "left out", why
        if n < wanted:
            return self._full, "filled", f"{wanted - n} frames short: the last one is shown again"
        if n > wanted and not self.windows.stride:
            return self._full, "trimmed", f"{wanted} of {n} frames are seen at a time"
        return self._full, "kept", ""

    def _decode(self, usable: Usable, frames: Tensor) -> Tensor:
        to, channels = usable.bucket, self.modality.channels
        return decode_frames(usable.recording.path, frames.tolist(), to.height, to.width, channels, usable.index)


def split(found: Sequence[Recording], held_out: HeldOut, origin: str) -> tuple[list[Recording], list[Recording]]:
    """For training and for validation: a share chosen by name, or those whose columns all have one of the values given."""
    if not isinstance(held_out, Mapping):
        if not 0 <= held_out < 1:
            raise UsageError(f"data.held_out must lie in [0, 1), got {held_out:g}")
        out = [held_out_share(r.name, held_out) for r in found]
    else:
        known = {name for r in found for name in r.values}
        for name in held_out:
            if name not in known:
                raise UsageError(f"{origin}: {unknown('column', name, known)}")
        rule = {name: {str(v) for v in values} for name, values in held_out.items()}
        out = [all(str(r.values.get(name)) in values for name, values in rule.items()) for r in found]
        if not any(out):
            raise UsageError(f"{origin}: no row matches data.held_out {dict(held_out)}")
    return [r for r, o in zip(found, out, strict=True) if not o], [r for r, o in zip(found, out, strict=True) if o]


def held_out_share(name: str, share: float) -> bool:
    """Whether a file is among the `share` that is held out: a function of its name alone."""
    return zlib.crc32(name.encode()) / 2**32 < share


def _condition(name: str, kind: Kind, recordings: Sequence[Recording]) -> dict[str, Any]:
    values = list(_values(name, recordings))
    match kind:
        case "class":
            return {"type": "class", "names": sorted({str(v) for v in values})}
        case "text":
            longest = max((len(str(v).encode()) for v in values), default=1)
            return {"type": "text", "max_bytes": 16 * -(-max(longest, 1) // 16)}
        case "number":
            numbers = [float(v) for v in values]
            if min(numbers) == max(numbers):
                raise UsageError(
                    f"column {name!r} is {numbers[0]:g} everywhere; a number condition needs two values or more"
                )
            return {"type": "number", "low": min(numbers), "high": max(numbers)}


def _values(name: str, recordings: Sequence[Recording]) -> Iterator[Any]:
    for recording in recordings:
        if recording.values.get(name) is None:
            known = ", ".join(map(str, recording.values)) or "none"
            raise UsageError(f"{recording.name} has no value for {name!r} (it has: {known})")
        yield recording.values[name]

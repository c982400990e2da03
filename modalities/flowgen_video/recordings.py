"""Clips from video files: which there are, how long they are, what is kept of them, and why not.

The data sets over folders and manifests (`flowgen_video.folders`, `flowgen_video.manifests`) find the files; everything
after that is here.
"""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from flowgen.clip import Clip
from flowgen.errors import FlowgenError, UsageError
from flowgen.random import generator
from flowgen_video.modality import Video
from flowgen_video.reading import FrameIndex, decode_frames, index_frames, resample

Kind = Literal["class", "text", "number"]


@dataclass(frozen=True)
class Recording:
    """A file and what is known about it."""

    path: Path
    name: str
    values: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Usable:
    """A recording that is long enough: which frames of the file make its clip at the modality's rate, [n]."""

    recording: Recording
    index: FrameIndex
    order: Tensor


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
    """The part of a data set that is the same for all video files. Files are looked at when first needed, once.

    Args:
        columns: which values of a recording become conditions, and of which kind.
        names, ranges, longest: of class, number and text columns over training and held-out recordings together.
        cache: keep the decoded frames of every recording in memory.
    """

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
    ) -> None:
        self.modality, self.columns, self.windows, self.cache, self.origin = modality, columns, windows, cache, origin
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
        place = self.windows.place(len(usable.order), window, rng)
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

    def validation(self) -> Recordings:
        if not self.parts["validation"]:
            raise UsageError(f"{self.origin}: nothing is held out; set data.held_out")
        windows, parts = self.windows, self.parts
        return Recordings(
            self.modality, parts["training"], parts["validation"], self.columns, windows, self.cache, self.origin,
            part="validation",
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
        """What becomes of each file: file, part, source frames and rate, frames at the modality's rate, clips, status and why."""
        return [dict(row) for row in self._survey()[1]]

    def _survey(self) -> tuple[list[Usable], list[dict[str, Any]]]:
        if self._surveyed is None:
            usable: list[Usable] = []
            rows = []
            for recording in self.parts[self.part]:
                row, found = self._look_at(recording)
                rows.append(row)
                if found is not None:
                    self._starts += [(len(usable), window) for window in range(row["clips"])]
                    usable.append(found)
            self._surveyed = usable, rows
            if not usable:
                reasons = "; ".join(f"{row['file']}: {row['why']}" for row in rows[:3])
                raise UsageError(f"{self.origin}: no {self.part} clip can be used ({reasons or 'no files'})")
        return self._surveyed

    def _look_at(self, recording: Recording) -> tuple[dict[str, Any], Usable | None]:
        fps, wanted = self.modality.fps, self.windows.frames
        row: dict[str, Any] = {"file": recording.name, "part": self.part, "clips": 0}
        try:
            index = index_frames(recording.path, fps)
        except FlowgenError as error:
            return {**row, "status": "left out", "why": str(error)}, None
        order = resample(index.times, fps)
        n = len(order)
        row |= {"source_frames": len(index), "source_rate": round(index.rate, 3), "frames": n}
        row["clips"] = self.windows.count(n)
        if not row["clips"]:
            why = f"{n} frames at {fps:g} a second, {wanted} are needed (data.tolerance allows {self.windows.tolerance} less)"
            return {**row, "status": "left out", "why": why}, None
        if n < wanted:
            row |= {"status": "filled", "why": f"{wanted - n} frames short: the last one is shown again"}
        elif n > wanted and not self.windows.stride:
            row |= {"status": "trimmed", "why": f"{wanted} of {n} frames are seen at a time"}
        else:
            row |= {"status": "kept", "why": ""}
        return row, Usable(recording, index, order)

    def _decode(self, usable: Usable, frames: Tensor) -> Tensor:
        m = self.modality
        return decode_frames(usable.recording.path, frames.tolist(), m.height, m.width, m.channels, usable.index)


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

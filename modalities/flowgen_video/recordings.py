"""Clips from video files: which there are, how long they are, what is kept of them, and why not.

Options are read from signatures, so this module does without postponed annotations.
"""

import math
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from flowgen.core.ranges import Positive, Whole
from flowgen.data.items import Item
from flowgen.data.recordings import Facts, Recordings, Use
from flowgen.data.shards import Source
from flowgen.data.sources import Medium
from flowgen.data.windows import Windows
from flowgen.errors import FlowgenError, UsageError
from flowgen.media.clip import Clip
from flowgen_video.buckets import Bucket, assign, parse_bucket
from flowgen_video.modality import Video
from flowgen_video.reading import IMAGE_SUFFIXES, VIDEO_SUFFIXES, FrameIndex, decode_frames, examine, resample


@dataclass(eq=False, repr=False)
class VideoRecordings(Recordings):
    """What `video-folder`, `video-manifest` and `video-shards` have in common; their options are described at the first."""

    modality: Video
    stride: Whole = field(default=0, kw_only=True)
    tolerance: Whole = field(default=1, kw_only=True)
    crop: Literal["random", "start", "centre"] = field(default="random", kw_only=True)
    picture_rate: Positive | None = field(default=None, kw_only=True)
    cache: bool = field(default=False, kw_only=True)
    buckets: tuple[str, ...] = field(default=(), kw_only=True)
    medium: ClassVar[Medium] = Medium("video", VIDEO_SUFFIXES, IMAGE_SUFFIXES)

    def __post_init__(self) -> None:
        m = self.modality
        self._full = Bucket(m.frames, m.height, m.width)
        self._sizes = [parse_bucket(text) for text in dict.fromkeys(self.buckets)]
        windows = Windows(m.frames, self.stride, self.tolerance, self.crop)
        self._windows = {str(b): replace(windows, frames=b.frames) for b in [self._full, *self._sizes]}
        costs = {str(b): math.prod(b.sizes) / math.prod(self._full.sizes) for b in self._sizes}
        self.buckets = costs  # type: ignore[assignment]
        if self.picture_rate is not None and not 0 < self.picture_rate <= 1000:
            raise UsageError(f"data.picture_rate: expected frames a second in (0, 1000], got {self.picture_rate:g}")
        self._picture_rate = self.picture_rate or m.fps
        self.version = f"video-3-{self._picture_rate}-{self.picture_rate is not None}"
        self._frames: dict[str, Tensor] = {}
        super().__post_init__()
        for name, kind in self.kinds.items():
            if kind == "recording":
                raise UsageError(
                    f"data.columns.{name}: a recording is a condition of sounds; give class, number or text"
                )

    def examine(self, path: Source) -> dict[str, Any]:
        try:
            return examine(path, self._picture_rate, self.picture_rate is not None)
        except FlowgenError as error:
            return {"problem": str(error)}

    def measured(self, item: Item, facts: Facts) -> dict[str, Any]:
        if "size" not in facts:
            return {}
        index, order = self._index(item, facts)
        height, width = facts["size"]
        return {
            "source_frames": len(index),
            "rate": round(index.rate, 3),
            "seconds": round(len(order) / self.modality.fps, 3),
            "frames": len(order),
            "size": f"{height}x{width}",
            "sound": "yes" if facts["sound"] else "no",
        }

    def judge(self, item: Item, facts: Facts, bucketed: bool) -> Use:
        n, (height, width) = len(self._index(item, facts)[1]), facts["size"]
        bucket, status, why = self._assign(n, (height, width), bucketed and bool(self._sizes))
        if bucket is None:
            return Use(status, why, 0)
        many = bool(self._sizes) and bucketed
        return Use(status, why, self._windows[str(bucket)].count(n), str(bucket) if many else "")

    def decode(self, item: Item, window: int, rng: torch.Generator | None) -> Clip:
        data, first = self.decoded(item, window, rng)
        return Clip(data, self.modality.fps, self.values(item), f"{item.path} from {first:.2f} s")

    def decoded(self, item: Item, window: int, rng: torch.Generator | None) -> tuple[Tensor, float]:
        """The frames of a clip, and the second of the file in which they begin."""
        index, order = self._index(item, self.facts[item.path])
        name = self._use(item, self.bucketed).bucket or str(self._full)
        place = self._windows[name].place(len(order), window, rng)
        if self.cache:
            key = f"{item.key} {name}"
            if key not in self._frames:
                self._frames[key] = self._decode(item, order, name, index)
            data = self._frames[key][place]
        else:
            data = self._decode(item, order[place], name, index)
        return data, float(index.times[order[place[0]]])

    def uncropped(self, index: int) -> Clip | None:
        """All frames that clip `index` is drawn from."""
        which, window = self._starts[index]
        item = self.items[which]
        frames, order = self._index(item, self.facts[item.path])
        name = self._use(item, self.bucketed).bucket or str(self._full)
        drawn = self._windows[name].drawn_from(len(order), window) if self.part == "training" else None
        if drawn is None:
            return None
        data = self._decode(item, order[drawn], name, frames)
        return Clip(data, self.modality.fps, self.values(item), str(item.path))

    def sizes(self) -> dict[str, Any]:
        m = self.modality
        facts = [self.facts[item.path] for item in self.items]
        seconds = sum(self.measured(item, self.facts[item.path])["seconds"] for item in self.items)
        out: dict[str, Any] = {
            "frames": f"{m.frames} of {m.height}x{m.width} at {m.fps:g} a second ({m.frames / m.fps:g} s)",
            "seconds": round(seconds, 1),
        }
        if silent := sum(bool(f["sound"]) for f in facts):
            out["sound tracks"] = f"{silent} of {len(facts)} recordings have one, which this modality does not use"
        return out

    def _index(self, item: Item, facts: Facts) -> tuple[FrameIndex, Tensor]:
        """The frames of a file, and which of them the item is at the modality's rate."""
        times = torch.tensor(facts["times"], dtype=torch.float64)
        index = FrameIndex(times, tuple(facts["keys"]), tuple(facts["stamps"]))
        order = resample(times, self.modality.fps)
        if item.start_s or item.duration_s is not None:
            first = round(item.start_s * self.modality.fps)
            last = None if item.duration_s is None else first + round(item.duration_s * self.modality.fps)
            order = order[first:last]
        return index, order

    def _assign(self, n: int, size: tuple[int, int], bucketed: bool) -> tuple[Bucket | None, str, str]:
        """The bucket of a recording of n frames, and what becomes of it."""
        if bucketed:
            (found,) = assign([(n, *size)], self._sizes, self.tolerance)
            if found.bucket is not None and self.stride and n > found.bucket.frames:  # all of them are seen
                (found,) = assign([(found.bucket.frames, *size)], [found.bucket], self.tolerance)
            return found.bucket, found.status, found.why
        wanted, fps = self._full.frames, self.modality.fps
        if not self._windows[str(self._full)].count(n):
            why = f"too short: {n} frames at {fps:g} a second, {wanted} are needed (data.tolerance allows {self.tolerance} less)"
            return None, "left out", why
        if n < wanted:
            return self._full, "padded", f"{wanted - n} frames short: the last one is shown again"
        if n > wanted and not self.stride:
            return self._full, "cropped", f"{self.crop} {wanted} of {n} frames"
        return self._full, "kept", ""

    def _decode(self, item: Item, frames: Tensor, name: str, index: FrameIndex) -> Tensor:
        to, channels = parse_bucket(name), self.modality.channels
        return decode_frames(item.path, frames.tolist(), to.height, to.width, channels, index)

    def decode_whole(self, path: Source) -> None:
        times, keys, stamps = (self.facts[path][name] for name in ("times", "keys", "stamps"))
        index = FrameIndex(torch.tensor(times, dtype=torch.float64), tuple(keys), tuple(stamps))
        decode_frames(path, range(len(index)), 8, 8, 1, index)

"""Recordings of sound as a data set. Clips have their true length up to `modality.duration_s`; longer ones are cropped.

Options are read from signatures, so this module does without postponed annotations.
"""

import math
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import Any, ClassVar, Literal

import torch

from flowgen.core.ranges import NonNegative, Real, Whole
from flowgen.data.items import Item, most
from flowgen.data.recordings import Facts, Use
from flowgen.data.shards import Source
from flowgen.data.sources import Medium
from flowgen.data.windows import LengthGroups, spare
from flowgen.errors import UsageError
from flowgen.media.clip import Clip
from flowgen_audio import survey
from flowgen_audio.levels import gain_of, onset
from flowgen_audio.media import SUFFIXES, blocks
from flowgen_audio.modality import Audio
from flowgen_audio.references import WithReferences

DURATION = "duration"


@dataclass(eq=False, repr=False)
class AudioRecordings(WithReferences):
    """What `audio-folder`, `audio-manifest` and `audio-shards` have in common; their options are described at the first."""

    modality: Audio
    silence_db: Real = field(default=-60.0, kw_only=True)
    min_duration_s: NonNegative = field(default=0.05, kw_only=True)
    trim_db: Real | None = field(default=None, kw_only=True)
    loudness: Real | None = field(default=None, kw_only=True)
    crop: Literal["random", "start", "centre", "onset"] = field(default="random", kw_only=True)
    pad: bool = field(default=False, kw_only=True)
    duration_condition: bool = field(default=False, kw_only=True)
    buckets: Whole = field(default=0, kw_only=True)
    medium: ClassVar[Medium] = Medium("sound files", frozenset(SUFFIXES))

    def __post_init__(self) -> None:
        self._count, self.buckets = self.buckets, {}  # type: ignore[assignment]
        if self._count and self.pad:
            raise UsageError(
                "data.buckets sorts clips by length, and data.pad gives all the same; leave out one of them"
            )
        self.version = f"audio-{survey.VERSION}-{self.loudness is not None}"
        if self.trim_db is not None:
            self.version += f"-{self.trim_db:g}"
        super().__post_init__()
        _ = self.survey, self.conditions  # what is wrong is said now

    def examine(self, path: Source) -> dict[str, Any]:
        return asdict(survey.examine(path, self.loudness is not None, self.trim_db))

    def measured(self, item: Item, facts: Facts) -> dict[str, Any]:
        if not facts["rate"]:
            return {}
        seconds, peak = round(max(self._extent(item, facts)[1], 0.0), 4), round(facts["peak"], 5)
        return {"seconds": seconds, "rate": facts["rate"], "channels": facts["channels"], "peak": peak}

    def judge(self, item: Item, facts: Facts, bucketed: bool) -> Use:
        length, wanted = self._extent(item, facts)[1], self.modality.duration_s
        beyond = item.start_s + (item.duration_s or 0.0) - facts["duration_s"]
        why = ""
        if facts["peak"] <= 10 ** (self.silence_db / 20):
            why = f"silent: no sample above {self.silence_db:g} dB"
        elif item.duration_s is not None and beyond > 1e-3:
            why = f"truncated: the segment ends {beyond:.2f} s after the file"
        elif length < self.min_duration_s:
            why = f"too short: {max(length, 0):.3f} s of at least {self.min_duration_s:g} s"
        if why:
            return Use("left out", why, 0)
        bucket = self._groups.of_length(length) if bucketed and self.buckets else ""
        said, status = survey.remarks(facts, self.modality.channels, self.loudness is not None), "kept"
        if (trimmed := item.seconds_of(facts["duration_s"]) - length) > 1e-3:
            said = [f"trimmed by {trimmed:.2f} s", *said]
        if length > wanted + 1e-6:
            status, said = "cropped", [f"{self.crop} {wanted:g} s crop of {length:.2f} s", *said]
        elif self.pad and length < wanted - 1e-6:
            status, said = "padded", [f"{wanted - length:.2f} s of silence at the end", *said]
        return Use(status, ", ".join(said), 1, bucket)

    def prepare(self) -> None:
        lengths = [self._clip_s(item) for item in self.usable[0]]
        self._groups = LengthGroups.of(lengths, self._count, self.modality.duration_s)
        self.buckets = self._groups.costs  # type: ignore[assignment]
        if self.buckets:
            self.forget_uses()  # they name the bucket

    def decode(self, item: Item, window: int, rng: torch.Generator | None) -> Clip:
        facts, wanted = self.facts[item.path], self.modality.duration_s
        start_s, length_s = self._extent(item, facts)
        if length_s > wanted:
            if self.crop == "onset":
                start_s += min(onset(item.path, start_s, length_s), length_s - wanted)
            else:
                start_s += spare(length_s, wanted, self.crop, rng)
        return self._read(item, start_s, min(length_s, wanted))

    def uncropped(self, index: int) -> Clip | None:
        """The whole recording, where clip `index` is a random part of it."""
        item = self.items[self._starts[index][0]]
        start_s, length_s = self._extent(item, self.facts[item.path])
        if self.part != "training" or self.crop != "random" or length_s <= self.modality.duration_s + 1e-6:
            return None
        return self._read(item, start_s, length_s)

    def _read(self, item: Item, start_s: float, length_s: float) -> Clip:
        """A part of a file as training hears it."""
        facts = self.facts[item.path]
        clip = self.modality.read_raw(item.path, start_s, length_s)
        assert isinstance(clip.data, torch.Tensor)
        data = self.modality.limit(clip.data * gain_of(facts, self.loudness))
        if self.pad and data.shape[1] < self.modality.samples:
            data = torch.nn.functional.pad(data, (0, self.modality.samples - data.shape[1]))
        return replace(clip, data=data, conditions=self.values(item), source=str(self.excerpt(item)))

    def decode_whole(self, path: Source) -> None:
        for _ in blocks(path):
            pass

    def values(self, item: Item) -> dict[str, Any]:
        found = super().values(item)
        return {**found, DURATION: round(self._clip_s(item), 4)} if self.duration_condition else found

    @cached_property
    def conditions(self) -> dict[str, dict[str, Any]]:
        out = dict(super().conditions)
        if self.duration_condition:
            lengths = [self._clip_s(item) for part in self.survey for item in part]
            low, high = math.floor(min(lengths) * 1000) / 1000, math.ceil(max(lengths) * 1000) / 1000
            if low < high:
                out[DURATION] = {"type": "number", "low": low, "high": high, "log": True, "seconds": not self.pad}
        return out

    def sizes(self) -> dict[str, Any]:
        lengths = sorted(self._extent(item, self.facts[item.path])[1] for item in self.items) or [0.0]
        facts = [self.facts[path] for path in {item.path for item in self.items}]
        return {
            "hours": round(sum(lengths) / 3600, 3),
            "seconds each": f"{lengths[0]:.2f} to {lengths[-1]:.2f}, median {lengths[len(lengths) // 2]:.2f}",
            "sample rates": most(f["rate"] for f in facts),
            "channels": most(f["channels"] for f in facts),
            "clipped files": sum(f["peak"] >= 1 - 2**-15 for f in facts),
        }

    def _extent(self, item: Item, facts: Facts) -> tuple[float, float]:
        """Where an item begins in its file and how long it is, in seconds; without the silence around it where it is trimmed."""
        whole = item.start_s, item.seconds_of(facts["duration_s"])
        return whole if self.trim_db is None else survey.trimmed(*whole, facts["sounding"])

    def _clip_s(self, item: Item) -> float:
        """How long its clips are."""
        return min(self._extent(item, self.facts[item.path])[1], self.modality.duration_s)

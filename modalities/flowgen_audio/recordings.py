"""Recordings of sound as a data set. Clips have their true length up to `modality.duration_s`; longer ones are cropped.

Options are read from signatures, so this module does without postponed annotations.
"""

import math
from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import Any, ClassVar, Literal

import torch

from flowgen.core.random import generator
from flowgen.core.ranges import NonNegative, Real, Whole
from flowgen.data.items import Item, Kind
from flowgen.data.recordings import Facts, Recordings, Use, spare
from flowgen.data.shards import Source
from flowgen.data.sources import Medium
from flowgen.errors import UsageError, unknown
from flowgen.media.clip import Clip
from flowgen_audio import survey
from flowgen_audio.levels import gain_of, onset
from flowgen_audio.media import SUFFIXES, blocks
from flowgen_audio.modality import Audio
from flowgen_audio.reference import Excerpt

DURATION, REFERENCE = "duration", "reference"
_REFERENCE_S = 3.0  # more of a reference says little more about how it sounds


@dataclass(eq=False, repr=False)
class AudioRecordings(Recordings):
    """What `audio-folder`, `audio-manifest` and `audio-shards` have in common.

    Args:
        columns: the columns that are conditions, by type: class, number or text.
        held_out: the share of recordings that is held out for validation, chosen by name, or values of columns, as in
            {take: ["0", "1"]}: those that have one of the values in every column. 0: none.
        max_bad_share: more unusable files than this share stop the run.
        silence_db: a file in which nothing is louder is silent, and left out (decibels below full scale).
        min_duration_s: what is shorter is left out.
        loudness: bring every recording to this loudness (LUFS, such as -20).
        crop: which part of a longer recording is heard: random (held-out ones: the centre), start, centre, or onset (from
            shortly before the loudest rise).
        pad: fill clips up to modality.duration_s with silence; otherwise they have their true length.
        duration_condition: give the length in seconds as a condition, "duration".
        reference_by: a column, as in speaker: give each clip the condition "reference", another recording that has the same
            value, to learn to sound like a recording.
        buckets: batch clips with others of about their length, in so many groups of equally many clips (0: as they come).
            A batch of short clips has more of them, so that it costs what train.batch_size clips of full length cost.
    """

    modality: Audio
    silence_db: Real = field(default=-60.0, kw_only=True)
    min_duration_s: NonNegative = field(default=0.05, kw_only=True)
    loudness: Real | None = field(default=None, kw_only=True)
    crop: Literal["random", "start", "centre", "onset"] = field(default="random", kw_only=True)
    pad: bool = field(default=False, kw_only=True)
    duration_condition: bool = field(default=False, kw_only=True)
    reference_by: str | None = field(default=None, kw_only=True)
    buckets: Whole = field(default=0, kw_only=True)
    medium: ClassVar[Medium] = Medium("sound files", frozenset(SUFFIXES))

    def __post_init__(self) -> None:
        self._groups, self.buckets = self.buckets, {}  # type: ignore[assignment]
        self.version = f"audio-{survey.VERSION}-{self.loudness is not None}"
        super().__post_init__()
        if self.reference_by is not None and self.reference_by not in self.found.columns:
            raise UsageError(f"data.reference_by: {unknown('column', self.reference_by, self.found.columns)}")
        _ = self.survey, self.conditions  # what is wrong is said now

    def examine(self, path: Source) -> dict[str, Any]:
        return asdict(survey.examine(path, self.loudness is not None))

    def measured(self, item: Item, facts: Facts) -> dict[str, Any]:
        if not facts["rate"]:
            return {}
        out = {
            "seconds": round(max(self._length_s(item), 0.0), 4),
            "rate": facts["rate"],
            "channels": facts["channels"],
        }
        return {**out, "peak": round(facts["peak"], 5)}

    def judge(self, item: Item, facts: Facts, bucketed: bool) -> Use:
        length, left, wanted = self._length_s(item), facts["duration_s"] - item.start_s, self.modality.duration_s
        columns = self.measured(item, facts)
        why = ""
        if facts["peak"] <= 10 ** (self.silence_db / 20):
            why = f"silent: no sample above {self.silence_db:g} dB"
        elif length > left + 1e-3:
            why = f"truncated: the segment ends {length - left:.2f} s after the file"
        elif length < self.min_duration_s:
            why = f"too short: {max(length, 0):.3f} s of at least {self.min_duration_s:g} s"
        if why:
            return Use("left out", why, 0, columns=columns)
        bucket = self._bucket(length) if bucketed and self.buckets else ""
        said, status = survey.remarks(facts, self.modality.channels, self.loudness is not None), "kept"
        if length > wanted + 1e-6:
            status, said = "cropped", [f"{self.crop} {wanted:g} s crop of {length:.2f} s", *said]
        elif self.pad and length < wanted - 1e-6:
            status, said = "padded", [f"{wanted - length:.2f} s of silence at the end", *said]
        return Use(status, ", ".join(said), 1, bucket, columns)

    def prepare(self) -> None:
        training = self.parts[0]
        if not 0 <= self._groups <= len(training):
            raise UsageError(
                f"data.buckets: expected 0 to {len(training)} (as there are recordings), got {self._groups}"
            )
        if self._groups and self.pad:
            raise UsageError(
                "data.buckets sorts clips by length, and data.pad gives all the same; leave out one of them"
            )
        lengths = sorted(math.ceil(self._clip_s(item) * 1000) / 1000 for item in training)
        count = self._groups
        self._edges = sorted({lengths[(i + 1) * len(lengths) // count - 1] for i in range(count)})
        self.buckets = {_name(edge): min(edge / self.modality.duration_s, 1.0) for edge in self._edges}  # type: ignore[assignment]
        if self.buckets:
            self._uses.clear()  # they name the bucket

    def decode(self, item: Item, window: int, rng: torch.Generator | None) -> Clip:
        length_s, wanted, facts = self._length_s(item), self.modality.duration_s, self.facts[item.path]
        start_s = item.start_s
        if length_s > wanted:
            if self.crop == "onset":
                start_s += min(onset(item.path, start_s, length_s), length_s - wanted)
            else:
                start_s += spare(length_s, wanted, self.crop, rng)
        clip = self.modality.read_raw(item.path, start_s, min(length_s, wanted))
        assert isinstance(clip.data, torch.Tensor)
        data = self.modality.limit(clip.data * gain_of(facts, self.loudness))
        if self.pad and data.shape[1] < self.modality.samples:
            data = torch.nn.functional.pad(data, (0, self.modality.samples - data.shape[1]))
        return replace(clip, data=data, conditions=self.values(item), source=str(_excerpt(item)))

    def decode_whole(self, path: Source) -> None:
        for _ in blocks(path):
            pass

    def _clip(self, item: Item, window: int, index: int, seed: int) -> Clip:
        clip = super()._clip(item, window, index, seed)
        if self.reference_by is None:
            return clip
        return replace(clip, conditions={**clip.conditions, REFERENCE: self._reference(index, seed)})

    @cached_property
    def _alike(self) -> dict[str, dict[Any, list[int]]]:
        """By part, which recordings have each value of `reference_by`."""
        found: dict[str, dict[Any, list[int]]] = {"training": {}, "validation": {}}
        for part, items in zip(found, self.survey, strict=True):
            for index, item in enumerate(items):
                if (value := item.values.get(str(self.reference_by))) is not None:
                    found[part].setdefault(value, []).append(index)
        return found

    def _reference(self, index: int, seed: int) -> Excerpt | None:
        """Another recording of this part that has the same value; none where it has no value, or is the only one."""
        alike = self._alike[self.part].get(self.items[index].values.get(str(self.reference_by)), [])
        others = len(alike) - 1
        if others < 1:
            return None
        chosen = int(torch.randint(others, (), generator=generator(seed, "reference")))
        return _excerpt(self.items[alike[chosen] if alike[chosen] != index else alike[others]])

    def values(self, item: Item) -> dict[str, Any]:
        found = super().values(item)
        return {**found, DURATION: round(self._clip_s(item), 4)} if self.duration_condition else found

    @cached_property
    def conditions(self) -> dict[str, dict[str, Any]]:
        out = {name: self.condition(name, kind) for name, kind in self.kinds.items()}
        if self.reference_by is not None:
            out[REFERENCE] = self._reference_condition()
        if self.duration_condition:
            lengths = [self._clip_s(item) for part in self.survey for item in part]
            low, high = math.floor(min(lengths) * 1000) / 1000, math.ceil(max(lengths) * 1000) / 1000
            if low < high:
                out[DURATION] = {"type": "number", "low": low, "high": high, "log": True, "seconds": not self.pad}
        return out

    def condition(self, name: str, kind: Kind) -> dict[str, Any]:
        if kind != "recording":
            return super().condition(name, kind)
        if not any(isinstance(item.values.get(name), Excerpt) for item in self.found.items):
            raise UsageError(
                f"data.columns.{name}: only a column of an audio-manifest can be of type recording; elsewhere give "
                f"data.reference_by"
            )
        return self._reference_condition()

    def _reference_condition(self) -> dict[str, Any]:
        seconds = min(self.modality.duration_s, _REFERENCE_S)
        return {"type": "audio-reference", "sample_rate": self.modality.sample_rate, "seconds": seconds}

    def sizes(self) -> dict[str, Any]:
        lengths = sorted(self._length_s(item) for item in self.items) or [0.0]
        facts = [self.facts[path] for path in {item.path for item in self.items}]
        return {
            "hours": round(sum(lengths) / 3600, 3),
            "seconds each": f"{lengths[0]:.2f} to {lengths[-1]:.2f}, median {lengths[len(lengths) // 2]:.2f}",
            "sample rates": _most(f["rate"] for f in facts),
            "channels": _most(f["channels"] for f in facts),
            "clipped files": sum(f["peak"] >= 1 - 2**-15 for f in facts),
        }

    def _length_s(self, item: Item) -> float:
        return self.facts[item.path]["duration_s"] - item.start_s if item.duration_s is None else item.duration_s

    def _clip_s(self, item: Item) -> float:
        """How long its clips are."""
        return min(self._length_s(item), self.modality.duration_s)

    def _bucket(self, length_s: float) -> str:
        return _name(
            self._edges[min(bisect_left(self._edges, min(length_s, self.modality.duration_s)), len(self._edges) - 1)]
        )


def _excerpt(item: Item) -> Excerpt:
    return Excerpt(item.path, item.start_s, item.duration_s)


def _name(edge: float) -> str:
    return f"up to {edge:g} s"


def _most(values: Any) -> str:
    counted: Sequence[tuple[Any, int]] = Counter(values).most_common(8)
    return ", ".join(f"{value} ({count})" for value, count in counted)

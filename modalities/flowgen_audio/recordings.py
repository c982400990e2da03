"""Recordings on disk as a data set: checked once, labelled, split, read segment by segment."""

from __future__ import annotations

import hashlib
import math
import os
from bisect import bisect_left
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch

from flowgen.core.random import generator, seed_of
from flowgen.data.shards import Source, located
from flowgen.errors import BadData, UsageError
from flowgen.media.clip import Clip
from flowgen_audio.loudness import gain_to
from flowgen_audio.modality import Audio
from flowgen_audio.reference import Excerpt
from flowgen_audio.survey import Facts, survey

ConditionType = Literal["class", "number", "text", "recording"]
DURATION, REFERENCE = "duration", "reference"
_REFERENCE_S = 3.0  # more of a reference says little more about how it sounds


@dataclass(frozen=True)
class Recording:
    """A file, or a segment of one, and what is known about it."""

    path: Source
    values: Mapping[str, Any] = field(default_factory=dict)
    """Raw values by column: labels, numbers, captions, and whatever the split goes by."""
    start_s: float = 0.0
    duration_s: float | None = None

    @property
    def excerpt(self) -> Excerpt:
        return Excerpt(self.path, self.start_s, self.duration_s)

    @property
    def name(self) -> str:
        return str(self.excerpt)


@dataclass(frozen=True)
class Checks:
    """What a recording must be, and how many may fail."""

    max_bad_share: float = 0.02
    silence_db: float = -60.0
    min_duration_s: float = 0.05

    def __post_init__(self) -> None:
        if not 0 <= self.max_bad_share <= 1:
            raise UsageError(f"data.max_bad_share: expected a share from 0 to 1, got {self.max_bad_share:g}")

    def problem(self, facts: Facts, recording: Recording) -> str | None:
        """Why a recording is left out; None if it is fit for use."""
        if facts.problem:
            return facts.problem
        if facts.peak <= 10 ** (self.silence_db / 20):
            return f"silent: no sample above {self.silence_db:g} dB"
        left = facts.duration_s - recording.start_s
        length = left if recording.duration_s is None else recording.duration_s
        if length > left + 1e-3:
            return f"truncated: the segment ends {length - left:.2f} s after the file"
        if length < self.min_duration_s:
            return f"too short: {max(length, 0):.3f} s of at least {self.min_duration_s:g} s"
        return None


class Recordings:
    """A data set of recordings. Clips have their true length, up to `modality.duration_s`; longer ones are cut at random.

    The base of `audio-folder`, `audio-manifest` and `audio-shards`, which find the recordings.
    """

    buckets: dict[str, float]
    max_bad_share: float

    def __init__(
        self,
        modality: Audio,
        recordings: Sequence[Recording],
        kinds: Mapping[str, ConditionType],
        held_out: Mapping[str, Sequence[str]],
        validation_share: float,
        checks: Checks,
        *,
        loudness: float | None,
        pad: bool,
        duration_condition: bool,
        reference_by: str | None,
        buckets: int,
        where: str,
    ) -> None:
        self.modality, self.kinds, self.where = modality, dict(kinds), where
        self.loudness, self.pad, self.duration_condition = loudness, pad, duration_condition
        self.reference_by = reference_by
        self.facts = survey([r.path for r in recordings], loudness is not None)
        self.max_bad_share = checks.max_bad_share
        problems = [checks.problem(self.facts[r.path], r) for r in recordings]
        self.left_out = [(r, problem) for r, problem in zip(recordings, problems, strict=True) if problem]
        good = [r for r, problem in zip(recordings, problems, strict=True) if not problem]
        self.items, self.part = good, ""
        self.buckets = {}
        if len(self.left_out) > checks.max_bad_share * len(recordings):
            raise BadData(
                f"{where}: {len(self.left_out)} of {len(recordings)} recordings cannot be used, more than "
                f"data.max_bad_share={checks.max_bad_share:g} allows: {_report(self.left_out)}",
                self.report(),
            )
        self.held_out_parts = _split(good, held_out, validation_share, where)
        self._alike = [_alike(part, reference_by) for part in self.held_out_parts]
        self.all = good
        self.conditions = self._conditions(good)
        self.items, self.part = self.held_out_parts[0], "training"
        self._edges = self._length_buckets(buckets)
        self.buckets = {_bucket(edge): min(edge / modality.duration_s, 1.0) for edge in self._edges}

    def __len__(self) -> int:
        return len(self.items)

    def clip(self, index: int, seed: int) -> Clip:
        item = self.items[index]
        start_s, length_s = item.start_s, self._length_s(item)
        if length_s > self.modality.duration_s:
            spare = length_s - self.modality.duration_s
            start_s += spare * float(torch.rand((), generator=generator("crop", seed_of(seed))))
            length_s = self.modality.duration_s
        clip = self.modality.read(item.path, start_s, length_s)
        data = clip.data
        assert isinstance(data, torch.Tensor)
        if self.loudness is not None:
            data = data * gain_to(self.loudness, self.facts[item.path])
        if self.pad and data.shape[1] < self.modality.samples:
            data = torch.nn.functional.pad(data, (0, self.modality.samples - data.shape[1]))
        values = self._values(item)
        if self.reference_by is not None:
            values[REFERENCE] = self._reference(index, seed)
        return Clip(data, clip.rate, values, item.name)

    def _reference(self, index: int, seed: int) -> Excerpt | None:
        """Another recording of this part that has the same label; none where it has no label, or is the only one."""
        alike = self._alike[self.part == "validation"].get(self.items[index].values.get(str(self.reference_by)), [])
        others = len(alike) - 1
        if others < 1:
            return None
        chosen = int(torch.randint(others, (), generator=generator(seed, "reference")))
        return self.items[alike[chosen] if alike[chosen] != index else alike[others]].excerpt

    def validation(self) -> Recordings:
        other = object.__new__(type(self))
        other.__dict__.update(self.__dict__)
        other.items, other.part = self.held_out_parts[1], "validation"
        other.buckets, other.left_out = {}, []
        return other

    def bucket_of(self, index: int) -> str:
        return _bucket(self._edges[bisect_left(self._edges, self._clip_s(self.items[index]))])

    def _length_buckets(self, count: int) -> list[float]:
        """The longest clip of each of `count` buckets in seconds, up to a millisecond; fewer buckets where lengths agree."""
        if not 0 <= count <= len(self.items):
            raise UsageError(f"data.buckets: expected 0 to {len(self.items)} (as there are recordings), got {count}")
        if count and self.pad:
            raise UsageError(
                "data.buckets sorts clips by length, and data.pad gives all the same; leave out one of them"
            )
        lengths = sorted(math.ceil(self._clip_s(item) * 1000) / 1000 for item in self.items)
        return sorted({lengths[(i + 1) * len(lengths) // count - 1] for i in range(count)})

    def report(self) -> list[dict[str, Any]]:
        """What becomes of each recording of this part; the training part lists what is left out, too."""
        rows = []
        for index, item in enumerate(self.items):
            status, why = self._use(item)
            row = self._row(item) | {"part": self.part, "status": status, "why": why, "clips": 1}
            rows.append(row | ({"bucket": self.bucket_of(index)} if self.buckets else {}))
        return rows + [
            self._row(item) | {"part": "", "status": "left out", "why": problem, "clips": 0}
            for item, problem in self.left_out
        ]

    def _row(self, item: Recording) -> dict[str, Any]:
        facts = self.facts[item.path]
        if not facts.rate:
            return {"file": item.name, **located(item.path)}
        return {
            "file": item.name,
            **located(item.path),
            "seconds": round(max(self._length_s(item), 0.0), 4),
            "rate": facts.rate,
            "channels": facts.channels,
            "peak": round(facts.peak, 5),
        }

    def _use(self, item: Recording) -> tuple[str, str]:
        length, wanted = self._length_s(item), self.modality.duration_s
        if length > wanted + 1e-6:
            return "trimmed", f"{wanted:g} s of {length:.2f} s are heard at a time"
        if self.pad and length < wanted - 1e-6:
            return "filled", f"{wanted - length:.2f} s of silence at the end"
        return "kept", ""

    @property
    def identity(self) -> str:
        """A hash of what the clips are made of: files, lengths, levels, values, options."""
        content = [(item.name, self.facts[item.path], self._values(item)) for item in self.items]
        options = (self.modality, self.loudness, self.pad)
        return hashlib.sha256(repr((content, options)).encode()).hexdigest()[:16]

    def describe(self) -> dict[str, Any]:
        lengths = sorted(self._length_s(item) for item in self.items)
        facts = [self.facts[path] for path in {item.path for item in self.items}]
        out: dict[str, Any] = {
            "clips": len(self),
            "hours": round(sum(lengths) / 3600, 3),
            "seconds each": f"{lengths[0]:.2f} to {lengths[-1]:.2f}, median {lengths[len(lengths) // 2]:.2f}"
            if lengths
            else "",
            "sample rates": _counts(f.rate for f in facts),
            "channels": _counts(f.channels for f in facts),
            "clipped files": sum(f.peak >= 1 - 2**-15 for f in facts),
        }
        if self.duration_s_cut:
            out["cut to duration_s"] = self.duration_s_cut
        for name, kind in self.kinds.items():
            if kind == "class":
                out[f"clips by {name}"] = _counts(item.values.get(name) for item in self.items)
        if self.buckets:
            out["buckets"] = ", ".join(self.buckets)
        out["held out"] = len(self.held_out_parts[1])
        out["left out"] = _report(self.left_out) if self.left_out else "none"
        return out

    @property
    def duration_s_cut(self) -> int:
        """How many recordings are longer than a clip may be."""
        return sum(self._length_s(item) > self.modality.duration_s + 1e-6 for item in self.items)

    def _length_s(self, item: Recording) -> float:
        return self.facts[item.path].duration_s - item.start_s if item.duration_s is None else item.duration_s

    def _clip_s(self, item: Recording) -> float:
        """How long its clips are."""
        return min(self._length_s(item), self.modality.duration_s)

    def _values(self, item: Recording) -> dict[str, Any]:
        values = {name: item.values.get(name) for name in self.kinds}
        if self.duration_condition:
            values[DURATION] = round(self._clip_s(item), 4)
        return values

    def _conditions(self, items: Sequence[Recording]) -> dict[str, dict[str, Any]]:
        out: dict[str, dict[str, Any]] = {}
        for name, kind in self.kinds.items():
            values = [item.values[name] for item in items if item.values.get(name) is not None]
            if not values:
                raise UsageError(f"{self.where}: no recording has a value for the condition {name!r}")
            if kind == "class":
                out[name] = {"type": "class", "names": tuple(sorted({str(v) for v in values}))}
            elif kind == "recording":
                if not all(isinstance(value, Excerpt) for value in values):
                    raise UsageError(
                        f"data.conditions.{name}: only a column of an audio-manifest can be of type recording; "
                        f"elsewhere give data.reference_by"
                    )
                out[name] = self._reference_condition()
            elif kind == "number":
                numbers = [_number(v, name, self.where) for v in values]
                if min(numbers) == max(numbers):
                    raise UsageError(f"{self.where}: the number {name!r} is {numbers[0]:g} everywhere; leave it out")
                out[name] = {"type": "number", "low": min(numbers), "high": max(numbers)}
            else:
                out[name] = {"type": "text", "max_bytes": max(len(str(v).encode()) for v in values)}
        if self.reference_by is not None:
            out[REFERENCE] = self._reference_condition()
        if self.duration_condition:
            lengths = [self._clip_s(item) for item in items]
            low, high = math.floor(min(lengths) * 1000) / 1000, math.ceil(max(lengths) * 1000) / 1000
            if low < high:
                out[DURATION] = {"type": "number", "low": low, "high": high, "log": True, "seconds": not self.pad}
        return out

    def _reference_condition(self) -> dict[str, Any]:
        seconds = min(self.modality.duration_s, _REFERENCE_S)
        return {"type": "audio-reference", "sample_rate": self.modality.sample_rate, "seconds": seconds}


def _alike(items: Sequence[Recording], label: str | None) -> dict[Any, list[int]]:
    """Which recordings have each value of a label."""
    found: dict[Any, list[int]] = {}
    for index, item in enumerate(items):
        value = item.values.get(label) if label is not None else None
        if value is not None:
            found.setdefault(value, []).append(index)
    return found


def _split(
    items: Sequence[Recording], held_out: Mapping[str, Sequence[str]], share: float, where: str
) -> tuple[list[Recording], list[Recording]]:
    """Training and validation: by values of columns, or a share chosen by a hash of the name below the data's folder, which
    stays the same as files come and go and the folder moves."""
    if not 0 <= share < 1:
        raise UsageError(f"data.validation_share: expected 0 to below 1, got {share:g}")
    for name, values in held_out.items():
        known = {str(item.values[name]) for item in items if name in item.values}
        if missing := sorted({str(v) for v in values} - known):
            raise UsageError(f"data.held_out.{name}: {where} has no recording with {', '.join(missing)}")

    root = where if os.path.isdir(where) else os.path.dirname(where)  # a manifest's paths are relative to its folder

    def out(item: Recording) -> bool:
        if held_out:
            return any(str(item.values.get(name)) in {str(v) for v in values} for name, values in held_out.items())
        return seed_of("held out", item.name.removeprefix(root).lstrip("/")) % 10_000 < 10_000 * share

    training = [item for item in items if not out(item)]
    if not training:
        raise UsageError(f"{where}: no recording is left for training; hold out less, or check what was found")
    return training, [item for item in items if out(item)]


def _number(value: Any, name: str, where: str) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise UsageError(f"{where}: expected numbers in {name!r}, found {value!r}")
    return number


def _counts(values: Any) -> str:
    counted = Counter(str(v) for v in values).most_common()
    shown = ", ".join(f"{name} ({count})" for name, count in sorted(counted[:30]))
    return shown + (f" and {len(counted) - 30} more" if len(counted) > 30 else "")


def _bucket(edge: float) -> str:
    return f"up to {edge:g} s"


def _report(left_out: Sequence[tuple[Recording, str]]) -> str:
    """How many for what reason, each file named (the first twenty)."""
    kinds = Counter(problem.split(":")[0] for _, problem in left_out)
    total = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))
    named = "; ".join(f"{item.name} ({problem})" for item, problem in left_out[:20])
    return f"{total}: {named}" + (f"; and {len(left_out) - 20} more" if len(left_out) > 20 else "")

"""What is in sound files: every file is decoded once, and what was found is remembered until the file changes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from flowgen.data.shards import Source
from flowgen.errors import FlowgenError
from flowgen_audio.media import blocks, header_frames

VERSION = 3
_PART_S = 60.0
_HOP_S, _AROUND_S = 0.01, 0.02
MOST_CHANNELS = 8


@dataclass(frozen=True)
class Facts:
    """A file's length, rate, channels and level, or why it cannot be used. Loudness in LUFS, 0 where not measured."""

    duration_s: float = 0.0
    rate: int = 0
    channels: int = 0
    peak: float = 0.0
    loudness: float = 0.0
    mono: float = 1.0
    """Power of the mean of left and right relative to theirs: 1 where they are the same, 0 where they cancel."""
    sounding: list[list[float]] | None = None
    """From when to when something is louder than a limit, in seconds; only where that was asked for."""
    problem: str = ""


def examine(path: Source, measure_loudness: bool = False, sounding_db: float | None = None) -> Facts:
    """Decode a file and look at it. What is wrong with it is in `problem`, as "kind: detail". Lengths are of what is decoded.

    A minute at a time, so that an hour costs no more memory; loudness is then the mean power of the minutes' loudness.
    """
    meter = Meter(measure_loudness, sounding_db)
    try:
        for block, rate in blocks(path):
            meter.add(block, rate)
        if not meter.frames:
            return Facts(problem="corrupt: no sound in it")
        promised = header_frames(path)
    except FlowgenError as error:
        text = str(error).removeprefix(f"{path}: ")
        return Facts(problem="empty: the file is empty" if "empty" in text else f"corrupt: {text}")
    facts = meter.facts()
    if facts.channels > MOST_CHANNELS:
        return replace(
            facts, problem=f"channels: {facts.channels}, of which no more than {MOST_CHANNELS} are understood"
        )
    # lossy formats round their length to frames and drop priming samples
    if promised is not None and meter.frames < promised - 0.1 * facts.rate:
        announced = promised / facts.rate
        return replace(facts, problem=f"truncated: {facts.duration_s:.2f} s of the {announced:.2f} s it announces")
    return facts


class Meter:
    """What is measured block by block."""

    def __init__(self, loudness: bool, sounding_db: float | None) -> None:
        self.sounding = None if sounding_db is None else Sounding(sounding_db)
        self.loudness, self.frames, self.rate, self.channels = loudness, 0, 0, 0
        self.peak, self.middle, self.sides = 0.0, 0.0, 0.0
        self.levels: list[float] = []
        self._minute: list[np.ndarray] = []

    def add(self, block: np.ndarray, rate: int) -> None:
        if self.sounding is not None:
            self.sounding.add(block, rate)
        self.frames += block.shape[1]
        self.rate, self.channels = rate, len(block)
        self.peak = max(self.peak, float(np.abs(block).max()))
        if self.channels == 2:
            self.middle += float(np.square(block.mean(0), dtype=np.float64).sum())
            self.sides += float(np.square(block, dtype=np.float64).sum()) / 2
        if self.loudness:
            self._minute.append(block)
            if sum(part.shape[1] for part in self._minute) >= _PART_S * rate:
                self._level()

    def _level(self) -> None:
        from flowgen_audio.loudness import loudness

        if self._minute:
            samples = torch.from_numpy(np.ascontiguousarray(np.concatenate(self._minute, 1)))
            if (
                samples.shape[1] >= 0.1 * self.rate or not self.levels
            ):  # the last few milliseconds of an hour say nothing
                self.levels.append(10 ** (loudness(samples, self.rate) / 10))
        self._minute = []

    def facts(self) -> Facts:
        self._level()
        level = 10 * math.log10(sum(self.levels) / len(self.levels)) if self.levels else 0.0
        mono = self.middle / self.sides if self.sides > 0 else 1.0
        seconds = self.frames / self.rate
        sounding = [[start, end] for start, end in self.sounding.intervals(seconds)] if self.sounding else None
        return Facts(seconds, self.rate, self.channels, self.peak, level, mono, sounding)


class Sounding:
    """When something is louder than `limit_db` (below full scale), over hops of 10 ms; pauses below `pause_s` count as sound."""

    def __init__(self, limit_db: float, pause_s: float = 0.2) -> None:
        self.limit, self.pause_s = 10 ** (limit_db / 20), pause_s
        self._loud: list[np.ndarray] = []
        self._rest = np.zeros(0, np.float32)
        self._hop = 0

    def add(self, block: np.ndarray, rate: int) -> None:
        """The next samples [channels, n]."""
        self._hop = max(1, round(_HOP_S * rate))
        self._rate = rate
        peaks = np.concatenate([self._rest, np.abs(block).max(0)])
        whole = len(peaks) // self._hop * self._hop
        self._loud.append(peaks[:whole].reshape(-1, self._hop).max(1) > self.limit)
        self._rest = peaks[whole:]

    def intervals(self, seconds: float) -> Iterator[tuple[float, float]]:
        """(from, to) of each stretch of sound, with 20 ms around it; call it once, after the last block."""
        if len(self._rest):
            self._loud.append(np.array([self._rest.max() > self.limit]))
        loud = np.concatenate([np.zeros(1, bool), *self._loud, np.zeros(1, bool)]).astype(np.int8)
        edges = np.flatnonzero(np.diff(loud)) * (self._hop / self._rate if self._hop else 1.0)
        merged: list[tuple[float, float]] = []
        for start, end in edges.reshape(-1, 2).tolist():
            start, end = max(0.0, start - _AROUND_S), min(seconds, end + _AROUND_S)
            if merged and start - merged[-1][1] < self.pause_s:
                merged[-1] = merged[-1][0], end
            else:
                merged.append((start, end))
        yield from merged


def trimmed(start_s: float, length_s: float, sounding: Sequence[Sequence[float]]) -> tuple[float, float]:
    """Start and length of a segment without the silence before its first and after its last sound; length 0: all is silent."""
    end_s = start_s + length_s
    inside = [(max(a, start_s), min(b, end_s)) for a, b in sounding if b > start_s and a < end_s]
    return (inside[0][0], inside[-1][1] - inside[0][0]) if inside else (start_s, 0.0)


def scale_of(peak: float) -> float:
    """The factor that brings floats to [-1, 1] that were written in the range of integers of 16, 24 or 32 bits."""
    return next((2.0**-bits for bits in (15, 23, 31) if 64 < peak <= 2.0**bits * 1.01), 1.0)


def remarks(facts: Mapping[str, Any], channels: int, leveled: bool) -> list[str]:
    """What a person should know of a file that is used."""
    out: Sequence[tuple[bool, str]] = (
        (scale_of(facts["peak"]) != 1.0, "floats in the range of integers: scaled"),
        (
            1 < facts["peak"] <= 64 and not leveled,
            f"{20 * math.log10(max(facts['peak'], 1e-9)):.1f} dB beyond full scale: turned down",
        ),
        (channels == 1 and facts["mono"] < 0.05, "left and right cancel each other in mono"),
    )
    return [text for holds, text in out if holds]

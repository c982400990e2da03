"""What is in sound files: every file is decoded once, and what was found is remembered until the file changes."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace

from flowgen.data.facts import cached
from flowgen.data.shards import Source
from flowgen.errors import FlowgenError
from flowgen_audio.media import header_frames, read_samples

_VERSION = 1
_PART_S = 60.0


@dataclass(frozen=True)
class Facts:
    """A file's length, rate, channels and level, or why it cannot be used. Loudness in LUFS, 0 where not measured."""

    duration_s: float = 0.0
    rate: int = 0
    channels: int = 0
    peak: float = 0.0
    loudness: float = 0.0
    problem: str = ""


def examine(path: Source, measure_loudness: bool = False) -> Facts:
    """Decode a file and look at it. What is wrong with it is in `problem`, as "kind: detail".

    A minute at a time, so that an hour costs no more memory; loudness is then the mean power of the minutes' loudness.
    """
    from flowgen_audio.loudness import loudness

    frames, rate, peak, levels = 0, 1, 0.0, []
    try:
        while True:
            samples, rate = read_samples(path, frames / rate, _PART_S)
            frames += samples.shape[1]
            peak = max(peak, float(samples.abs().max()))
            if measure_loudness:
                levels.append(10 ** (loudness(samples, rate) / 10))
            if samples.shape[1] < (_PART_S - 0.1) * rate:
                break
        promised = header_frames(path)
    except FlowgenError as error:
        text = str(error).removeprefix(f"{path}: ")
        if not (frames and text.startswith("no sound at")):  # it ends on a full minute
            return Facts(problem="empty: the file is empty" if "empty" in text else f"corrupt: {text}")
        promised = header_frames(path)
    level = 10 * math.log10(sum(levels) / len(levels)) if levels else 0.0
    facts = Facts(frames / rate, rate, len(samples), peak, level)
    # lossy formats round their length to frames and drop priming samples
    if promised is not None and frames < promised - 0.1 * rate:
        return replace(
            facts, problem=f"truncated: {facts.duration_s:.2f} s of the {promised / rate:.2f} s it announces"
        )
    return facts


def survey(paths: Iterable[Source], measure_loudness: bool = False) -> dict[Source, Facts]:
    """Facts of files, by path. Those of files that have not changed since come from a cache in the user's cache folder."""
    kind = f"audio-{_VERSION}-{measure_loudness}"
    found = cached(kind, paths, lambda path: asdict(examine(path, measure_loudness)), min(4, os.cpu_count() or 1))
    return {path: Facts(**facts) for path, facts in found.items()}

"""Clips of which a part is real: the beginning is given, or a stream, and the rest is made."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from flowgen.errors import UsageError
from flowgen.media.clip import Clip
from flowgen.media.interfaces import ComparesContinuations, SeveralStreams, TimedModality
from flowgen.runs.generator import Generator
from flowgen.runs.given import Given
from flowgen.runs.requests import FromStream


def continuations(
    generator: Generator,
    clips: Sequence[Clip],
    seconds: float,
    conditions: Sequence[Mapping[str, Any]],
    *,
    seed: int,
    on_step: Callable[[int, int], None] | None = None,
) -> list[Clip]:
    """Each clip's first `seconds` as they are, and what the generator makes of the rest, each as long as its clip.

    Raises UsageError: the medium has no parts in time, or a clip is no longer than what is to be given.
    """
    modality = generator.modality
    if not isinstance(modality, TimedModality):
        raise UsageError(f"the modality {generator.config.modality.type!r} has no parts in time to give")
    lengths = [modality.seconds(clip) for clip in clips]
    if not 0 < seconds < min(lengths):
        raise UsageError(f"to be continued, clips of {min(lengths):.3g} s give less than that, got {seconds:g} s")
    variable = len(set(lengths)) > 1
    begun = [modality.cut(clip, 0, seconds) for clip in clips]
    made = generator.sample(
        conditions, seed=seed, given=[Given(begun)], seconds=lengths if variable else None, on_step=on_step
    )
    return [
        modality.join([start, modality.cut(clip, seconds, length)])
        for start, clip, length in zip(begun, made, lengths, strict=True)
    ]


def from_streams(
    generator: Generator,
    clips: Sequence[Clip],
    given: Sequence[str],
    conditions: Sequence[Mapping[str, Any]],
    *,
    seed: int,
    on_step: Callable[[int, int], None] | None = None,
) -> list[Clip]:
    """The `given` streams of each clip as they are, with what the generator makes to them.

    Raises UsageError: the medium has no such stream or no other, or a clip lacks it.
    """
    modality = generator.modality
    if not isinstance(modality, SeveralStreams):
        raise UsageError(f"the modality {generator.config.modality.type!r} has one stream, so that none can be given")
    if strangers := [name for name in given if name not in modality.streams]:
        raise UsageError(f"there is no stream {strangers[0]!r} to give; there are {', '.join(modality.streams)}")
    parts: dict[str, list[Clip]] = {name: [] for name in given}
    for name, own in parts.items():
        for clip in clips:
            stream = modality.stream_of(clip, name)
            if stream is None:
                raise UsageError(f"{clip.source} has no {name} to give; measure clips that have it")
            own.append(modality.combined({name: stream}))
    return list(generator.sample(FromStream(parts, conditions=conditions, seed=seed), on_step=on_step))


def compare(generator: Generator, made: Sequence[Clip], truth: Sequence[Clip], seconds: float) -> dict[str, float]:
    """Figures of the medium's own on how the continuations agree with what followed; none where it has no such measure."""
    modality = generator.modality
    return modality.compare_continuations(made, truth, seconds) if isinstance(modality, ComparesContinuations) else {}

"""The ways of sampling: what each makes of its request."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from flowgen.core.editing import between
from flowgen.core.rows import Rows
from flowgen.core.tree import State, leaves, tree_map
from flowgen.errors import FlowgenError, UsageError, unknown
from flowgen.media.clip import Clip
from flowgen.media.conditions import asked_lengths, encode_conditions, told_lengths
from flowgen.media.encoder import Latents
from flowgen.media.interfaces import SeveralStreams, TimedModality
from flowgen.media.streams import StreamSpec
from flowgen.runs.given import Given, source_clips
from flowgen.runs.requests import (
    Animate,
    Continue,
    FromClips,
    FromNoise,
    FromStream,
    Inpaint,
    Interpolate,
    Long,
    Media,
    SampleRequest,
    Vary,
)
from flowgen.runs.sampling import Around, Watch, asked_conditions, chain, described, parts, settings_of, solve_rows
from flowgen.runs.windows import Windows

if TYPE_CHECKING:
    from flowgen.runs.generator import Generator


def make(generator: Generator, request: SampleRequest, watch: Watch) -> list[Clip]:
    """The clips that a request asks for. Raises UsageError and FlowgenError, see `Generator.sample`."""
    _refuse(generator, request, watch)
    match request:
        case FromNoise():
            return _from_noise(generator, request, watch)
        case Animate():
            return _animate(generator, request, watch)
        case Continue():
            return _continue(generator, request, watch)
        case Long():
            return _long(generator, request, watch)
        case Inpaint():
            return _inpaint(generator, request, watch)
        case FromStream():
            return _from_stream(generator, request, watch)
        case Vary():
            return _vary(generator, request, watch)
        case Interpolate():
            return _interpolate(generator, request, watch)
        case FromClips():
            return _from_clips(generator, request, watch)
    raise TypeError(f"no way of sampling for {type(request).__name__}")


def _refuse(generator: Generator, request: SampleRequest, watch: Watch) -> None:
    """What a request holds and this run could only ignore. UsageError."""
    if generator.pairs == "clips" and not isinstance(request, FromClips):
        raise UsageError(
            f"this run is a bridge from clips to clips, and {request.way} wants one that starts from noise; ask for FromClips "
            f"(--source FILE, or held-out clips of its source)"
        )
    if isinstance(request, FromClips) and generator.pairs != "clips":
        raise UsageError("this run starts from noise and not from clips; --vary FILE makes variations of a clip")
    if request.negative and not any(g.options.get("scale") != 1 for g in chain(settings_of(generator, request))):
        raise UsageError(
            "a negative condition says what guidance leads away from, and this sample has no guidance: "
            "set one (--guidance SCALE, or sample.guidance), or leave it out"
        )
    if isinstance(request, Interpolate) and settings_of(generator, request).path is not None:
        raise UsageError("an interpolation inverts clips on the path trained on; leave out sample.path")
    if isinstance(request, Inpaint) and request.method is not None and generator.config.known:
        raise UsageError(
            "this run was trained with known regions, which inpaint better than any method; leave out --method"
        )
    if watch.on_state is not None and isinstance(request, (Vary, Interpolate, Continue, Long)):
        raise UsageError(
            f"the way from noise to data cannot be shown for {request.way}: ask for it with a plain sample"
        )
    in_time = isinstance(request, (Animate, Continue, Long)) or (isinstance(request, Inpaint) and request.mask is None)
    if in_time and not isinstance(generator.modality, TimedModality):
        raise UsageError(f"the modality {generator.config.modality.type!r} has no parts in time to give")


# The ways


def _from_noise(generator: Generator, request: FromNoise, watch: Watch) -> list[Clip]:
    rows = request.chosen
    asked: Sequence[Mapping[str, Any]] = asked_conditions(request)
    seconds: Any = request.seconds
    if isinstance(seconds, Sequence):
        if len(seconds) != len(request.conditions):
            raise UsageError(f"give one length, or one for each of {len(request.conditions)} clips; got {len(seconds)}")
        seconds = seconds[rows.start : rows.stop]
    lengths: Sequence[float | None] | None = None
    if seconds is not None:
        asked = told_lengths(generator.conditioners, asked, seconds)
        lengths = seconds if isinstance(seconds, Sequence) else [seconds] * len(rows)
    elif not request.given and generator.lengths.timed:
        lengths = asked_lengths(generator.conditioners, asked)
    return solve_rows(
        generator, request, asked, watch, Around(given=request.given, completion=request.completion), lengths
    )


def _animate(generator: Generator, request: Animate, watch: Watch) -> list[Clip]:
    lengths = generator.lengths
    given = []
    if request.first is not None:
        given.append(Given([lengths.beginning_within(read(generator, request.first))], 0.0))
    if request.last is not None:
        last = read(generator, request.last)
        if request.seconds is not None:  # what is cut off after sampling lies behind it
            beyond = _quietly(lengths.at_least, request.seconds)[0] - request.seconds
            last = lengths.held(last, generator.modality.seconds(last) + beyond)  # type: ignore[attr-defined]
        given.append(Given([lengths.end_within(last, float("inf"))], None))
    return _from_noise(generator, _plain(request, seconds=request.seconds, given=given), watch)


def _continue(generator: Generator, request: Continue, watch: Watch) -> list[Clip]:
    clip = _read_whole(generator, request.clip, request.way)
    return _joined(generator, [clip] * len(request.chosen), _continued(generator, request, clip, watch), request)


def _continued(generator: Generator, request: Continue, clip: Clip, watch: Watch) -> Iterator[list[Clip]]:
    """The parts that follow a clip."""
    windows = Windows.after(generator, clip)
    seconds = windows.new_s if request.seconds is None else request.seconds
    _check_held(generator, clip, seconds, len(request.chosen))
    before = [clip] * len(request.chosen)
    return _following(generator, request, windows, before, seconds, request.seed, watch, 0)


def _long(generator: Generator, request: Long, watch: Watch) -> list[Clip]:
    (first, *rest) = parts_of(generator, request, watch)
    return _joined(generator, first, iter(rest), request)


def parts_of(generator: Generator, request: Long | Continue, watch: Watch) -> Iterator[list[Clip]]:
    """The parts of the clips of a request, one after the other, each as soon as it is made. Errors as of `make`."""
    _refuse(generator, request, watch)
    if isinstance(request, Continue):
        clip = _read_whole(generator, request.clip, request.way)
        yield [clip] * len(request.chosen)
        yield from _continued(generator, request, clip, watch)
        return
    modality, window = generator.modality, generator.lengths.window_s
    assert isinstance(modality, TimedModality)
    if request.seconds <= window:
        yield _from_noise(generator, _plain(request, seconds=request.seconds), watch)
        return
    turns = 1 + math.ceil(
        (request.seconds - window) / (window / 2)
    )  # about: what a window adds is known after the first
    if asked_lengths(generator.conditioners, asked_conditions(request)) is not None:
        raise UsageError("a long clip is made window by window; leave out the condition that asks for another length")
    first = _from_noise(generator, _plain(request), watch.part(0, turns))
    yield first
    windows, left = Windows.after(generator, first[0]), request.seconds - modality.seconds(first[0])
    yield from _following(generator, request, windows, first, left, request.seed + 1, watch, 1)


def _following(
    generator: Generator,
    request: Long | Continue,
    windows: Windows,
    before: Sequence[Clip],
    seconds: float,
    seed: int,
    watch: Watch,
    done: int,
) -> Iterator[list[Clip]]:
    """What follows clips, window by window. done: windows that were made before."""
    turns = done + windows.count(seconds)

    def one(ends: Sequence[Clip], seed: int, turn: int) -> list[Clip]:
        asked = _plain(request, seed=seed, given=[Given(_among_all(ends, request.chosen))])
        return _from_noise(generator, asked, watch.part(min(done + turn, turns - 1), turns))

    return windows.follow(generator.modality, before, seconds, seed, one)


def _joined(
    generator: Generator, first: Sequence[Clip], parts: Iterator[list[Clip]], request: SampleRequest
) -> list[Clip]:
    modality: Any = generator.modality
    whole = [modality.join(clips) for clips in zip(first, *parts, strict=True)]
    return described(whole, asked_conditions(request))


def _check_held(generator: Generator, clip: Clip, seconds: float, n: int) -> None:
    """UsageError: clips that go on for so long need more memory than there is."""
    modality: Any = generator.modality
    size = sum(leaf.numel() * leaf.element_size() for leaf in leaves(clip.data)) / modality.seconds(clip)
    generator.lengths.check_memory(seconds, int(2 * size * min(seconds, 1e12)) * n)


def _inpaint(generator: Generator, request: Inpaint, watch: Watch) -> list[Clip]:
    clip = _read_whole(generator, request.clip, request.way)
    if request.mask is not None:
        return _inpaint_mask(generator, request, clip, read(generator, request.mask), watch)
    modality: Any = generator.modality
    lengths, length = generator.lengths, modality.seconds(clip)
    start, end = request.start_s or 0.0, length if request.end_s is None else request.end_s
    if not 0 <= start < end <= length + 1e-6 or (start == 0 and end >= length):
        raise UsageError(
            f"--inpaint takes a time range inside the {length:.2f} s of {clip.source}, got --from {start:g} --to {end:g}"
        )
    before = modality.cut(clip, 0, start) if start else None
    after = modality.cut(clip, end, length) if end < length else None
    given = [Given([lengths.beginning_within(before)], 0.0)] if before else []
    if after:
        padded, _ = _quietly(lengths.padded, clip)
        tail = modality.cut(padded, end, modality.seconds(padded))
        given.append(Given([lengths.end_within(tail, float("inf"))], None))
    clips = _from_noise(generator, _plain(request, seconds=length, given=given, completion=request.completion), watch)
    pieces = [[p for p in (before, modality.cut(c, start, end), after) if p is not None] for c in clips]
    return described([modality.join(p) for p in pieces], asked_conditions(request))


def _inpaint_mask(generator: Generator, request: Inpaint, clip: Clip, mask: Clip, watch: Watch) -> list[Clip]:
    lengths, modality = generator.lengths, generator.modality
    if not isinstance(modality, TimedModality) or not lengths.timed:
        return _from_noise(
            generator, _plain(request, given=[Given([clip], 0.0, mask)], completion=request.completion), watch
        )
    seconds = modality.seconds(clip)
    padded, _ = _quietly(lengths.padded, clip)
    moving = modality.seconds(mask) == seconds  # a picture holds for all of the clip
    hole = lengths.held(mask, modality.seconds(padded)) if moving else mask
    return _from_noise(
        generator,
        _plain(request, seconds=seconds, given=[Given([padded], 0.0, hole)], completion=request.completion),
        watch,
    )


def _from_stream(generator: Generator, request: FromStream, watch: Watch) -> list[Clip]:
    spec, modality, rows = generator.encoder.spec, generator.modality, request.chosen
    if isinstance(spec, StreamSpec):
        raise UsageError("this run has one stream; there is none to generate others from")
    for name in request.given:
        if name not in spec:
            raise UsageError(unknown("stream", name, spec))
    if not spec.keys() - request.given.keys():
        raise UsageError(f"all streams are given ({', '.join(spec)}), and none is left to generate")
    found: dict[str, list[Clip]] = {}
    for name in request.given:
        media = request.clips(name)
        media = media if len(media) == 1 else [media[i] for i in rows]
        found[name] = [_read_stream(generator, clip, name) for clip in media]
    given, seconds = [], None
    if isinstance(modality, TimedModality):
        lengths = {round(modality.seconds(clip), 3) for clips in found.values() for clip in clips}
        if len(lengths) > 1:
            raise UsageError(
                f"given streams, in one call, are of one length, and these are of {', '.join(f'{s:g}' for s in sorted(lengths))} s; "
                f"cut the longer ones"
            )
        seconds = lengths.pop() if generator.lengths.timed else None
    for name, clips in found.items():
        padded = [_quietly(generator.lengths.padded, clip)[0] for clip in clips]
        given.append(Given(_among_all(padded, rows), streams=(name,)))
    wanted = None if seconds is None else [seconds] * len(rows)
    clips = solve_rows(generator, request, asked_conditions(request), watch, Around(given=given), wanted)
    if not isinstance(modality, SeveralStreams):
        return clips
    for name, own in found.items():  # as it was given, not as the encoder has it
        originals = own if len(own) == len(clips) else own * len(clips)
        clips = [_with_stream(modality, clip, name, spec, o) for clip, o in zip(clips, originals, strict=True)]
    return described(clips, asked_conditions(request))


def _read_stream(generator: Generator, media: Media, name: str) -> Clip:
    """A clip with a stream, from a file of the whole medium or of that stream's. UsageError: it lacks the stream."""
    modality = generator.modality
    if not isinstance(modality, SeveralStreams):
        return read(generator, media)
    alone_in = modality.streams[name]
    if (
        not isinstance(media, Clip)
        and Path(media).suffix.lower() in alone_in.formats.keys() - generator.modality.formats
    ):
        alone = alone_in.read(existing(media))
        return replace(modality.combined({name: alone}), source=alone.source or str(media))
    clip = read(generator, media)
    if modality.stream_of(clip, name) is None:
        raise UsageError(f"{clip.source or 'the given clip'} has no {name}; give a clip that has, or leave {name} out")
    return clip


def _read_whole(generator: Generator, media: Media, way: str) -> Clip:
    """A clip with all streams of this run. UsageError: it lacks one."""
    clip, spec, modality = read(generator, media), generator.encoder.spec, generator.modality
    if isinstance(modality, SeveralStreams) and not isinstance(spec, StreamSpec):
        for name in spec:
            if modality.stream_of(clip, name) is None:
                there = ", ".join(own for own in spec if modality.stream_of(clip, own) is not None)
                raise UsageError(
                    f"{clip.source or 'the clip'} has no {name}, and {way} takes clips with all streams; "
                    f"generate what is missing first, from the {there} (--given)"
                )
    return clip


def _with_stream(modality: SeveralStreams, clip: Clip, name: str, streams: Iterable[str], original: Clip) -> Clip:
    found = {s: modality.stream_of(original if s == name else clip, s) for s in streams}
    return modality.combined({s: part for s, part in found.items() if part is not None})


def _vary(generator: Generator, request: Vary, watch: Watch) -> list[Clip]:
    clip, seconds = generator.lengths.padded(_read_whole(generator, request.clip, request.way))
    around = Around(varied=clip, from_t=1 - request.strength)
    return solve_rows(generator, request, asked_conditions(request), watch, around, cut_to=seconds or None)


def _interpolate(generator: Generator, request: Interpolate, watch: Watch) -> list[Clip]:
    modality, n = generator.modality, len(request.conditions)
    ends = [_read_whole(generator, clip, request.way) for clip in (request.a, request.b)]
    if isinstance(modality, TimedModality):
        a_s, b_s = (modality.seconds(clip) for clip in ends)
        if abs(a_s - b_s) > 1e-3:
            raise UsageError(
                f"an interpolation wants two clips of one length: {ends[0].source or 'a'} is {a_s:.2f} s and "
                f"{ends[1].source or 'b'} {b_s:.2f} s; cut the longer one"
            )
    (a, seconds), (b, _) = generator.lengths.padded(ends[0]), _quietly(generator.lengths.padded, ends[1])
    settings = settings_of(generator, request)
    shares = torch.linspace(0, 1, n) if n > 1 else torch.tensor([0.5])
    clips: list[Clip] = []
    for part in parts(request.chosen, settings.batch_size):
        asked = [request.conditions[i] for i in part]
        cond = generator.on_device(encode_conditions(generator.conditioners, asked))
        x, y = (_repeated(generator.encoder.encode([clip]).x, len(part)) for clip in (a, b))
        with generator.refusals():
            grid = generator.grid(settings, x)
            flow, solver = generator.flow(x), generator.solver(settings)
            one = tree_map(lambda v: tuple(v.shape[1:]), x)
            noise = _repeated(Rows(0, range(1), [one], generator.device).noise("invert"), len(part))
            x = between(flow, x, y, shares[part.start : part.stop], grid, solver=solver, cond=cond, noise=noise)
        clips += described(generator.encoder.decode(Latents(x)), asked)
        if watch.on_step is not None:
            watch.on_step(len(clips), len(request.chosen))
    return [generator.lengths.cut_back(clip, seconds or None) for clip in clips]


def _from_clips(generator: Generator, request: FromClips, watch: Watch) -> list[Clip]:
    rows = request.chosen
    asked = asked_conditions(request)
    if not request.sources:
        return solve_rows(generator, request, asked, watch, Around(sources=_held_out_sources(generator, request)))
    given = request.sources if len(request.sources) == 1 else [request.sources[i] for i in rows]
    padded = [_quietly(generator.lengths.padded, _read_whole(generator, clip, request.way)) for clip in given]
    if len(found := {seconds for _, seconds in padded}) > 1:
        raise UsageError(
            f"clips to start from, in one call, are of one length, and these are of {', '.join(f'{s:g}' for s in sorted(found))} s; "
            f"give those of each length by themselves"
        )
    around = Around(sources=[clip for clip, _ in padded])
    return solve_rows(generator, request, asked, watch, around, cut_to=padded[0][1] or None)


def _held_out_sources(generator: Generator, request: FromClips) -> list[Clip]:
    """What held-out clips of the data set start from, in the order of the seed."""
    from flowgen.data.loader import Order, clips_at

    dataset = generator.experiment.dataset.validation()
    order = Order(request.seed, len(dataset))
    return source_clips(clips_at(dataset, request.seed, [order[i] for i in request.chosen]))


def read(generator: Generator, clip: Media) -> Clip:
    """A clip, from its file where it is given by one. FlowgenError: the file cannot be read."""
    if isinstance(clip, Clip):
        return clip
    return generator.modality.read(existing(clip))


def existing(path: Path | str) -> Path:
    """The path of a file. FlowgenError: there is none."""
    if "\0" in str(path) or not Path(path).is_file():
        raise FlowgenError(f"{path}: there is no such file")
    return Path(path)


def _among_all(clips: Sequence[Clip], rows: range) -> Sequence[Clip]:
    """Clips of the chosen rows at their places among all (what stands at the others is not looked at); one is for all."""
    return clips if len(clips) == 1 else [clips[0]] * rows.start + list(clips)


def _repeated(x: State, n: int) -> State:
    return tree_map(lambda v: v.expand(n, *v.shape[1:]), x)


def _plain(request: SampleRequest, **options: Any) -> FromNoise:
    """A plain request for the same clips."""
    same = {name: getattr(request, name) for name in ("conditions", "seed", "settings", "negative", "rows")}
    return FromNoise(**{**same, **options})


def _quietly(call: Callable[..., Any], *arguments: Any) -> Any:
    """A call whose warnings have been given, or will be."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return call(*arguments)

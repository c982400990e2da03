"""Options of `flowgen sample` that give a part of the clip: continue, begin or end with, between, inpaint."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from flowgen.errors import UsageError

if TYPE_CHECKING:
    from flowgen.media.clip import Clip
    from flowgen.runs.generator import Generator

_Command = TypeVar("_Command", bound=Callable[..., Any])
_FILE = click.Path(path_type=Path)

_OPTIONS = (
    click.option("--continue", "continued", type=_FILE, metavar="FILE", help="Go on where FILE ends, for --seconds."),
    click.option(
        "--first",
        "--first-frame",
        "first",
        type=_FILE,
        metavar="FILE",
        help="Begin with FILE (an image, or a short clip).",
    ),
    click.option("--last", "--last-frame", "last", type=_FILE, metavar="FILE", help="End with FILE."),
    click.option("--between", type=_FILE, nargs=2, metavar="A B", help="Begin with A and end with B."),
    click.option(
        "--inpaint",
        type=_FILE,
        metavar="FILE",
        help="Make FILE anew --from one time --to another, or where a --mask is light, and keep the rest.",
    ),
    click.option(
        "--mask", type=_FILE, metavar="FILE", help="Of --inpaint: a picture or clip, light where to make anew."
    ),
    click.option("--vary", type=_FILE, metavar="FILE", help="A variation of FILE; --strength says how far from it."),
    click.option(
        "--strength",
        type=click.FloatRange(min=0, max=1, min_open=True),
        default=0.5,
        show_default=True,
        help="Of --vary; 1 keeps nothing.",
    ),
    click.option("--morph", type=_FILE, nargs=2, metavar="A B", help="-n clips on the way from A to B."),
    click.option(
        "--source",
        "sources",
        type=_FILE,
        multiple=True,
        metavar="FILE",
        help="Of a bridge: start from FILE; repeat for more. Without it, from held-out clips of its source.",
    ),
    click.option("--from", "from_s", type=click.FloatRange(min=0), metavar="SECONDS", help="Where --inpaint begins."),
    click.option("--to", "to_s", type=click.FloatRange(min=0), metavar="SECONDS", help="Where --inpaint ends."),
)


def part_options(command: _Command) -> _Command:
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


@dataclass(frozen=True)
class Request:
    """What to sample, before parts are given."""

    conditions: Sequence[Mapping[str, Any]]
    seed: int
    options: Mapping[str, Any]
    """Further keyword arguments of `Generator.sample`."""


def sample_with_parts(generator: Generator, request: Request, options: Mapping[str, Any]) -> list[Clip]:
    """Sample as asked, around the given parts. UsageError: parts that do not go together, or that this medium does not have."""
    from flowgen.runs.given import Given, Variation

    if options["sources"] or generator.pairs == "clips":
        request = replace(
            request, options={**request.options, "starts": _starts(generator, request, options["sources"])}
        )
    asked = [name for name in ("continued", "first", "last", "between", "inpaint", "vary", "morph") if options[name]]
    seconds = options["seconds"]
    if options["mask"] and not options["inpaint"]:
        raise UsageError("--mask says where --inpaint FILE is made anew; give both")
    if not asked:
        return generator.sample(request.conditions, seed=request.seed, seconds=seconds, **request.options)
    modality: Any = generator.modality
    if asked == ["vary"]:
        clip = modality.read(options["vary"])
        variation = Variation([clip], 1 - options["strength"])
        return generator.sample(request.conditions, seed=request.seed, variation=variation, **request.options)
    if asked == ["morph"]:
        a, b = (modality.read(path) for path in options["morph"])
        return generator.morph(a, b, request.conditions)
    from flowgen.media.interfaces import TimedModality

    if not isinstance(generator.modality, TimedModality):
        raise UsageError(f"the modality {generator.config.modality.type!r} has no parts in time to give")
    if len(asked) > 1 and set(asked) != {"first", "last"}:
        raise UsageError(
            "--continue, --between, --inpaint, and --first with --last exclude each other; give one of them"
        )
    if options["continued"]:
        return _continue(generator, request, modality.read(options["continued"]), seconds)
    if options["inpaint"] and options["mask"]:
        if options["from_s"] is not None or options["to_s"] is not None:
            raise UsageError("--inpaint takes --mask, or --from and --to")
        clip, hole = (modality.read(options[name]) for name in ("inpaint", "mask"))
        given = [Given([clip], 0.0, hole)]
        length = modality.seconds(clip)
        return generator.sample(request.conditions, seed=request.seed, seconds=length, given=given, **request.options)
    if options["inpaint"]:
        return _inpaint(generator, request, modality.read(options["inpaint"]), options["from_s"], options["to_s"])
    first, last = options["between"] or (options["first"], options["last"])
    given = [Given([modality.read(first)], 0.0)] if first else []
    given += [Given([modality.read(last)], None)] if last else []
    return generator.sample(request.conditions, seed=request.seed, seconds=seconds, given=given, **request.options)


def _starts(generator: Generator, request: Request, files: Sequence[Path]) -> list[Clip]:
    """What each sample of a bridge starts from: files in turn, or held-out clips of the data set's source."""
    from flowgen.data.loader import Order, clips_at
    from flowgen.runs.given import clips_to_start

    n = len(request.conditions)
    if files:
        clips = [generator.modality.read(path) for path in files]
        return [clips[i % len(clips)] for i in range(n)]
    dataset = generator.experiment.dataset.validation()
    order = Order(request.seed, len(dataset))
    return clips_to_start(clips_at(dataset, request.seed, [order[i] for i in range(n)]))


def _window(generator: Generator) -> float:
    """Seconds of a clip as trained."""
    from flowgen.media.streams import StreamSpec

    spec = generator.encoder.spec
    stream = spec if isinstance(spec, StreamSpec) else next(iter(spec.values()))
    return stream.axes[0].size / stream.axes[0].rate


def _continue(generator: Generator, request: Request, clip: Clip, seconds: float | None) -> list[Clip]:
    """The clip and what follows it, window by window: half a window is seen, the other half made."""
    from flowgen.runs.given import Given

    modality: Any = generator.modality
    window = _window(generator)
    seen = min(modality.seconds(clip), window / 2)
    seconds = window - seen if seconds is None else seconds
    whole = [clip] * len(request.conditions)
    made, turn = 0.0, 0
    while made < seconds - 1e-6:
        ends = [modality.cut(c, modality.seconds(c) - seen, modality.seconds(c)) for c in whole]
        clips = generator.sample(request.conditions, seed=request.seed + turn, given=[Given(ends)], **request.options)
        new = min(window - seen, seconds - made)
        whole = [modality.join([w, modality.cut(c, seen, seen + new)]) for w, c in zip(whole, clips, strict=True)]
        made, turn = made + new, turn + 1
    return [_described(w, c) for w, c in zip(whole, request.conditions, strict=True)]


def _inpaint(
    generator: Generator, request: Request, clip: Clip, from_s: float | None, to_s: float | None
) -> list[Clip]:
    from flowgen.runs.given import Given

    modality: Any = generator.modality
    length = modality.seconds(clip)
    start, end = from_s or 0.0, length if to_s is None else to_s
    if not 0 <= start < end <= length + 1e-6 or (start == 0 and end >= length):
        raise UsageError(
            f"--inpaint takes a stretch inside the {length:.2f} s of {clip.source}, got --from {start:g} --to {end:g}"
        )
    before = modality.cut(clip, 0, start) if start else None
    after = modality.cut(clip, end, length) if end < length else None
    given = [Given([before], 0.0)] if before else []
    given += [Given([after], None)] if after else []
    clips = generator.sample(request.conditions, seed=request.seed, seconds=length, given=given, **request.options)
    pieces = [[p for p in (before, modality.cut(c, start, end), after) if p is not None] for c in clips]
    return [_described(modality.join(p), c) for p, c in zip(pieces, request.conditions, strict=True)]


def _described(clip: Clip, conditions: Mapping[str, Any]) -> Clip:
    return replace(clip, conditions=dict(conditions))

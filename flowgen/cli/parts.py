"""From the options of `flowgen sample` to its request: each way of sampling takes its own options and refuses the others."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import click

from flowgen.cli.options import File, Number
from flowgen.errors import UsageError

if TYPE_CHECKING:
    from flowgen.runs.generator import Generator
    from flowgen.runs.requests import SampleRequest

_Command = TypeVar("_Command", bound=Callable[..., Any])
_FILE = File()

_OPTIONS = (
    click.option(
        "--continue", "continued", type=_FILE, metavar="FILE", help="Continue FILE, by --seconds or one window."
    ),
    click.option(
        "--long",
        type=Number(min=0, min_open=True),
        metavar="SECONDS",
        help="New clips of any length, window by window, each going on from the one before it.",
    ),
    click.option(
        "--first",
        "--first-frame",
        "first",
        type=_FILE,
        metavar="FILE",
        help="Begin with FILE (an image or a short clip).",
    ),
    click.option("--last", "--last-frame", "last", type=_FILE, metavar="FILE", help="End with FILE."),
    click.option("--between", type=_FILE, nargs=2, metavar="A B", help="Begin with A and end with B."),
    click.option(
        "--inpaint",
        type=_FILE,
        metavar="FILE",
        help="Inpaint FILE: regenerate a time range (--from, --to) or the white area of --mask.",
    ),
    click.option(
        "--mask", type=_FILE, metavar="FILE", help="For --inpaint: an image or clip, white where to regenerate."
    ),
    click.option("--from", "from_s", type=Number(min=0), metavar="SECONDS", help="For --inpaint: start of the range."),
    click.option("--to", "to_s", type=Number(min=0), metavar="SECONDS", help="For --inpaint: end of the range."),
    click.option(
        "--given",
        multiple=True,
        metavar="STREAM=FILE",
        help="Generate the other streams of a clip from this one; repeat for more streams, or a FILE for each clip.",
    ),
    click.option(
        "--method",
        type=click.Choice(["replacement", "guided"]),
        help="For --inpaint with a run trained without known regions (default: replacement). guided follows gradients, "
        "without the solver of the run: slower, nearer to the exact distribution.",
    ),
    click.option(
        "--particles",
        type=click.IntRange(1, 4096),
        help="For --method guided: candidates for each clip, in memory together (default: 16).",
    ),
    click.option("--vary", type=_FILE, metavar="FILE", help="Make variations of FILE."),
    click.option(
        "--strength",
        type=Number(min=0, max=1, min_open=True),
        default=0.5,
        show_default=True,
        help="For --vary: distance from FILE; 1 keeps nothing of it.",
    ),
    click.option("--interpolate", type=_FILE, nargs=2, metavar="A B", help="Interpolate from A to B in -n clips."),
    click.option("--morph", type=_FILE, nargs=2, hidden=True),
    click.option(
        "--source",
        "sources",
        type=_FILE,
        multiple=True,
        metavar="FILE",
        help="For a bridge: start from FILE; repeat for more. Default: held-out clips of its source.",
    ),
)

_WAYS = {
    "continued": "--continue",
    "long": "--long",
    "first": "--first",
    "last": "--last",
    "between": "--between",
    "inpaint": "--inpaint",
    "given": "--given",
    "vary": "--vary",
    "interpolate": "--interpolate",
    "sources": "--source",
}
_OF = {
    "mask": "inpaint",
    "from_s": "inpaint",
    "to_s": "inpaint",
    "method": "inpaint",
    "particles": "inpaint",
    "strength": "vary",
}
_NAMES = {
    "mask": "--mask",
    "from_s": "--from",
    "to_s": "--to",
    "method": "--method",
    "particles": "--particles",
    "strength": "--strength",
}
_LENGTH_OF_FILE = ("inpaint", "given", "vary", "interpolate", "sources")
_UNUSED_BY_INTERPOLATE = {"guidance": "--guidance", "negative": "--negative", "seed": "--seed", "animate": "--animate"}


def part_options(command: _Command) -> _Command:
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def check_parts(options: dict[str, Any], written: Collection[str]) -> None:
    """Refuse options that do not go together, before anything is loaded. UsageError names both.

    Args:
        options: by name; `morph` becomes `interpolate`.
        written: the names of those that the user gave.
    """
    if morph := options.pop("morph", None):
        click.echo("flowgen: --morph is --interpolate since flowgen 0.2", err=True)
        options["interpolate"] = options["interpolate"] or morph
    ways = [name for name in _WAYS if options[name]]
    if len(ways) > 1 and set(ways) != {"first", "last"}:
        raise UsageError(
            f"{', '.join(_WAYS[w] for w in ways)} exclude each other; give one of them (or --first with --last)"
        )
    for name, way in _OF.items():
        if name in written and way not in ways:
            raise UsageError(f"{_NAMES[name]} says how to {_WAYS[way]} FILE; give both, or leave out {_NAMES[name]}")
    if options["method"] == "guided":
        unused = ["--solver"] if "solver" in written else []
        unused += [f"--set {s}" for s in options["settings"] if s.startswith("solver")]
        if unused:
            raise UsageError(f"--method guided has steps of its own and uses no solver; leave out {', '.join(unused)}")
    if "long" in ways and options["seconds"] is not None:
        raise UsageError("--long says how long the clips are; leave out --seconds")
    fixed = [w for w in ways if w in _LENGTH_OF_FILE]
    if fixed and options["seconds"] is not None:
        raise UsageError(f"clips of {_WAYS[fixed[0]]} are as long as its file; leave out --seconds")
    if "interpolate" in ways:
        unused = [option for name, option in _UNUSED_BY_INTERPOLATE.items() if name in written]
        unused += [f"--set {s}" for s in options["settings"] if s.startswith(("guidance", "path"))]
        if unused:
            raise UsageError(
                f"--interpolate inverts A and B without guidance and draws no noise, so that {', '.join(unused)} would change "
                f"nothing; leave it out"
            )
    if options.get("animate") and ways and ways[0] in ("continued", "long", "vary"):
        raise UsageError(
            f"--animate shows the way from noise to data, which {_WAYS[ways[0]]} does not go; leave one out"
        )


def request_of(
    generator: Generator, options: Mapping[str, Any], conditions: Sequence[Mapping[str, Any]], **common: Any
) -> SampleRequest:
    """The request that the options make. `common`: fields that all requests have. UsageError: see `check_parts`."""
    from flowgen.runs.requests import (
        Animate,
        Continue,
        FromClips,
        FromNoise,
        FromStream,
        Inpaint,
        Interpolate,
        Long,
        Vary,
    )

    common = {"conditions": conditions, **common}
    seconds = options["seconds"]
    if options["continued"]:
        return Continue(options["continued"], seconds=seconds, **common)
    if options["long"]:
        return Long(options["long"], **common)
    if options["inpaint"]:
        times = {"start_s": options["from_s"], "end_s": options["to_s"]}
        how = {"method": options["method"], "particles": options["particles"]}
        return Inpaint(options["inpaint"], mask=options["mask"], **times, **how, **common)
    if options["given"]:
        files = given_files(options["given"])
        return FromStream({name: _in_turn(own, len(conditions), "--given") for name, own in files.items()}, **common)
    if options["vary"]:
        return Vary(options["vary"], strength=options["strength"], **common)
    if options["interpolate"]:
        return Interpolate(*options["interpolate"], **common)
    first, last = options["between"] or (options["first"], options["last"])
    if first or last:
        return Animate(first, last, seconds=seconds, **common)
    if options["sources"] or generator.pairs == "clips":
        if seconds is not None:
            raise UsageError("samples of a bridge are as long as what they start from; leave out --seconds")
        return FromClips(sources=_in_turn(options["sources"], len(conditions)), **common)
    return FromNoise(seconds=seconds, **common)


def given_files(assignments: Sequence[str]) -> dict[str, list[str]]:
    """STREAM=FILE as files by stream. UsageError: one that cannot be read."""
    found: dict[str, list[str]] = {}
    for assignment in assignments:
        name, equals, path = assignment.partition("=")
        if not (name and equals and path):
            raise UsageError(f"cannot read --given {assignment!r}; expected STREAM=FILE, as in sound=a.wav")
        found.setdefault(name, []).append(path)
    return found


def _in_turn(files: Sequence[Any], n: int, option: str = "--source") -> list[Any]:
    """Files in turn, one for each of n clips; [] where there are none. UsageError: more files than clips."""
    if len(files) > n:
        raise UsageError(f"{option} gives {len(files)} files for {n} clips; ask for -n {len(files)}, or give fewer")
    return [files[i % len(files)] for i in range(n)] if files else []

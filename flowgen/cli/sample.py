"""flowgen sample"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from flowgen.cli.asked import asked_by_file, asked_by_options, single
from flowgen.cli.options import SEED, File, Number, RunOrServer, check_writable, sampling_options, sampling_overrides
from flowgen.cli.output import Output, default_path, resume
from flowgen.cli.parts import check_parts, given_files, part_options, request_of
from flowgen.errors import UsageError

if TYPE_CHECKING:
    from flowgen.media.clip import Clip
    from flowgen.runs.generator import Generator
    from flowgen.runs.requests import SampleRequest


@click.command()
@click.argument("run", type=RunOrServer())
@click.option(
    "--cond", "-c", multiple=True, metavar="NAME=VALUE", help="A condition; repeat a name to alternate its values."
)
@click.option("--grid", is_flag=True, help="Sample every combination of the values of -c; commas separate values.")
@click.option("--prompt", "-p", metavar="TEXT", help="The text condition, for a run that has one.")
@click.option(
    "--prompts",
    type=File(),
    metavar="FILE",
    help="One clip for each row of FILE: .txt (a prompt a line), .csv or .jsonl (conditions by name). Run again to resume.",
)
@click.option("--negative", multiple=True, metavar="NAME=VALUE", help="A condition that guidance leads away from.")
@click.option(
    "-n",
    "count",
    type=click.IntRange(1, 1_000_000_000),
    help="Number of clips (default 1, or as many as there are values; 5 to interpolate; 2000 for a scatter plot).",
)
@click.option(
    "--seconds",
    type=Number(min=0, min_open=True),
    help="Length of the clips; also passed to the model if it has a duration condition.",
)
@click.option(
    "--adapter",
    "adapters",
    multiple=True,
    metavar="PATH[:WEIGHT][@START-END]",
    help="An adapter of this run: its run or file, with a weight, in an interval of t; repeat for more.",
)
@click.option(
    "--step", "checkpoint", type=click.IntRange(0, 2**63 - 1), help="Step of the checkpoint (default: the newest)."
)
@part_options
@sampling_options
@click.option(
    "--seed",
    type=SEED,
    default=0,
    show_default=True,
    help="The same seed gives the same clips; with another -n, up to rounding.",
)
@click.option("-o", "output", type=File(), help="File to write; its extension sets the format.")
@click.option("--force", is_flag=True, help="Overwrite files that exist.")
@click.option("--normalise", is_flag=True, help="Scale each clip to full loudness: peak at -1 dB of full scale.")
@click.option("--field", type=File(), help="Also draw the velocity field at several times (png or svg).")
@click.option("--animate", type=File(), help="Also show the way from noise to data (mp4 or gif).")
@click.pass_context
def sample(ctx: click.Context, run: Path | str, **options: Any) -> None:
    """Sample clips from a trained run.

    Settings default to the run's own 'sample' section. The settings are embedded in every file as metadata. Several
    clips become numbered files and one sheet that shows the first of them. Files that exist are not overwritten.

    \b
    Examples:
      flowgen sample runs/notes --cond pitch=C4 --cond timbre=flute -o c4.wav
      flowgen sample runs/moving-digits -c digit=3 -c digit=7 -c direction=left -n 8 -o digits.mp4
      flowgen sample runs/moving-digits -c digit=1,2,3 -c direction=left,right --grid -o table.mp4
      flowgen sample runs/notes --prompts notes.csv -o notes.wav
      flowgen sample runs/checkerboard -n 20000 --steps 16 --solver heun -o board.png --animate board.gif --field field.png
      flowgen sample runs/notes -c pitch=E4 -n 4 --set guidance.scale=3 --set guidance.start=0.2 --seed 7
      flowgen sample runs/mine --continue begun.mp4 --seconds 2 -o whole.mp4
      flowgen sample runs/mine --long 20 -o long.mp4
      flowgen sample runs/mine --between first.png last.png -o between.gif
      flowgen sample runs/mine --inpaint speech.wav --from 0.3 --to 0.6 -o mended.wav
      flowgen sample runs/mine --vary clip.mp4 --strength 0.3 -n 4 -o varied.mp4
      flowgen sample runs/film --given sound=music.wav -n 4 -o film.mp4
      flowgen sample runs/mine --interpolate a.mp4 b.mp4 -n 8 -o between.mp4
      flowgen sample runs/bridge --source drawing.mp4 -o photograph.mp4
      flowgen sample runs/base --adapter runs/adapted:0.8@0.0-0.7 -n 4 -o styled.mp4
      flowgen sample http://localhost:8000/notes -c pitch=C4 -o c4.wav
    """
    from rich.console import Console

    from flowgen.plugins.media import Media
    from flowgen.runs.base_error import BaseError
    from flowgen.runs.generator import Generator
    from flowgen.runs.levels import Levels, clip_levels
    from flowgen.runs.requests import FromNoise
    from flowgen.training.progress import ProgressDisplay

    default = click.core.ParameterSource.DEFAULT
    written = {name for name in options if ctx.get_parameter_source(name) != default}
    check_parts(options, written)
    if isinstance(run, str):
        from flowgen.cli.remote import sample_remotely

        sample_remotely(run, options, written)
        return
    _check_batch(options)
    overrides = sampling_overrides(run, options)
    generator = Generator.load(
        run,
        weights=options["weights"],
        device=options["device"],
        overrides=overrides,
        adapters=options["adapters"],
        step=options["checkpoint"],
    )
    _check_abilities(generator, options)
    if error := BaseError.read(run, generator.config):
        click.echo(f"flowgen: base {error}", err=True)
    request = _request(generator, options)
    media = Media(generator.config.modality.type, generator.modality)
    output, done = _output(media, generator, run, request, options)
    steps, batch = _steps(generator, options), generator.config.sample.batch_size
    n, console = len(request.conditions), Console(stderr=True)
    frames: list[tuple[float, list[Any]]] = []
    on_state = (lambda t, clips: frames.append((t, clips))) if options["animate"] else None
    metadata = generator.describe(request, run=str(run), weights=options["weights"])
    levels: list[float] = []
    with ProgressDisplay("sample", -(-n // batch) * steps, console=console) as bar:
        for rows in _batches(n, batch, done):
            on_step = _counted(bar.update, rows.start // batch * steps, steps)
            clips = generator.sample(replace(request, rows=rows), on_step=on_step, on_state=on_state)
            levels += clip_levels(generator.modality, clips)
            clips = _levelled(generator, clips, options["normalise"])
            for path in output.write(rows, clips, metadata, done):
                click.echo(path)
    for path in output.finish(metadata):
        click.echo(path)
    if isinstance(request, FromNoise) and (trained := Levels.read(run)) is not None:
        trained.warn(levels)
    if options["animate"]:
        generator.modality.animate(_joined(frames), options["animate"], metadata)  # type: ignore[attr-defined]
        click.echo(options["animate"])
    if options["field"]:
        conditions = request.conditions[0]
        generator.modality.field(partial(generator.velocity, conditions=conditions), options["field"])  # type: ignore[attr-defined]
        click.echo(options["field"])


def _check_batch(options: dict[str, Any]) -> None:
    """What does not go with --prompts. UsageError."""
    if options["prompts"] is None:
        return
    clash = [name for name in ("count", "grid", "prompt", "animate", "field") if options[name]]
    names = {"count": "-n", "grid": "--grid", "prompt": "--prompt", "animate": "--animate", "field": "--field"}
    if clash:
        raise UsageError(f"--prompts FILE makes one clip for each row; leave out {', '.join(names[c] for c in clash)}")
    if options["output"] is None:
        raise UsageError("--prompts FILE wants a name for its files: -o clips.wav makes clips-0.wav, clips-1.wav ...")


def _check_abilities(generator: Generator, options: dict[str, Any]) -> None:
    """Refuse what this medium cannot do, and a place that cannot be written, before any work is done."""
    from flowgen.media.interfaces import Animated, DrawsField, Levelled

    abilities = {"field": (DrawsField, "picture of its velocity field"), "animate": (Animated, "animation of the flow")}
    abilities["normalise"] = (Levelled, "loudness")
    for name, (ability, what) in abilities.items():
        if options[name] and not isinstance(generator.modality, ability):
            raise UsageError(f"--{name}: the modality {generator.config.modality.type!r} has no {what}")
    for name, types in {"animate": (".gif", ".mp4"), "field": (".png", ".svg")}.items():
        path = options[name]
        if path is None:
            continue
        if path.suffix.lower() not in types:
            raise UsageError(f"{path}: unknown file type {path.suffix!r} (valid: {', '.join(types)})")
        if path.exists() and not options["force"]:
            raise UsageError(f"{path} would be overwritten; choose another --{name}, or overwrite with --force")
        check_writable(path)


def _steps(generator: Generator, options: dict[str, Any]) -> int:
    """Solver steps of a sample. UsageError: they are asked for, and a grid of times has its own."""
    grid = generator.config.sample.grid
    if isinstance(grid, str):
        return generator.config.sample.steps
    if options["steps"] is not None:
        raise UsageError(
            f"--steps: the grid of {len(grid)} times has {len(grid) - 1} steps; set grid=uniform, or leave it out"
        )
    return len(grid) - 1


def _request(generator: Generator, options: dict[str, Any]) -> SampleRequest:
    if options["prompts"] is not None:
        conditions: Sequence[Any] = asked_by_file(generator, options["prompts"], options["cond"])
    else:
        default = 1 if generator.modality.clips_per_file else 2000
        default = (
            5
            if options["interpolate"]
            else max(default, len(options["sources"]), *map(len, given_files(options["given"]).values()))
        )
        conditions = asked_by_options(generator, options, options["count"], default)
    negative = single(options["negative"], "--negative")
    return request_of(generator, options, conditions, seed=options["seed"], negative=negative or None)


def _output(
    media: Any, generator: Generator, run: Path, request: SampleRequest, options: dict[str, Any]
) -> tuple[Output, set[int]]:
    """Where to write, and the rows that are there already."""
    n, name = len(request.conditions), f"{generator.config.name}-seed{options['seed']}"
    path = options["output"] or default_path(run / "samples", name, next(iter(media.formats)))
    output = Output(media, path, n, numbered=options["prompts"] is not None)
    if options["prompts"] is not None:
        settings = generator.describe(request, run=str(run), weights=options["weights"], normalise=options["normalise"])
        done = resume(output, request.conditions, settings, options["force"])
        if done:
            click.echo(f"flowgen: {len(done)} of {n} rows are there already", err=True)
        return output, done
    if not options["force"]:
        output.refuse_existing()
    return output, set()


def _batches(n: int, size: int, done: set[int]) -> Iterator[range]:
    """Rows that are sampled together: from fixed places on, so that a resumed row is what it would have been."""
    for start in range(0, n, size):
        rows = range(start, min(start + size, n))
        if not done.issuperset(rows):
            yield rows


def _counted(update: Callable[[int], None], before: int, steps: int) -> Callable[[int, int], None]:
    """Progress of one batch of many, whose own steps may be others (a continuation takes several windows)."""
    return lambda done, total: update(before + done * steps // max(total, 1))


def _levelled(generator: Generator, clips: list[Clip], normalise: bool) -> list[Clip]:
    """Clips at full loudness where that is asked for; says where a sample is clipped."""
    import warnings

    from flowgen.media.interfaces import Levelled

    modality = generator.modality
    if not isinstance(modality, Levelled):
        return clips
    share = max(modality.at_full_scale(clip) for clip in clips)
    if share > 1e-3:
        warnings.warn(
            f"{share:.1%} of the samples of a clip are at full scale and will sound distorted; try a lower --guidance, "
            f"or end it earlier: --set guidance.end=0.3",
            stacklevel=2,
        )
    return [modality.normalise(clip) for clip in clips] if normalise else clips


def _joined(frames: list[tuple[float, list[Any]]]) -> list[tuple[float, list[Any]]]:
    """Frames of several batches, joined by time."""
    joined: dict[float, list[Any]] = {}
    for t, clips in frames:
        joined.setdefault(t, []).extend(clips)
    return sorted(joined.items())

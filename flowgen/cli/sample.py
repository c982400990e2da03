"""flowgen sample"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from flowgen.cli.options import check_writable, sampling_options, sampling_overrides
from flowgen.cli.parts import Request, part_options, sample_with_parts

if TYPE_CHECKING:
    from flowgen.runs.generator import Generator


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option(
    "--cond", "-c", multiple=True, metavar="NAME=VALUE", help="A condition; repeat a name to alternate its values."
)
@click.option("--prompt", "-p", metavar="TEXT", help="The text condition, for a run that has one.")
@click.option("--negative", multiple=True, metavar="NAME=VALUE", help="A condition that guidance leads away from.")
@click.option("-n", "count", type=click.IntRange(min=1), help="Number of clips (default 1; 2000 for a scatter plot).")
@click.option(
    "--seconds",
    type=click.FloatRange(min=0, min_open=True),
    help="Length of the clips, where the encoder has one; told to the network by a condition for it.",
)
@part_options
@sampling_options
@click.option("--seed", type=int, default=0, show_default=True, help="The same seed gives the same clips.")
@click.option("-o", "output", type=click.Path(path_type=Path), help="File to write; its extension says the format.")
@click.option(
    "--field", type=click.Path(path_type=Path), help="Also draw the velocity field at several times (png or svg)."
)
@click.option("--animate", type=click.Path(path_type=Path), help="Also show the way from noise to data (mp4 or gif).")
def sample(
    run: Path, count: int | None, seed: int, weights: Any, output: Path | None, animate: Path | None, **rest: Any
) -> None:
    """Sample clips from a trained run.

    Settings default to the run's own 'sample' section. The settings are embedded in every file as metadata. Several
    clips become numbered files and one sheet that shows them all.

    \b
    Examples:
      flowgen sample runs/notes --cond pitch=C4 --cond timbre=flute -o c4.wav
      flowgen sample runs/moving-digits -c digit=3 -c digit=7 -c direction=left -n 8 -o digits.mp4
      flowgen sample runs/checkerboard -n 20000 --steps 16 --solver heun -o board.png --animate board.gif --field field.png
      flowgen sample runs/notes -n 4 --set guidance.scale=3 --set guidance.start=0.2 --seed 7
      flowgen sample runs/mine --continue begun.mp4 --seconds 2 -o whole.mp4
      flowgen sample runs/mine --between first.png last.png -o morph.gif
      flowgen sample runs/mine --inpaint speech.wav --from 0.3 --to 0.6 -o mended.wav
      flowgen sample runs/bridge --source drawing.png -o photograph.png
    """
    from rich.console import Console

    from flowgen.errors import UsageError
    from flowgen.media.interfaces import DrawsField
    from flowgen.plugins.media import Media
    from flowgen.runs.generator import Generator
    from flowgen.training.progress import ProgressDisplay

    overrides = sampling_overrides(run, rest)
    generator = Generator.load(run, weights=weights, device=rest["device"], overrides=overrides)
    asked = _conditions(generator, rest["cond"], rest["prompt"])
    negative = {name: values[-1] for name, values in pairs(rest["negative"]).items()}
    output = _output(generator, run, output, seed)
    if animate is not None:
        _check_animate(generator, animate)
    if rest["field"] is not None and not isinstance(generator.modality, DrawsField):
        raise UsageError(
            f"--field: the modality {generator.config.modality.type!r} has no picture of its velocity field"
        )
    n = count or (1 if generator.modality.clips_per_file else 2000)
    requests = [{name: values[i % len(values)] for name, values in asked.items()} for i in range(n)]
    console = Console(stderr=True)
    frames: list[tuple[float, list[Any]]] = []
    total = -(-n // generator.config.sample.batch_size) * generator.config.sample.steps
    with ProgressDisplay("sample", total, console=console) as bar:
        on_state = (lambda t, clips: frames.append((t, clips))) if animate is not None else None
        more = {"negative": negative or None, "on_step": lambda done, total: bar.update(done), "on_state": on_state}
        clips = sample_with_parts(generator, Request(requests, seed, more), rest)
    metadata = generator.describe(run=str(run), seed=seed, weights=weights)
    for path in write_clips(Media(generator.config.modality.type, generator.modality), clips, output, metadata):
        click.echo(path)
    if animate is not None:
        generator.modality.animate(_joined(frames), animate, metadata)  # type: ignore[attr-defined]
        click.echo(animate)
    if rest["field"] is not None:
        generator.modality.field(partial(generator.velocity, conditions=requests[0]), rest["field"])  # type: ignore[attr-defined]
        click.echo(rest["field"])


def write_clips(modality: Any, clips: list[Any], output: Path, metadata: dict[str, Any]) -> list[Path]:
    """Write clips to `output`, or to numbered files beside it and one sheet. Returns what was written."""
    from flowgen.training.watch import caption

    if modality.clips_per_file is None:
        modality.write(clips, output, metadata)
        return [output]
    if len(clips) == 1:
        modality.write(clips, output, {**metadata, "index": 0, "conditions": dict(clips[0].conditions)})
        return [output]
    digits = len(str(len(clips) - 1))
    paths = [output.with_name(f"{output.stem}-{i:0{digits}d}{output.suffix}") for i in range(len(clips))]
    for i, (clip, path) in enumerate(zip(clips, paths, strict=True)):
        modality.write([clip], path, {**metadata, "index": i, "conditions": dict(clip.conditions)})
    sheet = output.with_name(f"{output.stem}-sheet.png")
    modality.sheet(clips[:64], sheet, [caption(c.conditions) for c in clips[:64]])
    return [*paths, sheet]


def pairs(assignments: tuple[str, ...]) -> dict[str, list[str]]:
    """NAME=VALUE as values by name. UsageError: one that cannot be read."""
    from flowgen.errors import UsageError

    found: dict[str, list[str]] = {}
    for assignment in assignments:
        name, equals, value = assignment.partition("=")
        if not equals:
            raise UsageError(f"cannot read the condition {assignment!r}; expected NAME=VALUE")
        found.setdefault(name, []).append(value)
    return found


def _conditions(generator: Generator, cond: tuple[str, ...], prompt: str | None) -> dict[str, list[str]]:
    from flowgen.errors import UsageError
    from flowgen.media.conditions import encode_conditions
    from flowgen.media.interfaces import ReadsText

    asked = pairs(cond)
    if prompt is not None:
        texts = [
            name
            for name, c in generator.conditioners.items()
            if (c.is_text if isinstance(c, ReadsText) else c.role == "sequence")
        ]
        if len(texts) != 1:
            have = ", ".join(generator.conditioners) or "none"
            raise UsageError(
                f"--prompt needs a run with one text condition; this one has: {have}; use --cond NAME=VALUE"
            )
        asked.setdefault(texts[0], []).append(prompt)
    for name, values in asked.items():  # before the sampling, not after it
        encode_conditions(generator.conditioners, [{name: value} for value in values])
    return asked


def _output(generator: Generator, run: Path, output: Path | None, seed: int) -> Path:
    """Where to write; refuses an unknown extension or an unwritable folder before any work is done."""
    from flowgen.errors import UsageError, unknown
    from flowgen.plugins.media import Media

    formats = Media(generator.config.modality.type, generator.modality).formats
    path = output or run / "samples" / f"{generator.config.name}-seed{seed}{next(iter(formats))}"
    if path.suffix.lower() not in formats:
        raise UsageError(f"{path}: {unknown('file type', path.suffix, formats)}")
    check_writable(path)
    return path


def _check_animate(generator: Generator, animate: Path) -> None:
    from flowgen.errors import UsageError
    from flowgen.media.interfaces import Animated

    if not isinstance(generator.modality, Animated):
        raise UsageError(f"--animate: the modality {generator.config.modality.type!r} has no animation of the flow")
    if animate.suffix.lower() not in (".mp4", ".gif"):
        raise UsageError(f"{animate}: unknown file type {animate.suffix!r} (valid: .gif, .mp4)")


def _joined(frames: list[tuple[float, list[Any]]]) -> list[tuple[float, list[Any]]]:
    """Frames of several batches, joined by time."""
    joined: dict[float, list[Any]] = {}
    for t, clips in frames:
        joined.setdefault(t, []).extend(clips)
    return sorted(joined.items())

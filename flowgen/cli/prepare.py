"""flowgen data split, filter and caption"""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from flowgen.cli.options import DEVICE, File, Number

if TYPE_CHECKING:
    from flowgen.data.preparation import Preparation

_Command = TypeVar("_Command", bound=Callable[..., Any])


def _table(command: _Command) -> _Command:
    """CONFIG, overrides and -o."""
    command = click.option("-o", "output", type=File(), required=True, help="CSV or JSONL to write.")(command)
    command = click.argument("overrides", nargs=-1)(command)
    return click.argument("config")(command)


@click.command()
@_table
@click.option("--scene", type=Number(0, 1), help="Video: score of ffmpeg's scene filter that is a cut (default 0.3).")
@click.option("--silence-db", type=Number(-200, 0), help="Sound: quieter than this is silence (default -40).")
@click.option("--pause", "pause_s", type=Number(0), help="Sound: seconds of silence that cut (default 0.3).")
@click.option(
    "--shortest", type=Number(0), default=0.5, show_default=True, help="Leave shorter segments out (seconds)."
)
@click.option(
    "--longest", type=Number(0, min_open=True), default=30.0, show_default=True, help="Cut longer ones evenly."
)
def split(
    config: str, overrides: tuple[str, ...], output: Path, shortest: float, longest: float, **options: float | None
) -> None:
    """Cut long recordings into segments: videos at scene changes, sounds at silences.

    Write a table of segments that training reads. Files stay as they are. Run it again to continue after a stop.

    \b
    Examples:
      flowgen data split video/folder data.folder=films -o scenes.csv
      flowgen data split audio/folder data.folder=tapes -o takes.csv --silence-db -45 --longest 10
    """
    from flowgen.data.preparation import write
    from flowgen.media.interfaces import SplitsRecordings

    _check_table(output)
    preparation = _preparation(config, overrides, SplitsRecordings, "split")
    given = {name: float(value) for name, value in options.items() if value is not None}
    _check_options(preparation.modality.segments, given)
    rows = preparation.split(given, shortest, longest)
    write(rows, output, preparation.left_out)
    _print_use(output, len(rows), preparation)


@click.command(name="filter")
@_table
@click.option(
    "--keep", "rules", multiple=True, metavar="RULE", help="Keep what meets it, as in 'motion >= 0.5'; repeat for more."
)
@click.option("--no-copies", is_flag=True, help="Keep the first of recordings that are alike.")
def filter_(config: str, overrides: tuple[str, ...], output: Path, rules: tuple[str, ...], no_copies: bool) -> None:
    """Measure recordings and choose among them.

    Write a table with a column for each measure: motion, sharpness and brightness of videos; loudness, peak, silent and
    clipped of sounds; and copy_of, the first of recordings that are alike. Training reads it.

    \b
    Examples:
      flowgen data filter video/folder data.folder=clips -o measured.csv
      flowgen data filter video/folder data.folder=clips -o good.csv --keep 'motion >= 0.5' --keep 'sharpness > 10' --no-copies
      flowgen data filter audio/folder data.folder=sounds -o good.csv --keep 'loudness > -40' --keep 'silent < 0.5'
    """
    from flowgen.data.preparation import kept, write
    from flowgen.media.interfaces import MeasuresRecordings

    _check_table(output)
    preparation = _preparation(config, overrides, MeasuresRecordings, "measure")
    rows = kept(preparation.measure(), rules, no_copies)
    write(rows, output, preparation.left_out)
    _print_use(output, len(rows), preparation)


@click.command()
@_table
@click.option("--model", required=True, help="A model of transformers: its folder, or its id in the hub cache.")
@click.option("--prompt", default="", help="What a model of pictures is asked.")
@click.option("--column", default="caption", show_default=True, help="The column to write.")
@click.option("--frames", type=click.IntRange(1, 64), help="Pictures shown of a video (default 4).")
@click.option("--max-tokens", type=click.IntRange(1, 4096), help="Of a caption of pictures (default 64).")
@DEVICE
def caption(
    config: str, overrides: tuple[str, ...], output: Path, model: str, prompt: str, column: str, frames: int | None,
    max_tokens: int | None, device: str | None,
) -> None:  # fmt: skip
    """Caption recordings by a pretrained model on this machine: videos by what is seen, sounds by what is spoken.

    Write a table with the captions, which training reads. Nothing is downloaded (hf download ID fetches a model).

    \b
    Examples:
      flowgen data caption video/folder data.folder=clips --model Salesforce/blip-image-captioning-base -o captions.csv
      flowgen data caption audio/folder data.folder=talks --model openai/whisper-base -o captions.csv
    """
    from flowgen.data.preparation import write
    from flowgen.errors import UsageError
    from flowgen.media.captioner import Captioner
    from flowgen.media.interfaces import ShowsRecordings

    _check_table(output)
    preparation = _preparation(config, overrides, ShowsRecordings, "caption")
    given = {"--prompt": prompt, "--frames": frames, "--max-tokens": max_tokens}
    if not preparation.modality.shows_pictures and any(given.values()):
        names = ", ".join(name for name, value in given.items() if value)
        raise UsageError(f"{names} changes nothing for sounds, of which a recogniser hears all; leave it out")
    captioner = Captioner(model, prompt, max_tokens or 64, device)
    rows = preparation.caption(captioner, captioner.identity, column, frames or 4)
    write(rows, output, preparation.left_out)
    _print_use(output, len(rows), preparation, column)


def _check_table(output: Path) -> None:
    from flowgen.cli.options import check_writable
    from flowgen.errors import UsageError

    if output.suffix.lower() not in (".csv", ".jsonl"):
        raise UsageError(f"{output}: rows are written as CSV or JSONL; give a name that ends in .csv or .jsonl")
    check_writable(output)


def _preparation(config: str, overrides: tuple[str, ...], ability: type, what: str) -> Preparation:
    """The recordings of a config: all of them, as none is held out of a table."""
    from flowgen.config import ComponentConfig, load
    from flowgen.config.components import takes
    from flowgen.data.preparation import Preparation
    from flowgen.errors import UsageError
    from flowgen.runs.experiment import Experiment

    settings = load(config, overrides).config
    whole = {"held_out": 0, "max_bad_share": 1}
    whole = {name: value for name, value in whole.items() if takes("dataset", settings.data.type, name)}
    data = ComponentConfig(type=settings.data.type, **{**settings.data.options, **whole})
    experiment = Experiment(settings.model_copy(update={"data": data}))
    preparation = Preparation(experiment.dataset, settings.data.type)
    if not isinstance(preparation.modality, ability):
        raise UsageError(
            f"{settings.modality.type} offers no way to {what} recordings (see: flowgen plugins show NAME)"
        )
    return preparation


def _check_options(function: Callable[..., Any], given: dict[str, float]) -> None:
    """UsageError: the medium does not take one of the options."""
    import inspect

    from flowgen.errors import UsageError

    flags = {"pause_s": "--pause", "silence_db": "--silence-db", "scene": "--scene"}
    taken = inspect.signature(function).parameters
    for name in given:
        if name not in taken:
            others = [flags.get(other, other) for other in taken if other != "path"]
            raise UsageError(
                f"{flags[name]} changes nothing for this medium, which takes {', '.join(others)}; leave it out"
            )


def _print_use(output: Path, count: int, preparation: Preparation, column: str | None = None) -> None:
    """How to train on the table."""
    click.echo(f"{output}: {count} rows")
    click.echo(f"train on it with: {shlex.join(preparation.overrides(output, column))}")

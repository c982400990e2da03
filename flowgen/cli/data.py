"""flowgen data"""

from __future__ import annotations

from pathlib import Path

import click

from flowgen.cli.cache import cache
from flowgen.cli.options import File
from flowgen.cli.prepare import caption, filter_, split


@click.group()
def data() -> None:
    """Look at the data a config names, and make tables of it."""


data.add_command(split)
data.add_command(filter_)
data.add_command(caption)
data.add_command(cache)


@data.command()
@click.argument("config")
@click.argument("overrides", nargs=-1)
@click.option("-n", "count", type=click.IntRange(1, 1_000_000), help="Examples on the sheet (default 16; 5000 points).")
@click.option("--held-out", is_flag=True, help="Show the held-out part instead of the training part.")
@click.option("-o", "output", type=File(), help="PNG to write (default NAME-data.png).")
def show(config: str, overrides: tuple[str, ...], count: int | None, held_out: bool, output: Path | None) -> None:
    """Print what a data set contains and draw a sheet of examples of every class.

    \b
    Examples:
      flowgen data show audio/notes
      flowgen data show my.yaml -n 32 -o examples.png
    """
    from flowgen.config import load
    from flowgen.core.random import seed_of
    from flowgen.data.balance import balanced
    from flowgen.errors import UsageError
    from flowgen.media.interfaces import Keyed
    from flowgen.runs.experiment import Experiment
    from flowgen.training.watch import caption as caption_of

    settings = load(config, overrides).config
    experiment = Experiment(settings).complete()
    modality = experiment.modality
    dataset = experiment.dataset.validation() if held_out else experiment.dataset
    for name, value in dataset.describe().items():
        click.echo(f"{name.replace('_', ' ')}: {value}")
    for name, conditioner in experiment.conditioners.items():
        click.echo(f"condition {name}: {conditioner.describe()}")
    path = output or Path(f"{settings.name}-data.png")
    if path.suffix.lower() != ".png":
        raise UsageError(f"{path}: the sheet is a PNG; give a name that ends in .png")
    picked = balanced(dataset, count or (16 if modality.clips_per_file else 5000))
    clips = [dataset.clip(i, seed_of(settings.train.seed, "sheet", i)) for i in picked]
    modality.sheet(clips, path, [caption_of(c.conditions) for c in clips])
    if isinstance(dataset, Keyed):
        for index, clip in zip(picked, clips, strict=True):
            click.echo(f"example: {dataset.key(index)}  {caption_of(clip.conditions)}".rstrip())
    click.echo(path)


@data.command()
@click.argument("config")
@click.argument("overrides", nargs=-1)
@click.option("-o", "output", type=File(), help="CSV or JSONL to write, with a row for every file.")
@click.option("--sheet", type=File(), help="PNG of examples to write (default NAME-check.png).")
@click.option(
    "--gpus", type=click.IntRange(1, 1_000_000), default=1, show_default=True, help="Ranks to make batches for."
)
@click.option("--deep", is_flag=True, help="Decode the whole of every file.")
@click.option("-n", "shown", type=click.IntRange(0, 1_000_000), default=10, show_default=True, help="Rows to print.")
def check(
    config: str, overrides: tuple[str, ...], output: Path | None, sheet: Path | None, gpus: int, deep: bool, shown: int
) -> None:
    """Look at every file before anything trains: what is kept, cropped, padded or left out, and why.

    Lengths, rates, sizes, levels, copies, bad files, and the batches that training will make. A clip is encoded and shown to
    the network. The exit status is 1 where more files are left out than the data set allows (data.max_bad_share), and 2
    where training would refuse for another reason.

    \b
    Examples:
      flowgen data check my.yaml
      flowgen data check my.yaml --deep -o files.csv
      flowgen data check my.yaml data.buckets=4 train.batch_size=64 --gpus 8
    """
    from flowgen.config import load
    from flowgen.errors import UsageError
    from flowgen.training.inspect import inspect

    settings = load(config, overrides).config
    picture = sheet or Path(f"{settings.name}-check.png")
    if picture.suffix.lower() != ".png":
        raise UsageError(f"{picture}: the sheet is a PNG; give a name that ends in .png")
    inspect(settings, gpus, output, picture, shown, click.echo, deep)

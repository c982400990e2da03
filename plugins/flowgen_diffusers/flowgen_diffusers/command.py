"""flowgen init"""

from __future__ import annotations

from pathlib import Path

import click

from flowgen.cli.options import File, Number


@click.command()
@click.argument("model", metavar="FOLDER")
@click.option("-o", "--output", type=File(), required=True, help="The config to write; it must not exist.")
@click.option("--frames", type=click.IntRange(1, 100_000), help="Frames of a clip; by default those of the pipeline.")
@click.option("--height", type=click.IntRange(1, 100_000), help="Pixels.")
@click.option("--width", type=click.IntRange(1, 100_000), help="Pixels.")
@click.option("--fps", type=Number(min=0), help="Frames a second.")
@click.option("--seconds", type=Number(min=0), help="Of sound; by default all that the model makes.")
def init(
    model: str,
    output: Path,
    frames: int | None,
    height: int | None,
    width: int | None,
    fps: float | None,
    seconds: float | None,
) -> None:
    """Write a config that fine-tunes a pretrained model of diffusers.

    FOLDER is what save_pretrained writes (with model_index.json), or the id of a model in the hub cache. The config has the
    model's own encoder, prompts, schedule, shift and guidance. Fill in its data section.

    \b
    Examples:
      flowgen init models/LTX-Video -o my.yaml --frames 49 --height 256 --width 384
      flowgen train my.yaml data.manifest=clips.csv
    """
    from flowgen.errors import UsageError
    from flowgen.files import replacing
    from flowgen_diffusers.model import PretrainedModel
    from flowgen_diffusers.starting import fine_tuning_config, start_of

    if output.exists():
        raise UsageError(f"{output} exists; give another name")
    pretrained = PretrainedModel(model)
    start = start_of(pretrained, seconds, frames=frames, height=height, width=width, fps=fps)
    text = fine_tuning_config(pretrained, start, output.stem)
    with replacing(output) as part:
        part.write_text(text)
    click.echo(f"{output}: fine-tunes {pretrained.index['_class_name']}; fill in its data section", err=True)

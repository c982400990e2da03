"""flowgen export"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from flowgen.cli.options import File, Number


@click.command()
@click.argument("run", type=File())
@click.option("-o", "--output", type=File(), required=True, help="The folder to write; it must not exist.")
@click.option(
    "--weights", default="ema", show_default=True, help="ema, raw, or a further average of the run such as ema-0.1."
)
@click.option(
    "--ema-width",
    type=Number(min=0, max=1),
    metavar="WIDTH",
    help="An average of any relative width (0 to 0.28), combined from the train.ema.profiles in the checkpoints.",
)
@click.option("--dtype", type=click.Choice(["float32", "bfloat16", "float16"]), default="float32", show_default=True)
@click.option("--merge", is_flag=True, help="Of an adapter: its base with the corrections added.")
@click.option(
    "--layout",
    type=click.Choice(["peft", "diffusers", "kohya", "comfyui"]),
    help="Of an adapter: one file of its corrections, as this program names them.",
)
def export(
    run: Path, output: Path, weights: str, ema_width: float | None, dtype: str, merge: bool, layout: Any
) -> None:
    """Write what sampling needs of a run: config, encoder and one set of weights, as safetensors and text.

    The folder is sampled, evaluated and started from as a run is, on any machine that has the run's plugins.

    \b
    Examples:
      flowgen export runs/notes -o notes
      flowgen export runs/notes -o notes-half --dtype bfloat16
      flowgen export runs/notes -o notes-wide --ema-width 0.12
      flowgen export runs/adapted -o whole --merge
      flowgen export runs/adapted -o adapted.safetensors --layout comfyui
      flowgen sample notes -o c4.wav
      flowgen train my.yaml --init-from notes
    """
    from flowgen.errors import UsageError
    from flowgen.training.export import export as write
    from flowgen.training.export import export_adapter

    if ema_width is not None and weights != "ema":
        raise UsageError(
            "--weights takes weights as they are stored and --ema-width makes an average; give one of them"
        )
    if layout is not None:
        if merge or ema_width is not None or dtype != "float32":
            raise UsageError("--layout writes the corrections as they are; leave out --merge, --ema-width and --dtype")
        n = export_adapter(run, output, layout, weights=weights)
        click.echo(f"{output}: corrections of {n} layers as {layout} names them", err=True)
        return
    manifest = write(run, output, weights=weights, ema_width=ema_width, dtype=dtype, merge=merge)
    exported = manifest["exported"]
    size = sum(entry["bytes"] for entry in manifest["files"].values())
    click.echo(
        f"{output}: weights {exported['weights']!r} of step {manifest['step']} in {dtype}, {size / 1e6:.1f} MB",
        err=True,
    )
    if "profile_missed" in exported:
        click.echo(
            f"the checkpoints give the profile of this average but for {exported['profile_missed']:.1%}", err=True
        )

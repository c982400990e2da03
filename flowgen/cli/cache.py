"""flowgen data cache"""

from __future__ import annotations

from pathlib import Path

import click

from flowgen.cli.options import File


@click.command()
@click.argument("config")
@click.argument("overrides", nargs=-1)
@click.option("-o", "folder", type=File(), required=True, help="Folder to write, or to go on with.")
@click.option(
    "--crops",
    type=click.IntRange(1, 1000),
    help="Random crops of each clip to store (default: whole recordings, cropped in training, where the encoder allows it).",
)
@click.option("--gpus", type=click.IntRange(1, 64), default=1, show_default=True, help="Processes that encode.")
@click.option("--verify", is_flag=True, help="Read a finished cache back and encode some clips again.")
def cache(config: str, overrides: tuple[str, ...], folder: Path, crops: int | None, gpus: int, verify: bool) -> None:
    """Encode every training clip once: latents, conditions and lengths, which training then reads.

    Run it again to continue after a stop, or when the data have grown. Train on it with train.cache=FOLDER.

    \b
    Examples:
      flowgen data cache audio/fsdd -o latents
      flowgen data cache audio/fsdd -o latents --verify
      flowgen train audio/fsdd train.cache=latents
    """
    from flowgen.config import load
    from flowgen.training.caching import verify_cache, write_cache

    settings = load(config, overrides).config
    if verify:
        click.echo(verify_cache(settings, folder))
        return
    write_cache(settings, folder, crops, gpus, lambda line: click.echo(line, err=True))
    size = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    click.echo(f"{folder}: {size / 1e6:.1f} MB; train on it with train.cache={folder}")

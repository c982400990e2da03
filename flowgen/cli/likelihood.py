"""flowgen likelihood"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from flowgen.cli.options import SEED, File


@click.command()
@click.argument("run", type=File())
@click.argument("files", nargs=-1, required=True, type=File())
@click.option(
    "--cond", "-c", multiple=True, metavar="NAME=VALUE", help="A condition; without any, the unconditional model."
)
@click.option("--exact", is_flag=True, help="The exact trace: one backward pass for each dimension of a latent.")
@click.option(
    "--seed", type=SEED, default=0, show_default=True, help="Of the probe that estimates the trace otherwise."
)
@click.option(
    "--weights", type=click.Choice(["ema", "raw"]), default="ema", show_default=True, help="Averaged or last weights."
)
@click.option("--device", metavar="NAME", help="cpu, cuda, cuda:1; the first GPU where there is one.")
def likelihood(
    run: Path, files: tuple[Path, ...], cond: tuple[str, ...], exact: bool, seed: int, weights: Any, device: str | None
) -> None:
    """Log-likelihood of files under a trained model: log p of their latents, along its ODE.

    Printed for each file: log p in nats, and nats for each dimension of the latent. Clips compare within one run.

    \b
    Examples:
      flowgen likelihood runs/notes a.wav b.wav
      flowgen likelihood runs/notes c4.wav --cond pitch=C4 --exact
    """
    from flowgen.cli.asked import pairs
    from flowgen.core.tree import leaves
    from flowgen.runs.generator import Generator

    generator = Generator.load(run, weights=weights, device=device)
    clips = [generator.modality.read(path) for path in files]
    asked = {name: values[-1] for name, values in pairs(cond).items()}
    for path, clip in zip(files, clips, strict=True):
        value = float(generator.log_prob([clip], [asked], exact=exact, seed=seed)[0])
        size = sum(leaf[0].numel() for leaf in leaves(generator.encoder.encode([clip]).x))
        click.echo(f"{path}: log p = {value:.2f} nats, {value / size:.4f} a dimension ({size})")

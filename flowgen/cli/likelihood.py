"""flowgen likelihood"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from flowgen.cli.options import DEVICE, SEED, WEIGHTS, File

if TYPE_CHECKING:
    from flowgen.evaluation.likelihood import LogLikelihood


@click.command()
@click.argument("run", type=File())
@click.argument("files", nargs=-1, type=File())
@click.option("--data", is_flag=True, help="Held-out clips of the run's data set instead of files.")
@click.option("-n", "count", type=click.IntRange(1, 1_000_000), help="For --data: number of clips (default 64).")
@click.option(
    "--cond",
    "-c",
    multiple=True,
    metavar="NAME=VALUE",
    help="A condition. Default: none (the unconditional model); for --data those of each clip.",
)
@click.option("--exact", is_flag=True, help="The exact trace: one backward pass for each dimension of a latent.")
@click.option(
    "--seed",
    type=SEED,
    default=0,
    show_default=True,
    help="Of the probe that estimates the trace, and of the choice of clips.",
)
@WEIGHTS
@DEVICE
def likelihood(
    run: Path,
    files: tuple[Path, ...],
    data: bool,
    count: int | None,
    cond: tuple[str, ...],
    exact: bool,
    seed: int,
    weights: Any,
    device: str | None,
) -> None:
    """Log-likelihood of files or of held-out clips under a trained model: log p of their latents, along its ODE.

    Printed: log p in nats, and for each dimension of the latent in nats and bits; of a file of many points their mean and
    its standard error. Clips compare within one run.

    \b
    Examples:
      flowgen likelihood runs/notes a.wav b.wav
      flowgen likelihood runs/notes c4.wav --cond pitch=C4 --exact
      flowgen likelihood runs/notes --data -n 32
    """
    from flowgen.cli.asked import single
    from flowgen.data.order import full_size
    from flowgen.errors import UsageError
    from flowgen.evaluation.evaluate import draw_sets
    from flowgen.evaluation.likelihood import log_likelihoods
    from flowgen.media.interfaces import ReadsMany
    from flowgen.runs.generator import Generator

    if data == bool(files):
        raise UsageError("give FILES, or --data for the held-out clips of the run's data set")
    if count is not None and not data:
        raise UsageError("-n says how many clips of --data to take; give both, or leave out -n")
    generator = Generator.load(run, weights=weights, device=device)
    asked = single(cond, "-c")
    if not data:
        modality = generator.modality
        each = [modality.read_all(path) if isinstance(modality, ReadsMany) else [modality.read(path)] for path in files]
        clips = list(chain.from_iterable(each))
        results = iter(log_likelihoods(generator, clips, [asked] * len(clips), exact=exact, seed=seed))
        for path, own_clips in zip(files, each, strict=True):
            found = list(islice(results, len(own_clips)))
            if len(found) > 1:
                _print_mean(f"{path}: {len(found)} clips", found)
                continue
            click.echo(
                f"{path}: log p = {found[0].nats:.2f} nats, {found[0].nats_per_dim:.4f} a dimension ({found[0].dimensions}), "
                f"{found[0].bits_per_dim:.4f} bits a dimension"
            )
        return
    dataset = full_size(generator.experiment.dataset)
    clips = draw_sets(dataset, count or min(64, len(dataset.validation())), seed).real
    own = [{k: clip.conditions.get(k) for k in generator.conditioners} | asked for clip in clips]
    found = log_likelihoods(generator, clips, own, exact=exact, seed=seed)
    _print_mean(f"{len(found)} held-out clips", found)


def _print_mean(what: str, found: Sequence[LogLikelihood]) -> None:
    from flowgen.evaluation.likelihood import mean_and_error

    nats, nats_error = mean_and_error([one.nats_per_dim for one in found])
    bits, bits_error = mean_and_error([one.bits_per_dim for one in found])
    click.echo(
        f"{what}: {nats:.4f} +- {nats_error:.4f} nats a dimension, {bits:.4f} +- {bits_error:.4f} bits a "
        f"dimension ({found[0].dimensions} dimensions)"
    )

"""flowgen plan"""

from __future__ import annotations

import click

from flowgen.cli.options import Number


@click.command()
@click.argument("config")
@click.argument("overrides", nargs=-1)
@click.option(
    "--gpus", type=click.IntRange(1, 1_000_000), default=1, show_default=True, help="Ranks, over all machines."
)
@click.option("--gpu-memory", type=Number(min=0, min_open=True), metavar="GB", help="Memory of each; says what fits.")
def plan(config: str, overrides: tuple[str, ...], gpus: int, gpu_memory: float | None) -> None:
    """Tell what a training run needs of each GPU, for every ZeRO stage, before there is any.

    Nothing of the network's size is allocated. Weights, masters, moments and averages are exact. Gathered are the weights
    that ZeRO 3 has whole at a time, copies those that autocast casts; these, gradients and activations are what is held at
    the peak, without the allocator's own.

    \b
    Examples:
      flowgen plan video/moving-digits
      flowgen plan my.yaml --gpus 64 --gpu-memory 80
      flowgen plan my.yaml train.batch_size=512 --gpus 16
    """
    from flowgen.config import load
    from flowgen.training.plan import plan as make

    resolved = load(config, overrides)
    made = make(resolved.config, gpus)
    click.echo(
        f"{made.parameters:,} parameters; {made.ranks} x {made.micro} clips x {made.accumulation} accumulated = "
        f"{made.ranks * made.micro * made.accumulation} clips and {made.positions:,} latent positions in a step"
    )
    if made.remark:
        click.echo(made.remark, err=True)
    names = ("weights", "gathered", "copies", "masters", "moments", "averages", "gradients", "activations")
    head = ["ZeRO", *names, "total", "sent in a step", *(["fits"] if gpu_memory else [])]
    rows = []
    for stage, memory in made.stages.items():
        cells = [_size(getattr(memory, name)) for name in names]
        row = [str(stage), *cells, _size(memory.total), _size(made.communicated[stage])]
        rows.append([*row, *(["yes" if memory.total < gpu_memory * 1e9 else "no"] if gpu_memory else [])])
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    for row in [head, *rows]:
        click.echo("  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)))


def _size(number: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if number < 1000:
            return f"{number:.3g} {unit}"
        number /= 1000
    return f"{number:.3g} TB"

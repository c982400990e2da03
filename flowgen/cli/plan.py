"""flowgen plan"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from flowgen.cli.options import Number

if TYPE_CHECKING:
    from flowgen.config import Config
    from flowgen.training.plan import Plan

_POSITIVE = Number(min=0, min_open=True)


@click.command()
@click.argument("config")
@click.argument("overrides", nargs=-1)
@click.option("--gpus", type=click.IntRange(1, 1_000_000), default=1, show_default=True, help="Ranks on each node.")
@click.option("--nodes", type=click.IntRange(1, 1_000_000), default=1, show_default=True, help="Machines.")
@click.option("--gpu-memory", type=_POSITIVE, metavar="GB", help="Memory of each; says what fits.")
@click.option(
    "--interconnect", type=_POSITIVE, metavar="GBITS", help="Gbit/s out of each node; says how long a step takes."
)
@click.option(
    "--link", type=_POSITIVE, metavar="GBITS", default=3600.0, show_default=True, help="Gbit/s between GPUs of a node."
)
@click.option("--matrix-rate", type=_POSITIVE, metavar="TFLOPS", help="Of a GPU, measured; this machine's by default.")
@click.option("--memory-rate", type=_POSITIVE, metavar="GB/S", help="Of a GPU, measured; this machine's by default.")
@click.option(
    "--watts", type=_POSITIVE, default=700.0, show_default=True, help="Power of a GPU with its share of the node."
)
def plan(
    config: str,
    overrides: tuple[str, ...],
    gpus: int,
    nodes: int,
    gpu_memory: float | None,
    interconnect: float | None,
    link: float,
    matrix_rate: float | None,
    memory_rate: float | None,
    watts: float,
) -> None:
    """Tell what a training run needs of each GPU, for every ZeRO stage, before there is any.

    Nothing of the network's size is allocated. Weights, frozen ones, masters, moments and averages are exact. Gathered are the weights
    that ZeRO 3 has whole at a time, copies those that autocast casts; these, gradients and activations are what is held at
    the peak, without the allocator's own.

    With --interconnect (or --matrix-rate on one node) also how long a step takes and the run: its operations one by one at
    the rates of matrix products and of memory, uncompiled, and its messages at that of the slowest link. benchmarks/gpu.py
    measures the rates of a GPU. It is a lower bound: no product reaches the rate of the largest, and encoding, loading,
    previews and checkpoints are not in it.

    \b
    Examples:
      flowgen plan video/moving-digits
      flowgen plan my.yaml --gpus 64 --gpu-memory 80
      flowgen plan my.yaml train.batch_size=512 --gpus 16
      flowgen plan my.yaml --gpus 8 --nodes 16 --interconnect 400 --matrix-rate 600 --memory-rate 3000
    """
    from flowgen.config import load
    from flowgen.errors import UsageError
    from flowgen.training.forecast import Cluster
    from flowgen.training.plan import plan as make

    if nodes > 1 and interconnect is None and matrix_rate is not None:
        raise UsageError("--matrix-rate with --nodes needs --interconnect, the Gbit/s out of each node")
    resolved = load(config, overrides)
    made = make(resolved.config, gpus * nodes)
    click.echo(
        f"{made.parameters:,} parameters; {made.ranks} x {made.micro} clips x {made.accumulation} accumulated = "
        f"{made.ranks * made.micro * made.accumulation} clips and {made.positions:,} latent positions in a step"
    )
    if made.remark:
        click.echo(made.remark, err=True)
    names = ("weights", "frozen", "gathered", "copies", "masters", "moments", "averages", "gradients", "activations")
    head = ["ZeRO", *names, "total", "sent in a step", *(["fits"] if gpu_memory else [])]
    rows = []
    for stage, memory in made.stages.items():
        cells = [_size(getattr(memory, name)) for name in names]
        row = [str(stage), *cells, _size(memory.total), _size(made.communicated[stage])]
        rows.append([*row, *(["yes" if memory.total < gpu_memory * 1e9 else "no"] if gpu_memory else [])])
    _table(head, rows)
    if interconnect is not None or matrix_rate is not None:
        cluster = Cluster(nodes, gpus, link * 1e9 / 8, (interconnect or link) * 1e9 / 8, watts)
        _forecast(resolved.config, made, cluster, matrix_rate, memory_rate)


def _forecast(
    config: Config, made: Plan, cluster: object, matrix_rate: float | None, memory_rate: float | None
) -> None:
    from flowgen.training.forecast import forecasts, rates_of

    rates, where = rates_of(config, matrix_rate, memory_rate)
    click.echo(
        f"\nat {rates.matrix / 1e12:.3g} TFLOP/s of matrix products and {rates.memory / 1e9:,.0f} GB/s of memory ({where}):"
    )
    head = ["ZeRO", "step", "passes", "update", "messages", "positions/s", "run", "energy"]
    rows = []
    for stage, found in forecasts(config, made, rates, cluster).items():  # type: ignore[arg-type]
        parts = [_time(seconds) for seconds in (found.step, found.passes, found.update, found.messages)]
        speed, energy = f"{found.positions_per_second:,.0f}", f"{found.kilowatt_hours:,.3g} kWh"
        rows.append([str(stage), *parts, speed, f"{found.days:.3g} days", energy])
    _table(head, rows)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    for row in [head, *rows]:
        click.echo("  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)))


def _time(seconds: float) -> str:
    return f"{seconds:.3g} s" if seconds >= 1 else f"{seconds * 1e3:.3g} ms"


def _size(number: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if number < 1000:
            return f"{number:.3g} {unit}"
        number /= 1000
    return f"{number:.3g} TB"

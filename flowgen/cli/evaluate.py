"""flowgen eval"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from flowgen.cli.options import SEED, File, Number, check_writable, sampling_options, sampling_overrides

if TYPE_CHECKING:
    from flowgen.evaluation import Evaluation


@click.command(name="eval")
@click.argument("run", type=File())
@click.option(
    "-n", "count", type=click.IntRange(1, 1_000_000), help="Clips in each set (default: the config's eval.clips)."
)
@click.option(
    "--metric", "metrics", multiple=True, metavar="NAME", help="A metric instead of the config's; repeat for more."
)
@click.option(
    "--continue",
    "continued",
    type=Number(min=0, max=1e7, min_open=True),
    metavar="SECONDS",
    help="Give the beginning of each real clip, and measure its continuations.",
)
@sampling_options
@click.option("--seed", type=SEED, help="Of the samples and of which real clips are taken (default: eval.seed).")
@click.option(
    "-o",
    "output",
    type=File(),
    help="JSON to write (default RUN/eval.json, or eval-continue.json).",
)
def evaluate(
    run: Path,
    count: int | None,
    metrics: tuple[str, ...],
    continued: float | None,
    weights: Any,
    seed: int | None,
    output: Path | None,
    **rest: Any,
) -> None:
    """Measure what a trained run generates, beside real clips.

    Three sets of equally many clips are measured alike: generated ones, with the conditions of held-out real clips; these
    real clips encoded and decoded again, which is the best that a generator behind this encoder could do; and the real
    clips themselves.

    \b
    Examples:
      flowgen eval runs/notes
      flowgen eval runs/notes -n 200 --steps 8 --solver heun -o heun8.json
      flowgen eval runs/checkerboard --metric checkerboard --weights raw
      flowgen eval runs/moving-digits --continue 0.5
    """
    from rich.console import Console

    from flowgen.data.order import full_size
    from flowgen.errors import UsageError
    from flowgen.evaluation import evaluate as measure
    from flowgen.evaluation import save
    from flowgen.runs.generator import Generator
    from flowgen.training.progress import ProgressDisplay

    if output is not None and output.suffix.lower() != ".json":
        raise UsageError(f"{output}: the figures are written as JSON; give a name that ends in .json")
    path = output or run / ("eval.json" if continued is None else "eval-continue.json")
    check_writable(path)
    overrides = sampling_overrides(run, rest)
    overrides += [f"eval.clips={count}"] if count is not None else []
    overrides += [f"eval.seed={seed}"] if seed is not None else []
    overrides += [f"eval.metrics=[{', '.join(metrics)}]"] if metrics else []
    generator = Generator.load(run, weights=weights, device=rest["device"], overrides=overrides)
    dataset, metrics_built = full_size(generator.experiment.dataset), generator.experiment.metrics
    sample = generator.config.sample
    total = -(-generator.config.eval.clips // sample.batch_size) * sample.steps
    with ProgressDisplay(f"eval {generator.config.name}", total, console=Console(stderr=True)) as bar:
        result = measure(
            generator,
            dataset,
            metrics_built,
            weights=weights,
            continued=continued,
            on_step=lambda done, total: bar.update(done),
        )
    save(result, path)
    print_table(result, Console())
    click.echo(path)


def print_table(result: Evaluation, console: Any) -> None:
    """The figures, three columns beside each other; plain text where there is no terminal."""
    from rich import box
    from rich.table import Table

    from flowgen.evaluation import figure

    s = result.settings
    table = Table(box=box.SIMPLE_HEAD if console.is_terminal else box.ASCII2, title_justify="left")
    table.add_column("figure")
    for column in ("generated", "round trip", "real"):
        table.add_column(column, justify="right")
    for row in result.rows:
        table.add_row(f"{row.metric}: {row.name}", *(figure(v) for v in (row.generated, row.round_trip, row.real)))
    guidance = f", guidance {s['guidance']['type']}" if s["guidance"] else ""
    scale = f" {s['guidance']['scale']:g}" if s["guidance"] and "scale" in s["guidance"] else ""
    continued = f", {s['continued_s']:g} s of them given" if s.get("continued_s") else ""
    console.print(
        f"{s['name']} at step {s['step']}: {s['clips']} clips in each column{continued}, {s['steps']} steps of {s['solver']['type']}"
        f"{guidance}{scale}, {s['evaluations_per_clip']:g} evaluations and {s['seconds_per_clip']:.3g} s a clip; "
        f"reference: {s['reference']}",
        highlight=False,
        soft_wrap=True,
    )
    console.print(table)

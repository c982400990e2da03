"""flowgen eval"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from flowgen.cli.options import SEED, File, Number, check_writable, sampling_options, sampling_overrides

if TYPE_CHECKING:
    from flowgen.evaluation import Evaluation

_WIDE = 130
"""Characters that the controls take with their intervals; output into a file is as wide."""


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
@click.option(
    "--given",
    multiple=True,
    metavar="STREAM",
    help="Give this stream of each real clip, and measure what is made to it; repeat for more.",
)
@click.option(
    "--controls",
    is_flag=True,
    help="Measure negative controls, too, and say which figures tell them from real clips.",
)
@click.option(
    "--straightness",
    "straight",
    is_flag=True,
    help="Measure how straight the trajectories are, too: 0 is a line, which one step follows.",
)
@sampling_options
@click.option("--seed", type=SEED, help="Of the samples and of which real clips are taken (default: eval.seed).")
@click.option(
    "-o",
    "output",
    type=File(),
    help="JSON to write (default RUN/eval.json, eval-continue.json, or eval-given-STREAM.json).",
)
def evaluate(
    run: Path,
    count: int | None,
    metrics: tuple[str, ...],
    continued: float | None,
    given: tuple[str, ...],
    controls: bool,
    straight: bool,
    weights: Any,
    seed: int | None,
    output: Path | None,
    **rest: Any,
) -> None:
    """Measure what a trained run generates, beside real clips.

    Three sets of equally many clips are measured alike: generated ones, with the conditions of held-out real clips; these
    real clips encoded and decoded again, which is the best that a generator behind this encoder could do; and the real
    clips themselves. The ranges are 95 % intervals, by resampling the clips.

    Of an autoencoder, real clips that it gives back are measured, beside a linear code of equal size.

    A figure that negative controls pass proves nothing. With --controls these are measured as well: one Euler step (the mean
    of what is asked for), copies of training clips, one real clip repeated for each condition, noise, and the round trip.
    A control is told from real clips by a figure that is worse and whose interval does not meet that of real clips.

    \b
    Examples:
      flowgen eval runs/notes
      flowgen eval runs/notes -n 200 --steps 8 --solver heun -o heun8.json
      flowgen eval runs/checkerboard --metric checkerboard --weights raw
      flowgen eval runs/moving-digits --continue 0.5
      flowgen eval runs/bouncing-sounds --given picture
      flowgen eval runs/notes --controls
    """
    from rich.console import Console

    from flowgen.data.order import full_size
    from flowgen.errors import UsageError
    from flowgen.evaluation import evaluate as measure
    from flowgen.evaluation import evaluate_autoencoder, save
    from flowgen.runs.generator import Generator
    from flowgen.training.progress import ProgressDisplay

    if output is not None and output.suffix.lower() != ".json":
        raise UsageError(f"{output}: the figures are written as JSON; give a name that ends in .json")
    if controls + bool(given) + (continued is not None) > 1:
        raise UsageError("give one of --controls (whole clips), --continue and --given")
    kind = "" if continued is None else "-continue"
    path = output or run / f"eval{'-'.join([kind, *(['given', *given] if given else [])])}.json"
    check_writable(path)
    overrides = sampling_overrides(run, rest)
    overrides += [f"eval.clips={count}"] if count is not None else []
    overrides += [f"eval.seed={seed}"] if seed is not None else []
    overrides += [f"eval.metrics=[{', '.join(metrics)}]"] if metrics else []
    generator = Generator.load(run, weights=weights, device=rest["device"], overrides=overrides)
    dataset, metrics_built = full_size(generator.experiment.dataset), generator.experiment.metrics
    if generator.experiment.reconstructs:
        if controls or given or straight or continued is not None:
            raise UsageError(
                f"{run} is an autoencoder, which generates nothing; leave out --controls, --continue, --given and "
                "--straightness"
            )
        result = evaluate_autoencoder(generator, dataset, metrics_built, weights=weights)
        save(result, path)
        print_reconstruction(result, _console())
        click.echo(path)
        return
    sample = generator.config.sample
    total = -(-generator.config.eval.clips // sample.batch_size) * sample.steps
    with ProgressDisplay(f"eval {generator.config.name}", total, console=Console(stderr=True)) as bar:
        result = measure(
            generator,
            dataset,
            metrics_built,
            weights=weights,
            continued=continued,
            given=given,
            controls=controls,
            straight=straight,
            on_step=lambda done, total: bar.update(done),
        )
    save(result, path)
    console = _console()
    print_table(result, console)
    if controls:
        print_controls(result, console)
    click.echo(path)


def _console() -> Any:
    """As wide as the controls, where there is no terminal."""
    from rich.console import Console

    console = Console()
    if not console.is_terminal:
        console.width = _WIDE
    return console


def print_reconstruction(result: Evaluation, console: Any) -> None:
    """What an autoencoder gives back, beside a linear code of equal size and the clips themselves."""
    from flowgen.evaluation.reconstruction import COLUMNS

    s = result.settings
    console.print(
        f"{s['name']} at step {s['step']}: {s['clips']} clips given back from {s['numbers_per_step']} numbers a step; "
        f"linear code: as many principal components; reference: {s['reference']}",
        highlight=False,
        soft_wrap=True,
    )
    console.print(_table(result, COLUMNS, console))


def _guidance(rule: dict[str, Any]) -> str:
    """A guidance by its type and its scale, or that of each stream."""
    scale = rule.get("scale")
    if isinstance(scale, dict):
        return f"{rule['type']} {', '.join(f'{name} {own:g}' for name, own in scale.items())}"
    return rule["type"] if scale is None else f"{rule['type']} {scale:g}"


def print_table(result: Evaluation, console: Any) -> None:
    """The figures and their intervals, three columns beside each other; plain text where there is no terminal."""
    from flowgen.evaluation.rows import COLUMNS

    s = result.settings
    rules = s["guidance"] if isinstance(s["guidance"], list) else [s["guidance"]] if s["guidance"] else []
    guidance = f", guidance {', then '.join(map(_guidance, rules))}" if rules else ""
    continued = f", {s['continued_s']:g} s of them given" if s.get("continued_s") else ""
    if s.get("given"):
        continued = f", their {' and '.join(s['given'])} given"
    fewer = f" (there are no more; asked for {s['clips_asked']})" if s["clips"] < s["clips_asked"] else ""
    console.print(
        f"{s['name']} at step {s['step']}: {s['clips']} clips in each column{fewer}{continued}, {s['steps']} steps of {s['solver']['type']}"
        f"{guidance}, {s['evaluations_per_clip']:g} evaluations and {s['seconds_per_clip']:.3g} s a clip; "
        f"reference: {s['reference']}",
        highlight=False,
        soft_wrap=True,
    )
    console.print(_table(result, COLUMNS, console))
    for row in result.rows:
        if row.void:
            console.print(f"void: {row.metric}: {row.name} ({row.void})", highlight=False, soft_wrap=True)


def print_controls(result: Evaluation, console: Any) -> None:
    """The negative controls beside real clips, and what tells each from them."""
    from flowgen.evaluation.controls import CONTROLS

    told = result.controls
    console.print("Negative controls (* worse than real clips by more than the sampling error):", highlight=False)
    console.print(_table(result, ("real", *told), console))
    for control, figures in told.items():
        found = f"told apart by {', '.join(figures)}" if figures else "PASSES: no figure tells it from real clips"
        name = control.replace("_", " ")
        console.print(f"{name} ({CONTROLS[control]}): {found}", highlight=False, soft_wrap=True)
    for control, reason in result.settings["controls_missing"].items():
        console.print(f"{control.replace('_', ' ')}: not made; {reason}", highlight=False, soft_wrap=True)


def _table(result: Evaluation, columns: Sequence[str], console: Any) -> Any:
    """A line a figure under the name of its metric. Intervals of many columns have lines of their own, where there is room."""
    from rich import box
    from rich.table import Table

    from flowgen.evaluation import figure

    spreads = len(columns) <= 3 or console.width >= _WIDE
    frame = box.SIMPLE_HEAD if console.is_terminal else box.ASCII2
    table = Table(box=frame, padding=(0, 1) if spreads else 0)
    table.add_column("figure", no_wrap=True)
    for column in columns:
        table.add_column(column.replace("_", " "), justify="right")
    between = " " if len(columns) <= 3 else "\n"
    metric = ""
    for row in result.rows:
        if row.metric != metric:
            metric = row.metric
            table.add_row(metric)
        cells = []
        for column in columns:
            value, interval = row.value(column), row.intervals.get(column)
            star = "*" if column != "real" and row.fails(column) else ""
            spread = (
                "" if interval is None or not spreads else f"{between}[{figure(interval[0])}, {figure(interval[1])}]"
            )
            cells.append(f"{figure(value)}{star}{spread}")
        table.add_row(f"  {row.name}{' (void)' if row.void else ''}", *cells)
    return table

"""flowgen report"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from flowgen.cli.options import SEED, File, check_writable

if TYPE_CHECKING:
    from flowgen.training.progress import ProgressDisplay


@click.command()
@click.argument("runs", nargs=-1, required=True, type=File(), metavar="RUN...")
@click.option(
    "-n", "count", type=click.IntRange(1, 1_000_000), default=12, show_default=True, help="Clips of each run to show."
)
@click.option("--seed", type=SEED, default=0, show_default=True, help="The same seed gives the same clips.")
@click.option("-o", "output", type=File(), help="Page to write (default: report.html in the run).")
def report(runs: tuple[Path, ...], count: int, seed: int, output: Path | None) -> None:
    """Write a page to look at and listen to: clips of runs with what was asked and what came out, loss curves, figures.

    The figures are those of RUN/eval.json, where `flowgen eval RUN` has written it.

    \b
    Examples:
      flowgen report runs/notes
      flowgen report runs/notes runs/moving-digits -n 24 -o both.html
    """
    from rich.console import Console

    from flowgen.errors import UsageError
    from flowgen.report import section, write_report
    from flowgen.runs.run import Run
    from flowgen.training.progress import ProgressDisplay as Bar

    if output is None and len(runs) > 1:
        raise UsageError("several runs make one page; say where, as in -o report.html")
    path = output or runs[0] / "report.html"
    if path.suffix.lower() not in (".html", ".htm"):
        raise UsageError(f"{path}: the report is a web page; give a name that ends in .html")
    for run in runs:
        Run(run).newest_checkpoint()
    check_writable(path)
    sections = []
    for i, run in enumerate(runs):
        media = path.parent / f"{path.stem}_files" / (run.name if len(runs) == 1 else f"{i}-{run.name}")
        sample = Run(run).config().sample
        total = -(-count // sample.batch_size) * sample.steps
        with Bar(f"sample {run.name}", total, console=Console(stderr=True)) as bar:
            sections.append(section(Run(run), media, clips=count, seed=seed, on_step=partial(_show, bar)))
    click.echo(write_report(path, sections, "flowgen: " + ", ".join(s.name for s in sections)))


def _show(bar: ProgressDisplay, done: int, total: int) -> None:
    bar.update(done)

"""flowgen demo"""

from __future__ import annotations

import os
import shutil
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from flowgen.cli.options import File

if TYPE_CHECKING:
    from flowgen.cli.jobs import Job
    from flowgen.config import Config
    from flowgen.report import Section

RECIPES = {"audio": "demo/audio", "video": "demo/video"}
JOINT = {"joint": "av/bouncing-sounds"}
_QUICK = (
    "train.steps=20",
    "train.batch_size=8",
    "train.log_every=5",
    "train.schedule.warmup=5",
    "train.validation.every=10",
    "train.validation.clips=4",
    "train.preview.every=0",
    "sample.steps=4",
    "eval.clips=8",
)


@click.command()
@click.option("--out", type=File(), help="Folder (default runs/demo; runs/demo-quick with --quick).")
@click.option("--joint", is_flag=True, help="Train the recipe av/bouncing-sounds, too: sound with picture.")
@click.option("--quick", is_flag=True, help="A few steps of everything, to see that it works.")
def demo(out: Path | None, joint: bool, quick: bool) -> None:
    """Train a small audio and a small video generator, sample from both, measure them, and write a report to open.

    Nothing is downloaded. What is finished is not done again, and what was interrupted goes on where it stood.

    \b
    Examples:
      flowgen demo
      flowgen demo --joint
      flowgen demo --quick --out /tmp/demo
    """
    from rich.console import Console

    from flowgen.cli.jobs import run_jobs
    from flowgen.cli.options import check_writable
    from flowgen.config import load
    from flowgen.errors import UsageError

    began = time.monotonic()
    folder = out or Path("runs/demo-quick" if quick else "runs/demo")
    overrides = _QUICK if quick else ()
    path = folder / "report.html"
    check_writable(path)
    console = Console(stderr=True)
    recipes = RECIPES | (JOINT if joint else {})
    configs = {name: load(recipe, (*overrides, f"run={folder / name}")).config for name, recipe in recipes.items()}
    for config in configs.values():
        try:
            _refuse_other(config)
        except UsageError as error:
            raise UsageError(
                f"{error}\nor remove {config.run} to train the demo again, or give another folder with --out"
            ) from None
    jobs = [_job(name, recipes[name], config, overrides) for name, config in configs.items()]
    console.print(
        f"Training {', '.join(configs)} generators into {folder}; Ctrl-C stops, and the same command goes on.",
        highlight=False,
        soft_wrap=True,
    )
    try:
        run_jobs(jobs, console, {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS") or str(_threads(len(jobs)))})
    except KeyboardInterrupt:
        console.print(
            f"stopped; go on with: {_program()} demo{f' --out {out}' if out else ''}"
            f"{' --joint' if joint else ''}{' --quick' if quick else ''}"
        )
        sys.exit(130)
    sections = _sections(configs, recipes)
    from flowgen.report import write_report

    write_report(path, sections, "What flowgen learned in a few minutes")
    _print_summary(path, sections, jobs, time.monotonic() - began, console)


def _job(name: str, recipe: str, config: Config, overrides: tuple[str, ...]) -> Job:
    """Training where it is not finished, and measuring where the figures are not of these weights."""
    from flowgen.cli.jobs import Job, Stage
    from flowgen.runs.run import Run

    folder = Path(str(config.run))
    run = Run(folder)
    stages = []
    step = run.newest_checkpoint().step if run.checkpoints() else 0
    flowgen = [sys.executable, "-m", "flowgen"]
    if step < config.train.steps:
        command = [*flowgen, "train", recipe, *overrides, f"run={folder}", "--resume", "--quiet"]
        stages.append(Stage("training", command, config.train.steps, lambda: _progress(folder, step)))
    if stages or not _measured(folder / "eval.json", config):
        stages.append(Stage("measuring", [*flowgen, "eval", str(folder)]))
    if stages or not (folder / "report.html").is_file():
        # a report of its own, whose clips the common one shows
        stages.append(Stage("sampling", [*flowgen, "report", str(folder)]))
    return Job(name, stages, folder.with_suffix(".log"))


def _refuse_other(config: Config) -> None:
    """UsageError: the folder holds a run of another config."""
    from flowgen.runs.experiment import Experiment
    from flowgen.runs.run import Run
    from flowgen.training.prepare import refuse_changes

    run = Run(Path(str(config.run)))
    if run.checkpoints():
        refuse_changes(run, Experiment(config).complete().config)


def _progress(folder: Path, start: int) -> tuple[int, str]:
    """The last line of the run's log: its step and loss."""
    from flowgen.training.loggers import read_log

    entry = (read_log(folder) or [{}])[-1]
    return max(int(entry.get("step", start)), start), f"loss {entry['loss']:.3f}" if "loss" in entry else ""


def _measured(path: Path, config: Config) -> bool:
    from flowgen.evaluation import load
    from flowgen.runs.run import Run

    if not path.is_file():
        return False
    settings = load(path).settings
    step = Run(path.parent).newest_checkpoint().step
    return settings.get("step") == step and settings.get("clips") == config.eval.clips


def _threads(jobs: int) -> int:
    """Processors for each job: two that fight over one are slower than one after the other."""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cpus // jobs)


def _sections(configs: dict[str, Config], recipes: dict[str, str]) -> list[Section]:
    from flowgen.report import section
    from flowgen.runs.run import Run

    sections = []
    for name, config in configs.items():
        run = Run(Path(str(config.run)))
        media = run.folder / "report_files" / run.folder.name
        sections.append(section(run, media, name=name, config=recipes[name], program=_program()))
    return sections


def _print_summary(path: Path, sections: list[Section], jobs: list[Job], seconds: float, console: Any) -> None:
    from rich.table import Table

    from flowgen.evaluation import figure

    table = Table(box=None, pad_edge=False)
    for heading in ("", "generated", "round trip", "real"):
        table.add_column(heading, justify="right" if heading else "left")
    for section in sections:
        for row in section.evaluation.rows if section.evaluation else ():
            table.add_row(
                f"{section.name}: {row.metric}: {row.name}", *map(figure, (row.generated, row.round_trip, row.real))
            )
    console.print(table)
    spent = ", ".join(f"{job.name} {stage} {_clock(s)}" for job in jobs for stage, s in job.seconds.items())
    console.print(f"done in {_clock(seconds)}{f' ({spent})' if spent else ''}", highlight=False, soft_wrap=True)
    console.print("\nTrain and sample again by hand:", highlight=False)
    for section in sections:
        for command in section.commands:
            console.print(f"  {command}", highlight=False, soft_wrap=True, markup=False)
    console.print("\n[bold]Open the report:[/bold]", highlight=False)
    click.echo(path)


def _program() -> str:
    """flowgen as a person can call it here."""
    if shutil.which("flowgen"):
        return "flowgen"
    own = Path(sys.argv[0])
    return os.path.relpath(own) if own.name == "flowgen" else f"{sys.executable} -m flowgen"


def _clock(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"

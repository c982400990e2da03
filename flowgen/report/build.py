"""From a run folder to its section of the report."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from pathlib import Path

from flowgen.core.interfaces import Paths
from flowgen.core.tree import leaves
from flowgen.evaluation import load
from flowgen.report.curves import loss_chart
from flowgen.report.page import Section
from flowgen.report.showcase import Showcase, make_showcase
from flowgen.runs.experiment import Experiment
from flowgen.runs.run import Run
from flowgen.training.loggers import read_log


def section(
    run: Run,
    media: Path,
    *,
    name: str = "",
    config: str = "",
    program: str = "flowgen",
    clips: int = 12,
    seed: int = 0,
    overrides: Sequence[str] = (),
    on_step: Callable[[int, int], None] | None = None,
) -> Section:
    """A run on the page: clips written into `media`, its log, and eval.json where there is one.

    Args:
        config: what to train such a run from, in the command shown; the run's own config by default.
        program: how flowgen is called there.
    """
    showcase = make_showcase(run, media, clips=clips, seed=seed, overrides=overrides, on_step=on_step)
    own = run.config(overrides)
    evaluated = run.folder / "eval.json"
    experiment = Experiment(own)
    step = run.newest_checkpoint().step
    train = own.train
    data = experiment.dataset.describe()
    facts = {
        "data": f"{own.data.type}: " + "; ".join(f"{k.replace('_', ' ')} {v}" for k, v in data.items()),
        "encoder": own.encoder.type,
        "network": f"{own.network.type}, {sum(p.numel() for p in experiment.network.parameters()):,} parameters",
        "training": f"{step:,} steps of {train.batch_size} clips, {own.loss.type} on the {_paths(experiment.loss.path)} path",
        "run": str(run.folder),
    }
    return Section(
        name=name or own.name,
        config=own,
        showcase=showcase,
        chart=loss_chart(read_log(run.folder)),
        evaluation=load(evaluated) if evaluated.is_file() else None,
        facts=facts,
        commands=commands(program, config or str(run.folder / "config.yaml"), run, showcase),
    )


def _paths(paths: Paths) -> str:
    """The names of the paths of a loss, which may set its own."""
    return ", ".join(sorted({type(path).__name__.lower() for path in leaves(paths)}))


def commands(program: str, config: str, run: Run, showcase: Showcase) -> tuple[str, str]:
    """The two commands that train such a run and sample from it by hand."""
    first = showcase.generated[0]
    conditions = [part for name, value in first.asked.items() for part in ("-c", f"{name}={value}")]
    output = f"{run.folder.name}{Path(first.file).suffix}"
    return (
        f"{program} train {shlex.join([config, f'run=runs/my-{run.folder.name}'])}",
        f"{program} sample {shlex.join([str(run.folder), *conditions, '-o', output])}",
    )

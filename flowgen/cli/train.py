"""flowgen train"""

from __future__ import annotations

import os
import sys

import click


@click.command()
@click.argument("config")
@click.argument("overrides", nargs=-1)
@click.option("--resume", is_flag=True, help="Continue the run exactly where its newest checkpoint stands.")
@click.option(
    "--init-from",
    metavar="RUN",
    help="Start a new run from the averaged weights of a run or an export. Classes are mapped by name.",
)
@click.option(
    "--allow",
    multiple=True,
    metavar="PATTERN",
    help="Weights that --init-from may find missing, unexpected or of another shape, or 'encoder': measure its statistics "
    "on the new data; with --resume, 'data' that changed.",
)
@click.option(
    "--gpus", type=click.IntRange(1, 1_000_000), metavar="N", help="Train as N ranks on this machine (of each node)."
)
@click.option(
    "--nodes", type=click.IntRange(1, 1_000_000), default=1, show_default=True, help="Machines; run this on each."
)
@click.option(
    "--node-rank",
    type=click.IntRange(0, 1_000_000),
    default=0,
    show_default=True,
    help="Which of the machines this is.",
)
@click.option("--master", default="", metavar="HOST:PORT", help="Where the machines meet: an address of node 0.")
@click.option("--dry-run", is_flag=True, help="Check the config, print what would be run on which host, and stop.")
@click.option("--quiet", is_flag=True, help="Do not print the resolved config.")
def train(
    config: str,
    overrides: tuple[str, ...],
    resume: bool,
    init_from: str | None,
    allow: tuple[str, ...],
    gpus: int | None,
    nodes: int,
    node_rank: int,
    master: str,
    dry_run: bool,
    quiet: bool,
) -> None:
    """Train a generator.

    CONFIG is a YAML file, the name of a recipe (see: flowgen config list), or a run folder. OVERRIDES are key=value, as
    in train.steps=2000. Ctrl-C finishes the step, saves, and says how to go on.

    \b
    Examples:
      flowgen train points/checkerboard
      flowgen train audio/notes run=runs/loud train.batch_size=64
      flowgen train runs/notes --resume
      flowgen train my.yaml --init-from runs/notes --allow 'conditions.*'
      flowgen train video/moving-digits --gpus 8
      flowgen train video/moving-digits --gpus 8 --nodes 2 --node-rank 1 --master gpu01:29500
      torchrun --nproc-per-node 2 -m flowgen train video/moving-digits
    """
    from flowgen.environment import end_with_launcher

    end_with_launcher()
    from rich.console import Console

    from flowgen.config import load
    from flowgen.errors import UsageError

    if resume and init_from:
        raise UsageError("--resume continues a run and --init-from starts a new one; give one of them")
    if allow and not init_from and not (resume and allow == ("data",)):
        raise UsageError(
            "--allow says what --init-from may let differ, or with --resume: data; give it with one of them"
        )
    if nodes > 1 and gpus is None:
        raise UsageError("--nodes needs --gpus, the number of ranks on each")
    resolved = load(config, overrides)
    if resume and config.rstrip("/") and os.path.isdir(config):
        resolved = load(config, (*overrides, f"run={config.rstrip('/')}"))
    console = Console(stderr=True)
    if not quiet and os.environ.get("RANK", "0") == "0" and "SLURM_PROCID" not in os.environ:
        for key, value, source in resolved.rows():
            if source != "default":
                console.print(f"  {key} = {value}", style="dim", highlight=False, soft_wrap=True, markup=False)
    if gpus is not None or dry_run:
        _launch(resolved, gpus or 1, nodes, node_rank, master, dry_run, console)
        return
    from flowgen.training.engine import end_rank
    from flowgen.training.trainer import train as run

    run(resolved, resume=resume, init_from=init_from, allow=allow, console=console)
    end_rank()


def _launch(
    resolved: object, gpus: int, nodes: int, node_rank: int, master: str, dry_run: bool, console: object
) -> None:
    """Start the ranks with the command line of this process, less what is said of launching."""
    from flowgen.config import Resolved
    from flowgen.runs.experiment import Experiment
    from flowgen.training.deepspeed_config import deepspeed_config
    from flowgen.training.ending import leave
    from flowgen.training.launch import Launch, launch

    assert isinstance(resolved, Resolved)
    deepspeed_config(resolved.config, gpus * nodes)  # what does not divide or contradicts is said here, once
    plan = Launch(gpus, nodes, node_rank, master)
    command = _without_launching(sys.argv[1:])
    if dry_run:
        Experiment(resolved.config).check_loss()
        for line in plan.plan(command):
            click.echo(line)
        return
    launch(plan, [*command, "--quiet"], timeout_s=resolved.config.train.timeout_s)
    leave()


def _without_launching(arguments: list[str]) -> list[str]:
    kept, skip = [], False
    for argument in arguments:
        if skip:
            skip = False
        elif argument in ("--gpus", "--nodes", "--node-rank", "--master"):
            skip = True
        elif argument not in ("--dry-run", "--quiet") and not argument.startswith(
            ("--gpus=", "--nodes=", "--node-rank=", "--master=")
        ):
            kept.append(argument)
    return kept

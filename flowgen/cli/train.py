"""flowgen train"""

from __future__ import annotations

import os

import click


@click.command()
@click.argument("config")
@click.argument("overrides", nargs=-1)
@click.option("--resume", is_flag=True, help="Continue the run exactly where its newest checkpoint stands.")
@click.option("--init-from", metavar="RUN", help="Start a new run from the averaged weights of another.")
@click.option("--quiet", is_flag=True, help="Do not print the resolved config.")
def train(config: str, overrides: tuple[str, ...], resume: bool, init_from: str | None, quiet: bool) -> None:
    """Train a generator.

    CONFIG is a YAML file, the name of a recipe (see: flowgen config list), or a run folder. OVERRIDES are key=value, as
    in train.steps=2000. Ctrl-C finishes the step, saves, and says how to go on.

    \b
    Examples:
      flowgen train points/checkerboard
      flowgen train audio/notes run=runs/loud train.batch_size=64
      flowgen train runs/notes --resume
      flowgen train my.yaml --init-from runs/notes
      torchrun --nproc-per-node 2 -m flowgen train video/moving-digits
    """
    from rich.console import Console

    from flowgen.config import load
    from flowgen.errors import UsageError

    if resume and init_from:
        raise UsageError("--resume continues a run and --init-from starts a new one; give one of them")
    resolved = load(config, overrides)
    if resume and config.rstrip("/") and os.path.isdir(config):
        resolved = load(config, (*overrides, f"run={config.rstrip('/')}"))
    console = Console(stderr=True)
    if not quiet and os.environ.get("RANK", "0") == "0":
        for key, value, source in resolved.rows():
            if source != "default":
                console.print(f"  {key} = {value}", style="dim", highlight=False, soft_wrap=True, markup=False)
    from flowgen.training.trainer import train as run

    run(resolved, resume=resume, init_from=init_from, console=console)

"""flowgen distill-solver"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import click

from flowgen.cli.options import DEVICE, SEED, WEIGHTS, File, Number


@click.command("distill-solver")
@click.argument("run", type=File())
@click.option("--steps", type=click.IntRange(2, 64), default=4, show_default=True, help="Evaluations of the solver.")
@click.option("--name", metavar="NAME", help="Its name (default: learned-STEPS).")
@click.option(
    "--clips",
    type=click.IntRange(4, 1_000_000),
    default=64,
    show_default=True,
    help="Noises to solve: half are fitted, a quarter decides, a quarter is for the report.",
)
@click.option(
    "--minutes", type=Number(min=0, min_open=True), default=3.0, show_default=True, help="How long it may take."
)
@click.option("--seed", type=SEED, default=0, show_default=True, help="Of the noise and the choice of conditions.")
@click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="KEY=VALUE",
    help="Any key of the 'sample' section, as in guidance=null; sample with the same.",
)
@WEIGHTS
@DEVICE
def distill_solver(
    run: Path,
    steps: int,
    name: str | None,
    clips: int,
    minutes: float,
    seed: int,
    settings: tuple[str, ...],
    weights: Any,
    device: str | None,
) -> None:
    """Fit a solver of a few steps to a trained run: its times and weights, with the network as it is.

    Written: RUN/solvers/NAME.json, which 'flowgen sample RUN --solver NAME' takes. It belongs to these weights, this guidance
    and this number of steps, and is refused for others. Printed: the distance to the result of 64 steps on other noise, beside
    that of the best fixed solver at as many evaluations.

    \b
    Examples:
      flowgen distill-solver runs/notes --steps 4
      flowgen sample runs/notes --solver learned-4 -c pitch=C4 -o c4.wav
      flowgen distill-solver runs/notes --steps 4 --set guidance=null --name plain-4
    """
    from flowgen.runs.distill_solver import distill_solver as fit
    from flowgen.runs.generator import Generator
    from flowgen.runs.learned import check_name

    name = name or f"learned-{steps}"
    check_name(name)
    began = time.monotonic()
    generator = Generator.load(run, weights=weights, device=device, overrides=[f"sample.{one}" for one in settings])

    def tell(text: str) -> None:
        click.echo(f"{time.monotonic() - began:.0f} s: {text}", err=True)

    learned, report = fit(generator, steps, clips=clips, seconds=60 * minutes, seed=seed, on_progress=tell)
    path = learned.write(run, name, {"step": generator.step, "weights_kind": weights, "report": report.as_json()})
    click.echo(
        f"{path}: distance to {report.target_steps} steps {report.learned:.4g}, {report.ratio:.2f} of {report.fixed:.4g} "
        f"({report.best_fixed}, {steps} evaluations), on {report.clips} clips of other noise"
    )

"""Options that several commands share: how to sample."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

_Command = TypeVar("_Command", bound=Callable[..., Any])

_SAMPLING = (
    click.option("--steps", type=click.IntRange(min=1), help="Solver steps."),
    click.option("--solver", metavar="NAME", help="A solver (see: flowgen plugins list --kind solver)."),
    click.option("--guidance", type=float, metavar="SCALE", help="Guidance scale; 1 is none."),
    click.option(
        "--set",
        "settings",
        multiple=True,
        metavar="KEY=VALUE",
        help="Any key of the 'sample' section, as in guidance.start=0.2.",
    ),
    click.option(
        "--weights",
        type=click.Choice(["ema", "raw"]),
        default="ema",
        show_default=True,
        help="Averaged or last weights.",
    ),
    click.option("--device", metavar="NAME", help="cpu, cuda, cuda:1; the first GPU where there is one."),
)


def sampling_options(command: _Command) -> _Command:
    """Add --steps, --solver, --guidance, --set, --weights and --device."""
    for option in reversed(_SAMPLING):
        command = option(command)
    return command


def sampling_overrides(run: Path, options: dict[str, Any]) -> list[str]:
    """These options as overrides of the run's `sample` section, so that they are checked as a config is."""
    from flowgen.runs.run import Run

    found = []
    if options["steps"] is not None:
        found.append(f"sample.steps={options['steps']}")
    if options["solver"] is not None:
        found.append(f"sample.solver={options['solver']}")
    if options["guidance"] is not None:
        own = Run(run).config().sample.guidance
        scale = options["guidance"]
        found.append(f"sample.guidance.scale={scale}" if own else f"sample.guidance={{type: cfg, scale: {scale}}}")
    return found + [f"sample.{setting}" for setting in options["settings"]]


def check_writable(path: Path) -> None:
    """Refuse a place that cannot be written before any work is done for it. FlowgenError names it."""
    from flowgen.files import errors_named

    with errors_named(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        probe = path.parent / f".{path.name}.probe"
        probe.touch()
        probe.unlink()

"""Options that several commands share: how to sample, and types of values that refuse what no command can use."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

_Command = TypeVar("_Command", bound=Callable[..., Any])


class Number(click.FloatRange):
    """A finite number in a range, at most 1e12 where no other end is given."""

    def __init__(
        self, min: float | None = None, max: float = 1e12, min_open: bool = False, max_open: bool = False
    ) -> None:
        super().__init__(min, max, min_open, max_open)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        found = super().convert(value, param, ctx)
        if not math.isfinite(found):
            self.fail(f"{value} is not a finite number.", param, ctx)
        return found


class File(click.Path):
    """A path that a file system can hold."""

    def __init__(self) -> None:
        super().__init__(path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if "\0" in str(value):
            self.fail(f"{str(value)!r} holds a NUL byte, which no path may.", param, ctx)
        return super().convert(value, param, ctx)


class RunOrServer(File):
    """A run folder, or the address of a run on a server of `flowgen serve`, which stays a string."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        address = isinstance(value, str) and value.startswith(("http://", "https://"))
        return value if address else super().convert(value, param, ctx)


SEED = click.IntRange(-(2**63), 2**63 - 1)

WEIGHTS = click.option(
    "--weights", type=click.Choice(["ema", "raw"]), default="ema", show_default=True, help="Averaged or last weights."
)
DEVICE = click.option("--device", metavar="NAME", help="cpu, cuda, cuda:1; the first GPU where there is one.")

_SAMPLING = (
    click.option("--steps", type=click.IntRange(1, 100_000), help="Solver steps."),
    click.option(
        "--solver",
        metavar="NAME",
        help="A solver (see: flowgen plugins list --kind solver), or one of flowgen distill-solver.",
    ),
    click.option("--guidance", type=Number(-1000, 1000), metavar="SCALE", help="Guidance scale; 1 is none."),
    click.option(
        "--set",
        "settings",
        multiple=True,
        metavar="KEY=VALUE",
        help="Any key of the 'sample' section, as in guidance.start=0.2.",
    ),
    WEIGHTS,
    DEVICE,
)


def sampling_options(command: _Command) -> _Command:
    """Add --steps, --solver, --guidance, --set, --weights and --device."""
    for option in reversed(_SAMPLING):
        command = option(command)
    return command


def server_options(port: int, folder: str) -> Callable[[_Command], _Command]:
    """Add what every command that listens takes: runs, address, token, where jobs are kept, adapters, memory, device."""
    options = (
        click.argument("runs", nargs=-1, required=True, type=File(), metavar="RUN..."),
        click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen at."),
        click.option("--port", type=click.IntRange(0, 65535), default=port, show_default=True, help="0: a free one."),
        click.option("--token-file", type=File(), help="A file that holds the token; needed beyond this machine."),
        click.option(
            "--jobs", "folder", type=File(), default=Path(folder), show_default=True, help="Where what is made is kept."
        ),
        click.option(
            "--adapter",
            "adapters",
            multiple=True,
            type=File(),
            metavar="PATH",
            help="One that may be put on a run; repeat for more.",
        ),
        click.option(
            "--memory", type=Number(min=0, min_open=True), default=8.0, show_default=True, help="GB for runs."
        ),
        click.option("--device", metavar="NAME", help="Where to sample; the first GPU where there is one."),
    )

    def add(command: _Command) -> _Command:
        for option in reversed(options):
            command = option(command)
        return command

    return add


def sampling_overrides(run: Path, options: dict[str, Any]) -> list[str]:
    """These options as overrides of the run's `sample` section, so that they are checked as a config is."""
    from flowgen.errors import UsageError
    from flowgen.runs.learned import LearnedTable, names
    from flowgen.runs.run import Run

    for name in ("steps", "solver", "guidance"):
        if options[name] is not None and any(s.partition("=")[0].strip() == name for s in options["settings"]):
            raise UsageError(f"--{name} and --set {name}= say the same twice; leave out one of them")
    found = []
    solver, steps = options["solver"], options["steps"]
    if solver is not None and solver in names(run):
        found.append(f"sample.solver={{type: learned, name: {solver!r}}}")
        steps = LearnedTable.read(run, solver).table.evaluations if steps is None else steps
    elif solver is not None:
        found.append(f"sample.solver={solver}")
    if steps is not None:
        found.append(f"sample.steps={steps}")
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

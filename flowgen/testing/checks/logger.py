"""A logger takes what it is given and never ends a training."""

from __future__ import annotations

import contextlib
import math
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from flowgen.config import write
from flowgen.config.force import in_force
from flowgen.errors import FlowgenError
from flowgen.testing.contract import COMPONENT_CHECKS, NotBuilt, checks_for
from flowgen.testing.part import Part, touches_global_generators

_FIGURES: tuple[dict[str, float], ...] = (
    {"loss": 0.5, "lr": 1e-3},
    {"loss": math.nan, "gradient_norm": math.inf},
    {},
    {"validation/loss at t=0.5": 1, "metric/bone length error, %": -0.0, "new": 1e300},
)
"""As training makes them: names of any words, not all every time, and numbers that are none."""

check = checks_for("logger", COMPONENT_CHECKS)


@contextlib.contextmanager
def _run(p: Part) -> Iterator[Path]:
    """A run folder with a config, the folder that programs are started in being another, empty one."""
    with tempfile.TemporaryDirectory(prefix="conformance-") as place:
        folder, here = Path(place) / "run", Path(place) / "here"
        folder.mkdir()
        here.mkdir()
        write(in_force(p.medium.config), folder / "config.yaml")
        before = Path.cwd()
        os.chdir(here)
        try:
            yield folder
        finally:
            os.chdir(before)


def _all(logger: Any) -> None:
    for step, figures in enumerate(_FIGURES, 1):
        logger.log(step, figures)
    logger.close()


@check(
    "a logger never ends a training: it takes any figures (names of any words, numbers that are none) and raises nothing",
    see="loggers",
)
def logger_takes_any_figures(p: Part) -> str | None:
    with _run(p) as folder:
        try:
            logger = p.new(folder=folder)
        except FlowgenError as error:
            raise NotBuilt(f"it refuses to begin: {error}") from None
        for step, figures in enumerate(_FIGURES, 1):
            try:
                logger.log(step, figures)
            except Exception as error:
                return f"log({step}, {figures}) raised {type(error).__name__}: {error}"
        try:
            logger.close()
        except Exception as error:
            return f"close() raised {type(error).__name__}: {error}"
    return None


@check("a logger writes in the run folder and nowhere else", see="loggers", needs=(logger_takes_any_figures,))
def logger_writes_in_its_folder(p: Part) -> str | None:
    with _run(p) as folder:
        _all(p.new(folder=folder))
        strays = sorted(path.name for path in Path.cwd().iterdir())
    return f"it wrote {strays[0]} in the folder that the program was started in" if strays else None


@check(
    "a run that is resumed goes on in what it wrote: a new logger in the same folder takes nothing away",
    see="loggers",
    needs=(logger_takes_any_figures,),
)
def logger_goes_on(p: Part) -> str | None:
    with _run(p) as folder:
        _all(p.new(folder=folder))
        written = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and not path.is_symlink()}
        resumed = p.new(folder=folder)
        resumed.log(len(_FIGURES) + 1, {"loss": 0.25})
        resumed.close()
        for path, content in written.items():
            if not path.is_file() or len(path.read_bytes()) < len(content):
                return f"{path.relative_to(folder)} held {len(content)} bytes and holds fewer when the run is resumed"
    return None


@check("a logger leaves the global generators alone", see="random-numbers", needs=(logger_takes_any_figures,))
def logger_draws_nothing(p: Part) -> str | None:
    with _run(p) as folder:
        drew = touches_global_generators(lambda: _all(p.new(folder=folder)))
    return "it changes the state of a global generator (random, numpy.random or torch)" if drew else None

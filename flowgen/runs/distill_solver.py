"""`flowgen distill-solver`: fit the table of a solver to a run's own trajectories."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

from torch import Tensor

from flowgen.config import build
from flowgen.config.schema import Sample
from flowgen.core.interfaces import FlowMap, Path
from flowgen.core.rows import Rows
from flowgen.core.sampler import prior, sample
from flowgen.core.solvers.fit import Batch, distances, fit_table, fixed_tables, increases
from flowgen.core.solvers.table import NonStationary
from flowgen.core.times import eased_grid, uniform_grid
from flowgen.core.tree import leaves
from flowgen.data.loader import clips_at
from flowgen.data.order import Order, full_size
from flowgen.errors import UsageError
from flowgen.media.conditions import encode_conditions
from flowgen.runs.generator import Generator
from flowgen.runs.learned import MOST_STEPS, LearnedTable
from flowgen.runs.sampling import accurate, sampled_flow

TARGET_STEPS = 64
_BATCH = 8
_STARTS = 6
_SHIFTS = (1.0, 2.0, 3.0, 4.0, 6.0, 12.0)
_FAMILIES = ("dpm++2m", "adams-moulton")
LEAST_CLIPS = 4


@dataclass(frozen=True)
class Report:
    """Root mean square distances, in latents, to the result of 64 steps: on noise that no table was fitted to or chosen by.

    Args:
        best_fixed: the best of the fixed solvers at as many evaluations, with its grid.
        fixed: its mean distance.
        learned: that of the learned solver.
        clips: how many clips this was measured on.
    """

    steps: int
    best_fixed: str
    fixed: float
    learned: float
    clips: int
    target_steps: int = TARGET_STEPS

    @property
    def ratio(self) -> float:
        """Distance of the learned solver in units of the best fixed one's."""
        return self.learned / self.fixed if self.fixed else 1.0

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "ratio": self.ratio}


def distill_solver(
    generator: Generator,
    steps: int = 4,
    *,
    clips: int = 64,
    seconds: float = 180.0,
    seed: int = 0,
    on_progress: Callable[[str], None] | None = None,
) -> tuple[LearnedTable, Report]:
    """Fit times and weights of a solver with this many evaluations to a run, under the settings of its `sample` section.

    Half of the clips are fitted; a quarter decides which table is kept, a quarter is for the report. Their targets are the
    results of 64 steps of the run's solver, from noise and conditions of the data set drawn by the seed.

    Args:
        clips: at least 4; fewer are fitted where their targets would take half of the time.
        seconds: how long it may take.
        on_progress: called with a sentence after each part.

    UsageError: the run is no flow from noise (an autoencoder, a bridge, a flow map), or a number is out of range.
    """
    if not 2 <= steps <= MOST_STEPS or clips < LEAST_CLIPS:
        raise UsageError(
            f"expected 2 to {MOST_STEPS} --steps and at least {LEAST_CLIPS} --clips, got {steps} and {clips}"
        )
    began, tell = time.monotonic(), on_progress or (lambda text: None)
    settings = accurate(generator.config.sample, TARGET_STEPS)
    _check_flow(generator)
    with generator.refusals():
        quarter = clips // 4
        unseen = [_batch(generator, settings, rows, seed) for rows in _rows(0, quarter)]
        held_out = [_batch(generator, settings, rows, seed) for rows in _rows(quarter, 2 * quarter)]
        train: list[Batch] = []
        for rows in _rows(2 * quarter, clips):
            if not train or time.monotonic() - began < seconds / 2:
                train.append(_batch(generator, settings, rows, seed))
        tell(f"{sum(_size(b) for b in [*unseen, *held_out, *train])} clips solved at {TARGET_STEPS} steps")
        paths = held_out[0].flow.path
        path = None if isinstance(paths, Mapping) else paths
        fixed = fixed_tables(steps, _grids(generator, settings, held_out[0]), path)
        scores = _scores(fixed, held_out)
        if not scores:
            raise UsageError("sample.grid: the velocity of this network cannot be read where its grid begins")
        best, end = min(scores, key=scores.__getitem__), began + seconds
        tell(f"best fixed solver at {steps} evaluations: {best}, distance {scores[best]:.4g}")
        start = _start(fixed, scores, train, held_out, end - time.monotonic(), path)
        table = fit_table(
            start,
            train,
            held_out,
            seconds=end - time.monotonic(),
            on_step=lambda table, distance: tell(f"distance {distance:.4g}"),
        )
        of_fixed, of_learned = (distances(one, unseen) for one in (fixed[best], table))
    report = Report(steps, best, float(of_fixed.mean()), float(of_learned.mean()), len(of_learned))
    return LearnedTable.of(table, generator), report


def _scores(tables: Mapping[str, NonStationary], batches: Sequence[Batch]) -> dict[str, float]:
    """Mean distances, without tables that ask the velocity where it cannot be read (as Heun's method does at t = 1)."""
    found = {}
    for name, table in tables.items():
        try:
            found[name] = float(distances(table, batches).mean())
        except ValueError:
            continue
    return found


def _start(
    fixed: Mapping[str, NonStationary],
    scores: Mapping[str, float],
    train: Sequence[Batch],
    held_out: Sequence[Batch],
    seconds: float,
    path: Path | None,
) -> NonStationary:
    """Where the fit begins: of several starts the one that a short fit of few clips brings nearest.

    A guidance with an interval of times makes the distance jump as a time crosses its ends, which no derivative sees; so
    starts have their times at different places.
    """
    one = next(iter(fixed.values()))
    shifted = {f"{k:g}": partial(_between, one.times[[0, -1]].tolist(), k) for k in _SHIFTS}
    tables = fixed_tables(one.evaluations, shifted, path, only=_FAMILIES)
    scores = {**scores, **_scores(tables, held_out[:1])}
    tables = {**fixed, **tables}
    starts: dict[str, str] = {}
    for name in sorted((name for name in scores if increases(tables[name])), key=scores.__getitem__):
        starts.setdefault(str(tables[name].times.tolist()), name)
    chosen, each = list(starts.values())[:_STARTS], seconds / 2 / _STARTS
    if not chosen:
        raise UsageError("--steps: no solver of this many evaluations can be a start; take another number")
    fits = [fit_table(tables[name], train[:1], held_out[:1], seconds=each, most_steps=3) for name in chosen]
    return min(fits, key=lambda table: float(distances(table, held_out).mean()))


def _between(ends: Sequence[float], k: float, steps: int) -> Tensor:
    return ends[0] + (ends[1] - ends[0]) * uniform_grid(steps, k)


def _check_flow(generator: Generator) -> None:
    name = generator.config.name
    if generator.experiment.reconstructs:
        raise UsageError(f"{name} is an autoencoder and generates nothing; give a generator")
    if generator.pairs == "clips":
        raise UsageError(f"{name} is a bridge from clips to clips; a solver is fitted to a run that starts from noise")
    if isinstance(generator.flow(generator.noise(1, 0)), FlowMap):
        raise UsageError(f"{name} is a flow map, which has its own jumps; sample it with --steps 1, 2 or 4")


def _rows(start: int, stop: int) -> list[range]:
    return [range(first, min(first + _BATCH, stop)) for first in range(start, stop, _BATCH)]


def _batch(generator: Generator, settings: Sample, rows: range, seed: int) -> Batch:
    """Noise under conditions of the data set, and where 64 steps lead it."""
    dataset = full_size(generator.experiment.dataset)
    order = Order(seed, len(dataset))
    clips = clips_at(dataset, seed, [order[i] for i in rows])
    asked = [{name: clip.conditions.get(name) for name in generator.conditioners} for clip in clips]
    cond = generator.on_device(encode_conditions(generator.conditioners, asked))
    null = generator.on_device(encode_conditions(generator.conditioners, [{}] * len(rows)))
    noise = Rows(seed, rows, [generator.lengths.trained] * len(rows), generator.device).noise("distill-solver")
    grid = generator.grid(settings, noise)
    x0 = prior(generator.path(settings), noise, float(grid[0]))
    flow, _ = sampled_flow(generator, settings, grid, null, (), x0, noise, rows)
    drawn = Rows(seed, rows, [generator.lengths.trained] * len(rows), generator.device)
    target = sample(
        flow,
        x0,
        grid,
        solver=build("solver", settings.solver),
        cond=cond,
        noise=lambda x, t, s: drawn.noise(f"solver {float(t)!r}"),
    )
    return Batch(flow, x0, target, cond)


def _grids(generator: Generator, settings: Sample, batch: Batch) -> dict[str, Callable[[int], Tensor]]:
    """The grids that fixed solvers are tried on: that of the run, an eased one, and even times without the run's shift."""
    ends = generator.grid(settings, batch.x0)[[0, -1]].tolist()

    def of(kind: Any) -> Callable[[int], Tensor]:
        return lambda n: generator.grid(settings.model_copy(update={"steps": n, "grid": kind}), batch.x0)

    found = {f"{settings.grid} grid of the run": of(settings.grid)}
    if ends == [0.0, 1.0]:
        found |= {"eased grid": of("eased"), "even times": uniform_grid, "eased times": eased_grid}
    return found


def _size(batch: Batch) -> int:
    return len(next(leaves(batch.x0)))

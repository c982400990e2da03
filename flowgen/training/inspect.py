"""A data set before it is trained on: `flowgen data check`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from flowgen.config import Config
from flowgen.data import report
from flowgen.data.loader import Split
from flowgen.data.order import make_schedule
from flowgen.errors import BadData, FlowgenError, UsageError
from flowgen.media.interfaces import Dataset, Modality, Reports, ToleratesBad
from flowgen.runs.experiment import Experiment
from flowgen.training.deepspeed_config import data_ranks, micro_batch_size
from flowgen.training.prepare import sample_clips
from flowgen.training.watch import caption

_EXAMPLES = 16


def inspect(
    config: Config, ranks: int, rows_file: Path | None, sheet: Path, shown: int, say: Callable[[str], None]
) -> None:
    """Say what the data set of a config is made of, and draw a sheet of examples.

    Args:
        ranks: for how many to make batches.
        rows_file: where to write all rows, as CSV or JSONL.
        shown: how many rows to say.

    Raises FlowgenError where too much is left out, after all of it was said.
    """
    experiment = Experiment(config)
    dataset: Dataset | None = None
    problem: FlowgenError | None = None
    try:
        dataset = experiment.dataset
        rows, problem = _rows(dataset)
    except BadData as error:
        rows, problem = [dict(row) for row in error.rows], error
    allowed = float(
        config.data.options.get("max_bad_share", dataset.max_bad_share if isinstance(dataset, ToleratesBad) else 0.0)
    )
    if rows:
        _say_rows(rows, allowed, shown, say)
    elif dataset is not None:
        say(f"{config.data.type} reports no files: there is nothing to check but the batches")
    if rows_file is not None and rows:
        report.save(rows, rows_file)
        say(f"rows: {rows_file}")
    if problem is None and report.left_out(rows) > allowed:
        problem = FlowgenError(
            f"{report.left_out(rows):.1%} of the training files are left out, more than the {allowed:.1%} allowed; "
            f"mend or remove them"
        )
    if problem is not None:
        raise problem
    assert dataset is not None
    _say_batches(config, dataset, ranks, say)
    _draw(config, experiment.modality, dataset, sheet)
    say(f"sheet: {sheet}")


def _rows(dataset: Dataset) -> tuple[list[dict[str, Any]], BadData | None]:
    """The rows of both parts; a part of which too much is left out gives its error, too."""
    if not isinstance(dataset, Reports):
        return [], None
    rows, problem = [], None
    for held_out in (False, True):
        try:
            rows += (dataset.validation() if held_out else dataset).report()  # type: ignore[attr-defined]
        except BadData as error:
            rows += [dict(row) for row in error.rows]
            problem = problem or error
        except UsageError:
            if not held_out:
                raise
            # nothing is held out: said with the batches
    return rows, problem


def _say_rows(rows: list[dict[str, Any]], allowed: float, shown: int, say: Callable[[str], None]) -> None:
    for lines in (report.summary(rows, allowed), report.reasons(rows), report.copies(rows), report.histogram(rows)):
        for line in lines:
            say(line)
    columns = ("file", "part", "status", "seconds", "frames", "rate", "bucket", "why")
    first = sorted(rows, key=lambda row: row["status"] == "kept")[:shown]  # what is changed is of more interest
    if first:
        used = [name for name in columns if any(name in row for row in first)]
        for line in report.table([{name: row.get(name, "") for name in used} for row in first]):
            say(line)
        if len(rows) > len(first):
            say(f"... and {len(rows) - len(first)} more (all of them with -o files.csv)")


def _say_batches(config: Config, dataset: Dataset, ranks: int, say: Callable[[str], None]) -> None:
    split = Split(config.train.batch_size, micro_batch_size(config, ranks), data_ranks(config, ranks))
    for line in report.batches(make_schedule(dataset, 0, split.batch, split.parts), config.train.steps):
        say(line)
    try:
        say(f"held out: {len(dataset.validation())} clips")
    except UsageError as error:
        say(f"held out: {error}")


def _draw(config: Config, modality: Modality, dataset: Dataset, sheet: Path) -> None:
    count = _EXAMPLES if modality.clips_per_file else 5000
    clips = sample_clips(dataset, config.train.seed, count)
    modality.sheet(clips, sheet, [caption(clip.conditions) or Path(clip.source).name for clip in clips])

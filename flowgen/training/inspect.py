"""A data set before it is trained on: `flowgen data check`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from flowgen.config import Config
from flowgen.core.random import seed_of
from flowgen.data import report
from flowgen.data.balance import balanced
from flowgen.data.loader import Split
from flowgen.data.order import InBuckets, make_schedule
from flowgen.errors import BadData, FlowgenError, UsageError
from flowgen.media.interfaces import Dataset, DecodesWhole, Modality, Reports, ToleratesBad
from flowgen.runs.experiment import Experiment
from flowgen.runs.generator import Generator
from flowgen.training.deepspeed_config import data_ranks, micro_batch_size
from flowgen.training.prepare import sample_clips
from flowgen.training.watch import batch_tensors, caption

_EXAMPLES = 16
_TRIED = 100_000_000
"""Parameters of the largest network that is built to be tried."""


def inspect(
    config: Config,
    ranks: int,
    rows_file: Path | None,
    sheet: Path,
    shown: int,
    say: Callable[[str], None],
    deep: bool = False,
) -> None:
    """Say what the data set of a config is made of, draw a sheet of examples, and try what training will do with it.

    Args:
        ranks: for how many to make batches.
        rows_file: where to write all rows, as CSV or JSONL.
        shown: how many rows to say.
        deep: decode the whole of every file.

    Raises FlowgenError for the first thing that training would refuse, after all of it was said.
    """
    experiment = Experiment(config)
    dataset: Dataset | None = None
    problem: FlowgenError | None = None
    try:
        dataset = experiment.dataset
        if deep:
            _decode_all(config, dataset, say)
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
    rows = []  # of a million files they are a third of the memory
    assert dataset is not None
    for name, text in dataset.describe().items():
        if name.startswith("without ") or name in ("sound tracks", "not read"):
            say(f"{name}: {text}")
    problem = _say_batches(config, dataset, ranks, say)
    _draw(config, experiment.modality, dataset, sheet)
    say(f"sheet: {sheet}")
    try_out(experiment.complete(), dataset, say)
    if problem is not None:
        raise problem


def _decode_all(config: Config, dataset: Dataset, say: Callable[[str], None]) -> None:
    if not isinstance(dataset, DecodesWhole):
        say(f"{config.data.type} has no files to decode")
        return
    damaged = dataset.damaged()
    say(f"decoded whole: {len(damaged)} damaged")


@torch.no_grad()
def try_out(experiment: Experiment, dataset: Dataset, say: Callable[[str], None]) -> None:
    """Encode a clip of each bucket and show it to the network, as training will. UsageError: one of them cannot take it."""
    try:
        encoder = experiment.encoder
    except FlowgenError as error:
        say(f"encoder and network: not tried, for there is no encoder ({error})")
        return
    schedule = make_schedule(dataset, 0, 1 << 20)
    buckets = schedule.buckets if isinstance(schedule, InBuckets) else ()
    places = {f"bucket {b.name}": b.clips[0] for b in buckets} or {f"clips of {experiment.config.data.type}": 0}
    with torch.device("meta"):
        size = sum(p.numel() for p in experiment.new_network().parameters())
    network = experiment.new_network() if size <= _TRIED else None
    encoder.fit(sample_clips(dataset, experiment.config.train.seed, 8))
    for name, index in places.items():
        try:
            generator = Generator(experiment, network or torch.nn.Identity(), torch.device("cpu"))
            x1, cond = batch_tensors(generator, [dataset.clip(index, 0)])
            if network is not None:
                network(x1, torch.full((1,), 0.5), cond)
        except ValueError as error:
            raise UsageError(f"{name}: {error}") from None
    tried = "encoder and network" if network is not None else f"encoder (not the network, of {size:,} parameters)"
    say(f"tried: {tried}, on {', '.join(places)}")


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


def _say_batches(config: Config, dataset: Dataset, ranks: int, say: Callable[[str], None]) -> UsageError | None:
    """The batches and what is held out; an error where that is nothing, and training would ask for it."""
    split = Split(config.train.batch_size, micro_batch_size(config, ranks), data_ranks(config, ranks))
    for line in report.batches(make_schedule(dataset, 0, split.batch, split.parts), config.train.steps):
        say(line)
    try:
        say(f"held out: {len(dataset.validation())} clips")
    except UsageError as error:
        say(f"held out: {error}")
        return error if config.train.validation.every or config.train.preview.every else None
    return None


def _draw(config: Config, modality: Modality, dataset: Dataset, sheet: Path) -> None:
    count = _EXAMPLES if modality.clips_per_file else 5000
    clips = [dataset.clip(i, seed_of(config.train.seed, "sheet", i)) for i in balanced(dataset, count)]
    modality.sheet(clips, sheet, [caption(clip.conditions) or Path(clip.source).name for clip in clips])

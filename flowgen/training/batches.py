"""The batches of a run, and whether the network can take them."""

from __future__ import annotations

from typing import Any

import torch

from flowgen.config import Config
from flowgen.core.tree import tree_map
from flowgen.data.loader import Split
from flowgen.data.order import InBuckets, InOneOrder, make_schedule
from flowgen.device import CPU
from flowgen.errors import UsageError
from flowgen.media.interfaces import Dataset
from flowgen.runs.generator import Generator
from flowgen.runs.run import Checkpoint
from flowgen.training.internals import fake_tensors
from flowgen.training.watch import batch_tensors


def resolve_schedule(
    dataset: Dataset, config: Config, split: Split, checkpoint: Checkpoint | None
) -> InOneOrder | InBuckets:
    """The batches of a run. A resumed one keeps those it began with; UsageError: they do not fall into these micro-batches."""
    parts = split.parts if checkpoint is None else checkpoint.manifest["trainer"].get("parts", split.parts)
    schedule = make_schedule(dataset, config.train.seed, split.batch, parts)
    for bucket in schedule.buckets if isinstance(schedule, InBuckets) else ():
        if bucket.batch % split.parts:
            raise UsageError(
                f"bucket {bucket.name} has batches of {bucket.batch} clips in this run, which do not fall into {split.parts} "
                f"micro-batches (ranks x accumulation); resume on the number of ranks that it began with, or choose "
                f"train.micro_batch_size so that there are {parts}"
            )
    return schedule


@torch.no_grad()
def check_buckets(generator: Generator, dataset: Dataset, schedule: InOneOrder | InBuckets) -> None:
    """Show the network a clip of each bucket. UsageError: it cannot take one (a patch that does not divide it)."""
    for bucket in schedule.buckets if isinstance(schedule, InBuckets) else ():
        x1, cond = batch_tensors(generator, [dataset.clip(bucket.clips[0], 0)])
        x1, cond = (tree_map(lambda v: v.to(CPU), value) for value in (x1, cond))
        try:
            _show(generator, x1, cond)
        except ValueError as error:
            raise UsageError(f"bucket {bucket.name}: {error}") from None


def _show(generator: Generator, x1: Any, cond: Any) -> None:
    """One forward pass: on tensors without memory, as the network of a run may be too large for one device or for the time."""
    t = torch.full((1,), 0.5)
    try:
        with fake_tensors():
            generator.experiment.new_network().eval()(x1, t, cond)
    except ValueError:
        raise
    except Exception:  # a network that reads the values of its tensors, or leaves torch
        training = generator.network.training
        generator.network.eval()(x1, t, cond)
        generator.network.train(training)

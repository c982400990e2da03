"""Which clips make the batch of a step: a function of (seed, step), the same for every rank and under any split."""

from __future__ import annotations

import math
from array import array
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeGuard

import torch

from flowgen.core.random import generator
from flowgen.errors import FlowgenError, UsageError
from flowgen.media.interfaces import Bucketed, Dataset, FullSize

if TYPE_CHECKING:

    class _InBuckets(Dataset, Bucketed, Protocol):
        """A data set with buckets."""


@dataclass(frozen=True)
class Place:
    """Clip `index` of the data set, as it is met in one epoch."""

    epoch: int
    index: int


class Schedule(Protocol):
    """The batches of a run, one a step."""

    def size(self, step: int) -> int:
        """Clips in the batch of a step."""

    def place(self, step: int, row: int) -> Place:
        """The clip in a row of the batch of a step."""


@dataclass(frozen=True)
class Order:
    """An endless order of clips: every clip once an epoch, shuffled again each epoch."""

    seed: int
    length: int

    def __post_init__(self) -> None:
        if self.length < 1:
            raise UsageError("the data set has no clips; see what it found with: flowgen data show CONFIG")

    def __getitem__(self, position: int) -> Place:
        """The clip at a position counted from the start of the run over all epochs."""
        epoch, within = divmod(position, self.length)
        return Place(epoch, _permutation(self.seed, epoch, self.length)[within])


@dataclass(frozen=True)
class InOneOrder:
    """Batches of one size, cut from one order: a `Schedule`."""

    order: Order
    batch: int

    def size(self, step: int) -> int:
        return self.batch

    def place(self, step: int, row: int) -> Place:
        return self.order[step * self.batch + row]


class Bucket(NamedTuple):
    """Clips that are batched with each other only."""

    name: str
    cost: float
    """Of one clip, relative to one of the modality's full size."""
    clips: array[int]
    batch: int

    @property
    def batches(self) -> int:
        """In an epoch; the last one is filled."""
        return -(-len(self.clips) // self.batch)

    @property
    def again(self) -> int:
        """Clips that an epoch shows a second time, to fill the last batch."""
        return self.batches * self.batch - len(self.clips)


class InBuckets:
    """Batches of clips of one bucket each: a `Schedule`.

    In an epoch every clip is shown; clips are shuffled within their bucket and cut into batches, and the batches are
    shuffled. A bucket's last batch is filled with the clips that its first one had, so that all epochs have equally many.
    """

    def __init__(self, seed: int, buckets: tuple[Bucket, ...]) -> None:
        self.seed, self.buckets = seed, buckets
        self.per_epoch = sum(bucket.batches for bucket in buckets)
        self._epoch = -1
        self._batches: list[tuple[int, int]] = []
        self._orders: list[array[int]] = []

    def size(self, step: int) -> int:
        return self.buckets[self._find(step)[0]].batch

    def place(self, step: int, row: int) -> Place:
        which, number = self._find(step)
        clips, order = self.buckets[which].clips, self._orders[which]
        position = number * self.buckets[which].batch + row
        return Place(self._epoch, clips[order[position % len(clips)]])

    def _find(self, step: int) -> tuple[int, int]:
        """The bucket of a step, and which of its batches."""
        epoch, within = divmod(step, self.per_epoch)
        if epoch != self._epoch:
            batches = [(i, k) for i, bucket in enumerate(self.buckets) for k in range(bucket.batches)]
            order = _shuffled(len(batches), self.seed, "batches", epoch)
            self._batches = [batches[i] for i in order]
            self._orders = [_shuffled(len(b.clips), self.seed, "order", epoch, b.name) for b in self.buckets]
            self._epoch = epoch
        return self._batches[within]


def make_schedule(dataset: Dataset, seed: int, batch: int, parts: int = 1) -> InOneOrder | InBuckets:
    """The batches of a run: `batch` clips each, or as many of a bucket as cost no more than `batch` of full size.

    Args:
        parts: micro-batches of a step over all ranks; a bucket's batch is rounded down to a multiple of it.
    """
    if not has_buckets(dataset):
        return InOneOrder(Order(seed, len(dataset)), batch)
    return InBuckets(seed, fill_buckets(dataset, batch, parts))


def has_buckets(dataset: Dataset) -> TypeGuard[_InBuckets]:
    """Whether clips are batched with those of their bucket only."""
    return isinstance(dataset, Bucketed) and bool(dataset.buckets)


def full_size(dataset: Dataset) -> Dataset:
    """Clips of the modality's own size, where buckets give them others: what metrics compare with."""
    return dataset.full_size() if isinstance(dataset, FullSize) else dataset


def fill_buckets(dataset: Dataset, batch: int, parts: int) -> tuple[Bucket, ...]:
    """The buckets that have clips. UsageError: one clip costs more than a micro-batch may."""
    costs: Mapping[str, float] = dataset.buckets  # type: ignore[attr-defined]
    Order(0, len(dataset))  # refuses an empty data set
    members: dict[str, array[int]] = {name: array("q") for name in costs}
    for index in range(len(dataset)):
        name = dataset.bucket_of(index)  # type: ignore[attr-defined]
        if name not in members:
            raise FlowgenError(f"the data set puts clip {index} into {name!r}, which is none of its buckets")
        members[name].append(index)
    return tuple(
        Bucket(name, cost, members[name], _clips(name, cost, batch, parts))
        for name, cost in costs.items()
        if members[name]
    )


def _clips(name: str, cost: float, batch: int, parts: int) -> int:
    """Clips in a batch of a bucket."""
    if not (math.isfinite(cost) and cost > 0):
        raise FlowgenError(f"bucket {name}: the cost of a clip must be a positive number, got {cost}")
    clips = math.floor(batch / cost + 1e-9)
    if clips < parts:
        of_parts = f" in {parts} micro-batches" if parts > 1 else ""
        raise UsageError(
            f"bucket {name}: one clip costs as much as {cost:.3g} of full size, more than train.batch_size={batch}{of_parts} "
            f"has room for; raise it to {math.ceil(cost * parts)}, or leave the bucket out"
        )
    return clips // parts * parts


@lru_cache(maxsize=2)
def _permutation(seed: int, epoch: int, length: int) -> array[int]:
    return _shuffled(length, seed, "order", epoch)


def _shuffled(length: int, *key: int | str) -> array[int]:
    shuffled = torch.randperm(length, generator=generator(*key))
    return array("q", shuffled.numpy().tobytes())  # indexed ten times faster than a tensor

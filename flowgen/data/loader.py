"""Deterministic loading: which clips make a batch is a function of (seed, step), who holds them of the rank."""

from __future__ import annotations

import signal
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from flowgen.clip import Clip
from flowgen.contracts import Dataset
from flowgen.errors import UsageError
from flowgen.random import generator, seed_of


@dataclass(frozen=True)
class Place:
    """Clip `index` of the data set, as it is met in one epoch."""

    epoch: int
    index: int


@dataclass(frozen=True)
class Order:
    """An endless order of clips: every clip once an epoch, shuffled anew each epoch."""

    seed: int
    length: int

    def __post_init__(self) -> None:
        if self.length < 1:
            raise UsageError("the data set has no clips; see what it found with: flowgen data show CONFIG")

    def __getitem__(self, position: int) -> Place:
        """The clip at a position counted from the start of the run over all epochs."""
        epoch, within = divmod(position, self.length)
        return Place(epoch, _permutation(self.seed, epoch, self.length)[within])


@lru_cache(maxsize=2)
def _permutation(seed: int, epoch: int, length: int) -> array[int]:
    shuffled = torch.randperm(length, generator=generator(seed, "order", epoch))
    return array("q", shuffled.numpy().tobytes())  # indexed ten times faster than a tensor


@dataclass(frozen=True)
class Split:
    """How a global batch falls into micro-batches and ranks."""

    batch: int
    micro: int
    ranks: int = 1
    rank: int = 0

    @property
    def accumulation(self) -> int:
        return self.batch // (self.micro * self.ranks)

    def rows(self, micro_step: int) -> Tensor:
        """The rows of the global batch that this rank holds in one micro-batch, int64 [micro]."""
        start = (micro_step * self.ranks + self.rank) * self.micro
        return torch.arange(start, start + self.micro)


class _Clips(TorchDataset[Clip]):
    """A data set asked by place; a clip's randomness is a function of (seed, epoch, index).

    A data set of very small clips may have a method `clips(indices, seeds)` that makes many at once.
    """

    def __init__(self, dataset: Dataset, seed: int) -> None:
        self.dataset, self.seed = dataset, seed

    def __getitem__(self, place: Place) -> Clip:
        return self.dataset.clip(place.index, seed_of(self.seed, "clip", place.epoch, place.index))

    def __getitems__(self, places: Sequence[Place]) -> list[Clip]:
        batched = getattr(self.dataset, "clips", None)
        if not callable(batched):
            return [self[place] for place in places]
        return batched([p.index for p in places], [seed_of(self.seed, "clip", p.epoch, p.index) for p in places])


class _Batches:
    """A batch sampler that begins at a step and never ends."""

    def __init__(self, order: Order, split: Split, start: int) -> None:
        self.order, self.split, self.start = order, split, start

    def __iter__(self) -> Iterator[list[Place]]:
        step = self.start
        while True:
            for micro_step in range(self.split.accumulation):
                yield [self.order[step * self.split.batch + row] for row in self.split.rows(micro_step).tolist()]
            step += 1


def batches(dataset: Dataset, seed: int, split: Split, start: int = 0, workers: int = 0) -> Iterator[list[Clip]]:
    """This rank's micro-batches from step `start` on, endlessly."""
    if workers == 0:
        clips = _Clips(dataset, seed)
        return (clips.__getitems__(places) for places in _Batches(Order(seed, len(dataset)), split, start))
    loader: Any = DataLoader(
        _Clips(dataset, seed),
        batch_sampler=_Batches(Order(seed, len(dataset)), split, start),
        num_workers=workers,
        collate_fn=list,
        worker_init_fn=_ignore_signals,
        persistent_workers=True,
    )
    return iter(loader)


def _ignore_signals(worker: int) -> None:
    """A stop reaches the whole process group; the trainer finishes its step first, and needs its data for that."""
    for name in (signal.SIGINT, signal.SIGTERM):
        signal.signal(name, signal.SIG_IGN)
    torch.set_num_threads(1)

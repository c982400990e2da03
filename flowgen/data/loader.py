"""Deterministic loading: which clips make a batch is a function of (seed, step), who holds them of the rank."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from flowgen.core.random import seed_of, seeds_of
from flowgen.data.order import Order, Place, Schedule, make_schedule
from flowgen.device import CPU, pins
from flowgen.environment import end_with_parent
from flowgen.errors import FlowgenError
from flowgen.media.clip import Clip
from flowgen.media.interfaces import Dataset, ManyClips, ReplacesFailed

__all__ = ["Order", "Place", "Split", "batches", "clips_at", "many_clips"]


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

    @property
    def parts(self) -> int:
        """Micro-batches of a step, over all ranks."""
        return self.accumulation * self.ranks

    def of(self, batch: int) -> Split:
        """A batch of another size in as many parts."""
        return replace(self, batch=batch, micro=batch // self.parts)

    def rows(self, micro_step: int) -> Tensor:
        """The rows of the global batch that this rank holds in one micro-batch, int64 [micro]."""
        start = (micro_step * self.ranks + self.rank) * self.micro
        return torch.arange(start, start + self.micro)


def many_clips(dataset: Dataset, indices: Sequence[int], seeds: Sequence[int], counted: bool = True) -> list[Clip]:
    """Clips by index and seed, at once where the data set makes `ManyClips`.

    counted: what they replace is counted here, by the data set; otherwise by who reads `Clip.instead_of`.
    """
    if isinstance(dataset, ManyClips) and callable(dataset.clips):  # others have a number by that name
        return dataset.clips(indices, seeds)
    one = dataset.attempt if not counted and isinstance(dataset, ReplacesFailed) else dataset.clip
    return [one(index, seed) for index, seed in zip(indices, seeds, strict=True)]


def clips_at(dataset: Dataset, seed: int, places: Sequence[Place], counted: bool = True) -> list[Clip]:
    """Clips as they are met in the run of this seed: a clip's randomness is a function of (seed, epoch, index)."""
    indices = [place.index for place in places]
    if len({place.epoch for place in places}) == 1:
        return many_clips(dataset, indices, seeds_of((seed, "clip", places[0].epoch), indices), counted)
    return many_clips(dataset, indices, [seed_of(seed, "clip", p.epoch, p.index) for p in places], counted)


class ClipsByPlace(Protocol):
    """What a batch is made of, clip by clip: those of the data set, or of a latent cache."""

    def __getitems__(self, places: Sequence[Place]) -> list[Any]: ...


class _Clips(TorchDataset[Clip]):
    """A data set asked by place."""

    def __init__(self, dataset: Dataset, seed: int) -> None:
        self.dataset, self.seed = dataset, seed

    def __getitem__(self, place: Place) -> Clip:
        return self.__getitems__([place])[0]

    def __getitems__(self, places: Sequence[Place]) -> list[Clip]:
        return clips_at(self.dataset, self.seed, places, counted=False)


class _InWorker(TorchDataset[Clip]):
    """The same in a worker process, from where an error comes whole as a value only."""

    def __init__(self, clips: ClipsByPlace) -> None:
        self.clips = clips

    def __getitems__(self, places: Sequence[Place]) -> Any:
        try:
            return self.clips.__getitems__(places)
        except FlowgenError as error:
            return error


def _as_it_is(found: Any) -> Any:
    return found


class _Batches:
    """A batch sampler that begins at a step and never ends."""

    def __init__(self, schedule: Schedule, split: Split, start: int) -> None:
        self.schedule, self.split, self.start = schedule, split, start

    def __iter__(self) -> Iterator[list[Place]]:
        step = self.start
        while True:
            split = self.split.of(self.schedule.size(step))
            for micro_step in range(split.accumulation):
                yield [self.schedule.place(step, row) for row in split.rows(micro_step).tolist()]
            step += 1


def batches(
    dataset: Dataset,
    seed: int,
    split: Split,
    start: int = 0,
    workers: int = 0,
    schedule: Schedule | None = None,
    clips: ClipsByPlace | None = None,
    device: torch.device = CPU,
) -> Iterator[list[Any]]:
    """This rank's micro-batches from step `start` on, endlessly. They differ in size where the data set has buckets.

    Args:
        clips: where they come from, if not from the data set (a latent cache).
        device: where they go; clips that worker processes load for an accelerator are page-locked by a thread.
    """
    schedule = schedule or make_schedule(dataset, seed, split.batch, split.parts)
    clips = clips or _Clips(dataset, seed)
    if workers == 0:
        return (clips.__getitems__(places) for places in _Batches(schedule, split, start))
    loader: Any = DataLoader(
        _InWorker(clips),
        batch_sampler=_Batches(schedule, split, start),
        num_workers=workers,
        collate_fn=_as_it_is,
        worker_init_fn=partial(_start_worker, os.getpid()),
        persistent_workers=True,
        pin_memory=pins(device),
    )
    return map(_raised, loader)


def _raised(found: list[Clip] | FlowgenError) -> list[Clip]:
    """What a worker sends: clips, or why there are none."""
    if isinstance(found, FlowgenError):
        raise found
    return found


def _start_worker(trainer: int, worker: int) -> None:
    """A stop reaches the whole process group; the trainer finishes its step first, and needs its data for that."""
    end_with_parent(trainer)
    for name in (signal.SIGINT, signal.SIGTERM):
        signal.signal(name, signal.SIG_IGN)
    torch.set_num_threads(1)

"""Writing a latent cache: each clip of a data set decoded and encoded once, in shards that a stop leaves whole."""

from __future__ import annotations

import json
import multiprocessing
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from flowgen.config import Config
from flowgen.core.interfaces import LossWithPairs, SourceCoupling
from flowgen.core.random import seed_of
from flowgen.core.tree import first_leaf, leaves, tree_map
from flowgen.data.latents import (
    PER_SHARD,
    CachedClips,
    Encoded,
    Entry,
    Header,
    LatentCache,
    entries_of,
    prints_of,
    read_header,
    sha256,
    write_header,
    write_shard,
)
from flowgen.device import default_device, device_of_process
from flowgen.errors import FlowgenError, UsageError
from flowgen.files import replacing
from flowgen.media.clip import Clip
from flowgen.media.conditions import encode_conditions
from flowgen.media.encoder import Encoder
from flowgen.media.interfaces import CropsRecordings, Fingerprinted, SeesBeyondCuts
from flowgen.media.streams import StreamSpec
from flowgen.runs.experiment import Experiment
from flowgen.runs.lock import LOCK, locked
from flowgen.training.initial import kept_statistics
from flowgen.training.prepare import FIT_CLIPS, sample_clips
from flowgen.weights import load_strictly, read_tensors, write_tensors

_BATCH = 16
_SHARD = re.compile(r"shard-(\d+)\.safetensors")
_LEFT = re.compile(r"\.(tmp\w{6}|(shard-\d+|encoder|index|cache)\.[0-9a-f]{8}\.\w+)")
"""Files that a killed process leaves half written: ours, and those of the library that writes shards."""
_SEED = 0
"""Of the crops that are drawn: a cache serves runs of any seed."""
_TOLERANCE = 1e-4


@dataclass(frozen=True)
class Wanted:
    """A clip that is to be stored, by its index in the data set."""

    index: int
    key: str
    print: str
    crop: int


@torch.no_grad()
def write_cache(config: Config, folder: Path, crops: int | None, processes: int, say: Callable[[str], None]) -> None:
    """Write a latent cache of the training clips of a config, or go on with one.

    Args:
        crops: of each clip to draw and store; None: where training crops at random and the encoder's latents may be cropped,
            all that a clip is cropped from, otherwise one.
        processes: that encode beside each other, each on a GPU of its own where there are some.
        say: takes lines about what is done.

    Raises UsageError where the folder holds another cache, or training could not use this one.
    """
    experiment = Experiment(config).complete()
    _refuse(experiment)
    with locked(folder, "filled", "or choose another folder"):
        header = _begin(experiment, folder, crops)
        for path in list(folder.iterdir()):
            if _LEFT.fullmatch(path.name):
                path.unlink()
        done = {(entry.key, entry.print, entry.crop): path for path in _shards(folder) for entry in entries_of(path)}
        wanted = [
            Wanted(index, *found, crop)
            for index, found in prints_of(experiment.dataset).items()
            for crop in range(max(header.crops, 1))
            if (*found, crop) not in done
        ]
        parts = [wanted[i : i + PER_SHARD] for i in range(0, len(wanted), PER_SHARD)]
        plan = list(zip(_free_numbers(folder), parts, strict=False))
        say(f"{len(done)} clips are there, {len(wanted)} to encode, in {folder}")
        if len(plan) < 2 or processes < 2:
            _encode(experiment, folder, header.crops, plan, say)
        else:
            _beside_each_other(experiment.config, folder, header.crops, plan, min(processes, len(plan)))
        _write_index(folder)


@torch.no_grad()
def verify_cache(config: Config, folder: Path, shown: int = 16) -> str:
    """Read a cache back: checksums, finite values, and `shown` clips that are encoded again. Returns a line about it.

    FlowgenError: something differs. UsageError: the cache is not of this config.
    """
    experiment = Experiment(config).complete()
    cache = LatentCache(folder)
    load_statistics(experiment.encoder, folder)
    clips = stored_clips(experiment, cache)
    for name, facts in cache.shards.items():
        if sha256(folder / name) != facts["sha256"]:
            raise FlowgenError(f"{folder / name} is damaged; remove it and run flowgen data cache CONFIG again")
    for key in cache.entries:
        if not all(bool(leaf.isfinite().all()) for leaf in leaves(cache.read(key, 0).x)):
            raise FlowgenError(f"{folder}: the latents of {key[0]} are not finite; look at that recording")
    assert cache.header is not None
    worst = 0.0
    step = max(1, len(clips.prints) // shown)
    for index in range(0, len(clips.prints), step):
        entry, fresh = _encoded(experiment, [Wanted(index, *clips.prints[index], 0)], cache.header.crops)[0]
        kept = cache.read((entry.key, entry.print, 0), 0)
        if not entry.steps:
            worst = max(
                worst, *(float((a - b).abs().max()) for a, b in zip(leaves(kept.x), leaves(fresh.x), strict=True))
            )
    if worst > _TOLERANCE:
        raise FlowgenError(
            f"clips of {folder} that are encoded again differ by {worst:.2g}; was it made by another version? make another"
        )
    return (
        f"{len(cache.entries)} clips in {len(cache.shards)} shards are whole; encoded again, they differ by {worst:.1g}"
    )


def stored_clips(experiment: Experiment, cache: LatentCache) -> CachedClips:
    """The clips of an experiment from a cache; its encoder is fitted. UsageError: the cache does not serve it, by name."""
    _refuse(experiment)
    assert cache.header is not None
    own = header_of(experiment, cache.header.crops)
    unused = cache.header.conditions.keys() - own.conditions.keys()  # a run may leave some out
    held = replace(cache.header, conditions={k: v for k, v in cache.header.conditions.items() if k not in unused})
    held.refuse(own, cache.folder)
    return CachedClips(cache, experiment.dataset, experiment.config.train.seed)


def header_of(experiment: Experiment, crops: int) -> Header:
    """What the latents of an experiment depend on, its encoder being fitted."""
    config, dataset = experiment.config, experiment.dataset
    places = dataset.places.keys() if isinstance(dataset, Fingerprinted) else ()
    data = {k: v for k, v in config.data.model_dump(mode="json").items() if k not in places}
    conditions = {
        name: {k: v for k, v in c.model_dump(mode="json").items() if k != "dropout"}
        for name, c in (config.conditions or {}).items()
    }
    header = Header(experiment.encoder.identity, config.modality.model_dump(mode="json"), data, conditions, crops)
    # as it is read back: tuples are lists there
    values: dict[str, Any] = json.loads(json.dumps(vars(header)))
    return Header(**values)


def load_statistics(encoder: Encoder, folder: Path) -> None:
    """Give an encoder the statistics of the data that it had when the cache was made."""
    path = folder / "encoder.safetensors"
    if path.is_file():
        load_strictly(encoder, read_tensors(path), path)


def _refuse(experiment: Experiment) -> None:
    if isinstance(experiment.loss, LossWithPairs):
        raise UsageError(
            f"a latent cache holds single clips, not pairs: train the loss {experiment.config.loss.type} without train.cache"
        )
    if isinstance(experiment.coupling, SourceCoupling):
        raise UsageError(
            "a latent cache holds clips, not what their flows start from: train the coupling "
            f"{experiment.config.coupling.type} without train.cache"
        )


def _begin(experiment: Experiment, folder: Path, crops: int | None) -> Header:
    """The header of a cache: as it was made, or of a new one with the encoder's statistics beside it."""
    encoder = experiment.encoder
    encoder.to(default_device())
    begun = read_header(folder)
    if begun is not None:
        load_statistics(encoder, folder)
        begun.refuse(header_of(experiment, begun.crops), folder)
        if crops is not None and crops != begun.crops:
            raise UsageError(
                f"{folder} was begun with --crops {begun.crops}; go on without --crops, or choose another folder"
            )
        return begun
    own = (LOCK, "encoder.safetensors")
    if strange := next((p.name for p in folder.iterdir() if p.name not in own and not _LEFT.fullmatch(p.name)), None):
        raise UsageError(f"{folder} holds other things, such as {strange}; choose an empty folder")
    encoder.fit(sample_clips(experiment.dataset, experiment.config.train.seed, FIT_CLIPS))
    kept_statistics(experiment, encoder)
    if crops is None:
        crops = 0 if _may_crop(experiment) else 1
    header = header_of(experiment, crops)
    if encoder.state_dict():
        write_tensors(encoder.state_dict(), folder / "encoder.safetensors")
    write_header(header, folder)
    return header


def _may_crop(experiment: Experiment) -> bool:
    """Whether the latents of a recording, cropped in time, are latents of a part of it."""
    spec = experiment.spec
    in_time = isinstance(spec, StreamSpec) and bool(spec.axes) and spec.axes[0].name == "time"
    return (
        in_time and isinstance(experiment.encoder, SeesBeyondCuts) and isinstance(experiment.dataset, CropsRecordings)
    )


def _encode(
    experiment: Experiment,
    folder: Path,
    crops: int,
    plan: Sequence[tuple[int, Sequence[Wanted]]],
    say: Callable[[str], None],
) -> None:
    for i, (number, wanted) in enumerate(plan):
        write_shard(_path(folder, number), _encoded(experiment, wanted, crops))
        say(f"shard {i + 1} of {len(plan)}")


def _encoded(experiment: Experiment, wanted: Sequence[Wanted], crops: int) -> list[tuple[Entry, Encoded]]:
    """Entries of clips in their order; those of one size that follow each other are encoded together."""
    out: list[tuple[Entry, Encoded]] = []
    batch: list[tuple[Entry, Clip, dict[str, Any]]] = []
    for entry, clip, values in _clips(experiment, wanted, crops):
        if batch and (len(batch) == _BATCH or _sizes(clip) != _sizes(batch[0][1])):
            out += _batch(experiment, batch)
            batch = []
        batch.append((entry, clip, values))
    return out + (_batch(experiment, batch) if batch else [])


def _clips(
    experiment: Experiment, wanted: Sequence[Wanted], crops: int
) -> Iterator[tuple[Entry, Clip, dict[str, Any]]]:
    """What is encoded for each, and its conditions."""
    dataset, names = experiment.dataset, experiment.conditioners
    for want in wanted:
        clip = dataset.clip(want.index, seed_of(_SEED, "cache", want.crop, want.index))
        entry = Entry(want.key, want.print, want.crop, 0, clip.source)
        conditions = {name: clip.conditions.get(name) for name in names}
        if not crops and not clip.instead_of and isinstance(dataset, CropsRecordings):
            whole = dataset.uncropped(want.index)
            if whole is not None:
                steps = len(first_leaf(experiment.encoder.encode([clip]).x)[0])
                entry, clip = entry._replace(steps=steps), whole
        yield entry, clip, conditions


def _batch(experiment: Experiment, batch: Sequence[tuple[Entry, Clip, dict[str, Any]]]) -> list[tuple[Entry, Encoded]]:
    x, mask = experiment.encoder.encode([clip for _, clip, _ in batch])
    cond = encode_conditions(experiment.conditioners, [values for *_, values in batch])
    out = []
    for row, (entry, _, _) in enumerate(batch):
        pick = _row(row)
        real = None if mask is None else tree_map(pick, mask)
        out.append((entry, Encoded(tree_map(pick, x), real, tree_map(pick, cond), entry.source)))
    return out


def _row(row: int) -> Callable[[Tensor], Tensor]:
    return lambda v: v[row].cpu()


def _sizes(clip: Clip) -> list[Any]:
    return [leaf.shape for leaf in leaves(clip.data)] + (list(clip.data) if isinstance(clip.data, dict) else [])


def _beside_each_other(
    config: Config, folder: Path, crops: int, plan: Sequence[tuple[int, Sequence[Wanted]]], processes: int
) -> None:
    """Shards in several processes, each of which builds the parts of the config itself. FlowgenError: one has failed."""
    context = multiprocessing.get_context("spawn")
    started = [
        context.Process(target=_work, args=(config.model_dump(), str(folder), crops, list(plan[rank::processes]), rank))
        for rank in range(processes)
    ]
    for process in started:
        process.start()
    for process in started:
        process.join()
    if failed := [process.exitcode for process in started if process.exitcode]:
        raise FlowgenError(
            f"{len(failed)} of {processes} processes that encode have failed; what they said stands above, and what is done "
            f"stays: run the command again"
        )


@torch.no_grad()
def _work(
    config: dict[str, Any], folder: str, crops: int, plan: Sequence[tuple[int, Sequence[Wanted]]], rank: int
) -> None:
    experiment = Experiment(Config.model_validate(config))
    experiment.encoder.to(device_of_process(rank))
    load_statistics(experiment.encoder, Path(folder))
    _encode(experiment, Path(folder), crops, plan, lambda line: print(f"process {rank}: {line}", flush=True))


def _write_index(folder: Path) -> None:
    shards = {path.name: {"bytes": path.stat().st_size, "sha256": sha256(path)} for path in _shards(folder)}
    with replacing(folder / "index.json") as path:
        path.write_text(json.dumps({"shards": shards}, indent=1, sort_keys=True) + "\n")


def _shards(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if _SHARD.fullmatch(path.name))


def _path(folder: Path, number: int) -> Path:
    return folder / f"shard-{number:06d}.safetensors"


def _free_numbers(folder: Path) -> Iterator[int]:
    """Numbers of shards that are not there, rising."""
    taken = {int(found[1]) for path in _shards(folder) if (found := _SHARD.fullmatch(path.name))}
    number = 0
    while True:
        if number not in taken:
            yield number
        number += 1

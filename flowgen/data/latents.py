"""A cache of latents: what an encoder and the conditioners make of each clip, in shards that are read where they lie.

A cache is a folder:

- `cache.json`: what the latents depend on, see `Header`
- `encoder.safetensors`: the encoder's statistics of the data
- `shard-000000.safetensors`, ...: tensors of up to `PER_SHARD` entries; the metadata of a shard lists its entries
- `index.json`: size and SHA-256 of each shard, written when all are there

A shard is written whole and never changed, so that a cache goes on where it was stopped; new clips go to new shards.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from flowgen.core.random import generator, seed_of
from flowgen.core.tree import State, concat, leaves, tree_map
from flowgen.data.items import named
from flowgen.data.order import Place
from flowgen.errors import FlowgenError, UsageError
from flowgen.files import read_json, replacing
from flowgen.media.interfaces import Dataset, Fingerprinted, Identified, Keyed

PER_SHARD = 256
_FORMAT = 1
_LARGEST = 2_000_000_000
"""Bytes of an index that is read."""


@dataclass(frozen=True)
class Header:
    """What all entries of a cache depend on, as JSON values.

    Args:
        encoder: identity of the encoder with its statistics and weights.
        modality, data: those sections of the config; where the data lie plays no part.
        conditions: by name, the conditioner whose values are stored.
        crops: crops of each clip that were drawn; 0: recordings are stored whole, and training crops their latents.
    """

    encoder: str
    modality: Mapping[str, Any]
    data: Mapping[str, Any]
    conditions: Mapping[str, Any]
    crops: int
    format: int = _FORMAT

    def refuse(self, other: Header, folder: Path) -> None:
        """UsageError: a cache with this header cannot serve what has the other, by the name of the option that differs."""
        if self.format != other.format:
            raise UsageError(f"{folder} is a latent cache of format {self.format}; make another: {_AGAIN}")
        for name in ("modality", "data", "conditions"):
            mine, theirs = getattr(self, name), getattr(other, name)
            for key in sorted(mine.keys() | theirs.keys()):
                if mine.get(key) != theirs.get(key):
                    raise UsageError(
                        f"the latent cache {folder} was made with {name}.{key}={mine.get(key)!r}, and the config has "
                        f"{theirs.get(key)!r}; use that value, or make another: {_AGAIN}"
                    )
        if self.encoder != other.encoder:
            raise UsageError(
                f"the latent cache {folder} holds latents of another encoder (identity {self.encoder}, this one is "
                f"{other.encoder}): its options, weights or statistics differ; make another: {_AGAIN}"
            )


_AGAIN = "flowgen data cache CONFIG -o ANOTHER_FOLDER"


class Entry(NamedTuple):
    """One stored clip."""

    key: str
    """Which clip of the data set it is."""
    print: str
    """A hash of what the clip is made of."""
    crop: int
    """Which of the crops that were drawn."""
    steps: int
    """Latent steps of a clip, where more of the recording is stored; 0: all that is stored."""
    source: str


@dataclass(frozen=True)
class Encoded:
    """A clip as training takes it from a cache: latents [*axes, C] by leaf, real positions, encoded conditions."""

    x: State
    mask: State | None
    cond: Mapping[str, Any]
    source: str = ""
    instead_of: tuple[tuple[str, str], ...] = ()


def stack(clips: Sequence[Encoded]) -> tuple[State, State | None, dict[str, Any]]:
    """Latents [B, *axes, C], masks and conditions of clips as one batch, as their encoder would make it.

    Shorter clips are padded with zeros along the first axis and masked.
    """
    x = tree_map(lambda *parts: _padded(parts), *(clip.x for clip in clips))
    alike = all(len({part.shape for part in parts}) == 1 for parts in zip(*(leaves(c.x) for c in clips), strict=True))
    masks = [tree_map(_ones, clip.x) if clip.mask is None else clip.mask for clip in clips]
    mask = None
    if not alike or not all(bool(leaf.all()) for each in masks for leaf in leaves(each)):
        mask = tree_map(lambda *parts: _padded(parts), *masks)
    cond = {name: concat([tree_map(_one, clip.cond[name]) for clip in clips]) for name in clips[0].cond}
    return x, mask, cond


def _one(value: Tensor) -> Tensor:
    return value[None]


def _ones(x: Tensor) -> Tensor:
    return torch.ones(x.shape[:-1], dtype=torch.bool)


def _padded(parts: Sequence[Tensor]) -> Tensor:
    if not parts[0].ndim:
        return torch.stack(list(parts))
    longest = max(len(part) for part in parts)
    return torch.stack([F.pad(part, (0, 0) * (part.ndim - 1) + (0, longest - len(part))) for part in parts])


@dataclass
class LatentCache:
    """A finished cache. UsageError: there is none in the folder, or it is not finished."""

    folder: Path
    _open: dict[str, Any] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        self.header = read_header(self.folder)
        if self.header is None:
            raise UsageError(f"no latent cache in {self.folder}; make one: flowgen data cache CONFIG -o {self.folder}")
        if not (self.folder / "index.json").is_file():
            raise UsageError(f"the latent cache {self.folder} is not finished; go on with flowgen data cache CONFIG")

    @cached_property
    def shards(self) -> dict[str, dict[str, Any]]:
        """By file name, what the index says of each shard: bytes, sha256."""
        found = read_json(self.folder / "index.json", _LARGEST)
        for name, facts in found["shards"].items():
            path = self.folder / name
            if not path.is_file() or path.stat().st_size != facts["bytes"]:
                raise FlowgenError(f"{path} is missing or not whole; remove it and run flowgen data cache CONFIG again")
        return dict(found["shards"])

    @cached_property
    def entries(self) -> dict[tuple[str, str, int], tuple[str, int, int, str]]:
        """By key, print and crop of a clip: the shard, the row in it, the steps of a clip, its source."""
        found = {}
        for name in self.shards:
            for row, entry in enumerate(entries_of(self.folder / name)):
                found[entry.key, entry.print, entry.crop] = (name, row, entry.steps, entry.source)
        return found

    def refuse_stale(self, dataset: Dataset, prints: Mapping[int, tuple[str, str]]) -> None:
        """UsageError: a clip of the data set is not in the cache, or is another one there. By name."""
        assert self.header is not None
        found = {(key, print) for key, print, _ in self.entries}
        keys = {key for key, _ in found}
        lacking = [pair for pair in prints.values() if pair not in found]
        stale = [key for key, _ in lacking if key in keys]
        missing = [key for key, _ in lacking if key not in keys]
        said = [f"{len(stale)} were made of other content or values ({named(stale, 3)})"] if stale else []
        said += [f"{len(missing)} are not in it ({named(missing, 3)})"] if missing else []
        if said:
            raise UsageError(
                f"the latent cache {self.folder} does not fit the data: of {len(prints)} clips {' and '.join(said)}; bring it up "
                f"to date: flowgen data cache CONFIG -o {self.folder}"
            )

    def read(self, key: tuple[str, str, int], seed: int) -> Encoded:
        """An entry; of more than a clip, the steps that `seed` draws."""
        name, row, steps, source = self.entries[key]
        shard, names = self._shard(name)
        found: dict[str, Any] = {}
        place: slice | None = None
        for path in names[row]:
            part = shard.get_slice(json.dumps([row, *path]))
            if steps and path[0] == "x":
                total = part.get_shape()[0]
                start = int(torch.randint(0, total - steps + 1, (), generator=generator("crop", seed)))
                place = slice(start, start + steps)
            value = (
                part[place] if place is not None and path[0] != "cond" else shard.get_tensor(json.dumps([row, *path]))
            )
            _put(found, path, value)
        return Encoded(found["x"], found.get("mask"), found.get("cond", {}), source)

    def _shard(self, name: str) -> tuple[Any, dict[int, list[list[str]]]]:
        """A shard, mapped into memory, and the names of the tensors of each row."""
        if name not in self._open:
            from safetensors import safe_open

            shard = safe_open(self.folder / name, framework="pt")
            names: dict[int, list[list[str]]] = {}
            for key in shard.keys():  # noqa: SIM118
                row, *path = json.loads(key)
                names.setdefault(row, []).append(path)
            # first "x", which says where the mask is cropped, too
            self._open[name] = (shard, {row: sorted(paths, key=lambda p: p[0] != "x") for row, paths in names.items()})
        return self._open[name]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": {}}  # a process of its own maps its files itself


def _put(tree: dict[str, Any], path: Sequence[str], value: Tensor) -> None:
    for part in path[:-1]:
        tree = tree.setdefault(part, {})
    tree[path[-1]] = value


class CachedClips:
    """Clips of a data set by place, from a cache: which crop of a clip is met is a function of (seed, epoch, index)."""

    def __init__(self, cache: LatentCache, dataset: Dataset, seed: int) -> None:
        assert cache.header is not None
        self.cache, self.seed, self.crops = cache, seed, max(cache.header.crops, 1)
        self.prints = prints_of(dataset)
        cache.refuse_stale(dataset, self.prints)

    def __getitem__(self, place: Place) -> Encoded:
        first = seed_of(self.seed, "first crop", place.index)
        crop = (first + place.epoch) % self.crops  # each as often as the others
        key, print = self.prints[place.index]
        return self.cache.read((key, print, crop), seed_of(self.seed, "clip", place.epoch, place.index))

    def __getitems__(self, places: Sequence[Place]) -> list[Encoded]:
        return [self[place] for place in places]


def prints_of(dataset: Dataset) -> dict[int, tuple[str, str]]:
    """By index, the key of each clip and a hash of what it is made of.

    A data set that tells no items apart has one hash for all, of its identity.
    """
    prints = dataset.fingerprints() if isinstance(dataset, Fingerprinted) else {}
    whole = dataset.identity if isinstance(dataset, Identified) and not prints else ""
    found = {}
    for index in range(len(dataset)):
        key = dataset.key(index) if isinstance(dataset, Keyed) else str(index)
        item = key if key in prints else key.rpartition("#")[0]  # a window of an item
        found[index] = key, prints.get(item, whole)
    return found


def write_shard(path: Path, rows: Sequence[tuple[Entry, Encoded]]) -> None:
    """Write entries as a shard, whole or not at all; the same entries give the same bytes."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    tensors: dict[str, Tensor] = {}
    for row, (_, found) in enumerate(rows):
        parts = {"x": found.x, "cond": found.cond} | ({} if found.mask is None else {"mask": found.mask})
        for path_in_row, value in _flat(parts, ()):
            tensors[json.dumps([row, *path_in_row])] = value.detach().cpu().clone().contiguous()
    listed = json.dumps([list(entry) for entry, _ in rows], ensure_ascii=False)
    with replacing(path) as temporary:
        try:
            save_file(tensors, temporary, {"entries": listed})
        except SafetensorError as error:  # how it reports a full disk
            raise FlowgenError(f"cannot write {path}: {error}; choose another place or make room") from error


def _flat(tree: Any, path: tuple[str, ...]) -> Iterable[tuple[tuple[str, ...], Tensor]]:
    if isinstance(tree, Mapping):
        for name, value in tree.items():
            yield from _flat(value, (*path, name))
    else:
        yield path, tree


def entries_of(path: Path) -> list[Entry]:
    """What a shard lists. FlowgenError: it is not whole, or no shard."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as shard:
            return [Entry(*row) for row in json.loads((shard.metadata() or {})["entries"])]
    except (SafetensorError, OSError, KeyError, ValueError, TypeError) as error:
        raise FlowgenError(f"cannot read {path} ({error}); remove it and run flowgen data cache CONFIG again") from None


def write_header(header: Header, folder: Path) -> None:
    with replacing(folder / "cache.json") as path:
        path.write_text(json.dumps(asdict(header), indent=2, sort_keys=True) + "\n")


def read_header(folder: Path) -> Header | None:
    """What a cache depends on; None: there is no cache. UsageError: the file is none of a cache."""
    path = folder / "cache.json"
    if not path.is_file():
        return None
    try:
        return Header(**read_json(path))
    except TypeError:
        raise UsageError(f"{path} is not that of a latent cache; choose another folder") from None


def sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()

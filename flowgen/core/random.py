"""Random numbers as functions of (seed, purpose, step, position in the global batch).

Nothing here knows a rank: a process that holds rows 32 to 63 of the global batch draws what those rows draw anywhere,
so a run is the same on any number of ranks and under any split into micro-batches.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from flowgen.core.tree import State, tree_map

_BLOCK_ELEMENTS = 4096  # small samples share a generator: seeding one for every 2-D point would cost more than the step


def seed_of(*key: int | str) -> int:
    """A 63-bit seed that depends on every part of `key`."""
    text = "\x1f".join([f"{type(part).__name__}:{part}" for part in key])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1


def seeds_of(key: tuple[int | str, ...], last: Iterable[int]) -> list[int]:
    """`seed_of(*key, n)` for many n, at a third of the cost: a step on small clips has thousands."""
    text = "".join([f"{type(part).__name__}:{part}\x1f" for part in key])
    head = hashlib.blake2b(text.encode(), digest_size=8)
    seeds = []
    for n in last:
        whole = head.copy()
        whole.update(b"int:%d" % n)
        seeds.append(int.from_bytes(whole.digest(), "little") >> 1)
    return seeds


def generator(*key: int | str, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator whose stream depends on every part of `key` and on nothing else."""
    return torch.Generator(device=device).manual_seed(seed_of(*key))


def normal_rows(
    key: tuple[int | str, ...], rows: Tensor, shape: tuple[int, ...], device: torch.device | str = "cpu"
) -> Tensor:
    """Standard normal numbers [len(rows), *shape], float32; row r is a function of (key, r, shape) alone."""
    numel = 1
    for n in shape:
        numel *= n
    block = max(1, _BLOCK_ELEMENTS // max(numel, 1))
    out = torch.empty((len(rows), *shape), device=device)
    if len(rows) > 1 and not (rows.diff() == 1).all():
        ids = rows.div(block, rounding_mode="floor")
        for b in ids.unique().tolist():
            at = (ids == b).nonzero()[:, 0]
            drawn = normal_rows(key, torch.arange(b * block, (b + 1) * block), shape, device)
            out[at.to(device)] = drawn[(rows[at] % block).to(device)]
        return out
    first = int(rows[0]) if len(rows) else 0
    blocks = range(first // block, -(-(first + len(rows)) // block))
    for b, seed in zip(blocks, seeds_of((*key, "block"), blocks), strict=True):
        g = torch.Generator(device).manual_seed(seed)
        low, high = max(b * block, first), min((b + 1) * block, first + len(rows))
        own = out[low - first : high - first]
        if high - low == block:
            torch.randn(own.shape, generator=g, out=own)
        else:
            own.copy_(torch.randn((block, *shape), generator=g, device=device)[low - b * block : high - b * block])
    return out


def uniform_rows(indices: Sequence[int], seeds: Sequence[int], n: int) -> Tensor:
    """n numbers in [0, 1) for each (index, seed), float64 [B, n]: SplitMix64 (Steele et al. 2014), all rows at once.

    For data sets of very small clips: a generator for every point would cost more than the training step that it feeds.
    """
    import numpy as np

    def mix(z: Any) -> Any:
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))

    golden = np.uint64(0x9E3779B97F4A7C15)
    with np.errstate(over="ignore"):
        start = mix(np.asarray(seeds, np.uint64)) + np.asarray(indices, np.uint64) * golden
        z = mix(mix(start)[:, None] + np.arange(1, n + 1, dtype=np.uint64) * golden)
    return torch.from_numpy((z >> np.uint64(11)).astype(np.float64) * 2.0**-53)


@dataclass(frozen=True)
class Randomness:
    """What a loss may draw for some rows of one global batch.

    `batch` is the size of the global batch, `rows` the positions held here (all of them by default). `quantile` pins
    every uniform draw to one value, which is how a validation loss is taken at fixed times. `whole` is the shape of a
    latent of full length (one a stream): the noise of a shorter one is the beginning of that, so that it does not depend
    on how far a batch is padded.
    """

    seed: int
    step: int
    batch: int
    rows: Tensor = field(default=None)  # type: ignore[assignment]
    quantile: float | None = None
    whole: Any = None

    def __post_init__(self) -> None:
        if self.rows is None:
            object.__setattr__(self, "rows", torch.arange(self.batch))

    def at_quantile(self, quantile: float) -> Randomness:
        return replace(self, quantile=quantile)

    def _key(self, purpose: str) -> tuple[int | str, ...]:
        return (self.seed, purpose, self.step)

    def normal(self, like: State, purpose: str = "noise") -> State:
        """Standard normal noise with the structure of `like` ([rows, ...] each leaf), float32."""
        if isinstance(like, dict):
            parts = {k: replace(self, whole=self.whole and self.whole[k]) for k in like}
            return {k: parts[k].normal(v, f"{purpose}/{k}") for k, v in like.items()}  # type: ignore[misc]
        shape = tuple(like.shape[1:])
        longer = self.whole and shape[1:] == tuple(self.whole[1:]) and shape[0] < self.whole[0]
        noise = normal_rows(self._key(purpose), self.rows, tuple(self.whole) if longer else shape, like.device)
        return noise[:, : shape[0]] if longer else noise

    def rademacher(self, like: State, purpose: str = "probe") -> State:
        """Independent signs +1 and -1 with the structure of `like`."""
        return tree_map(lambda z: torch.where(z >= 0, 1.0, -1.0), self.normal(like, purpose))

    def uniform(self, purpose: str = "times", *, stratified: bool = False) -> Tensor:
        """Numbers in (0, 1), float64 [rows]. Stratified: one in each of `batch` equal strata, in random order."""
        if self.quantile is not None:
            return torch.full((len(self.rows),), self.quantile, dtype=torch.float64)
        g = generator(*self._key(purpose))
        u = torch.rand(self.batch, generator=g, dtype=torch.float64)
        if stratified:
            u = (torch.randperm(self.batch, generator=g) + u) / self.batch
        return u[self.rows].clamp(2.0**-40, 1 - 2.0**-40)

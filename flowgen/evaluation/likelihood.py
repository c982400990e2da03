"""Log-likelihood of clips under a trained run, in figures that compare between sizes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from flowgen.core.tree import leaves
from flowgen.media.clip import Clip
from flowgen.runs.generator import Generator


@dataclass(frozen=True)
class LogLikelihood:
    """Of one clip: log p of its latent in nats, and the number of its dimensions."""

    nats: float
    dimensions: int

    @property
    def nats_per_dim(self) -> float:
        return self.nats / self.dimensions

    @property
    def bits_per_dim(self) -> float:
        """-log2 p for each dimension of the latent: less is likelier. A density, so that it may be negative."""
        return -self.nats / (self.dimensions * math.log(2))


def log_likelihoods(
    generator: Generator,
    clips: Sequence[Clip],
    conditions: Sequence[Mapping[str, Any]],
    *,
    exact: bool = False,
    seed: int = 0,
    on_clip: Callable[[int, int], None] | None = None,
) -> list[LogLikelihood]:
    """Of each clip under its conditions; clips of one shape that follow each other are computed together.

    Args:
        exact: take the exact trace, one backward pass a dimension; by default Hutchinson's estimate with one probe.
        on_clip: called with the number of clips done, and their number.
    """
    found: list[LogLikelihood] = []
    for rows in _alike(clips, generator.config.sample.batch_size):
        own = slice(rows.start, rows.stop)
        nats = generator.log_prob(clips[own], conditions[own], exact=exact, seed=seed)
        size = sum(leaf[0].numel() for leaf in leaves(generator.encoder.encode(clips[rows.start : rows.start + 1]).x))
        found += [LogLikelihood(float(value), size) for value in nats]
        if on_clip is not None:
            on_clip(rows.stop, len(clips))
    return found


def mean_and_error(values: Sequence[float]) -> tuple[float, float]:
    """The mean, and its standard error (not-a-number for one value)."""
    mean = sum(values) / len(values)
    if len(values) < 2:
        return mean, math.nan
    variance = sum((v - mean) ** 2 for v in values) / (len(values) - 1)
    return mean, math.sqrt(variance / len(values))


def _alike(clips: Sequence[Clip], size: int) -> Iterator[range]:
    start = 0
    for i in range(1, len(clips) + 1):
        full = i - start == size
        if i == len(clips) or full or _shape(clips[i]) != _shape(clips[start]):
            yield range(start, i)
            start = i


def _shape(clip: Clip) -> list[tuple[int, ...]]:
    return [tuple(leaf.shape) for leaf in leaves(clip.data)]

"""Known regions: parts of a clip that are given, not generated.

A region is a condition that is data: its positions are held at t = 1 and carry no loss, so one network trained with
several regions continues, animates a first frame, interpolates and inpaints. In training a region is drawn for each
sample; at sampling it is what the person has.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from flowgen.core.estimate import Estimate
from flowgen.core.flow import AroundFlow
from flowgen.core.interfaces import Cond, Prediction
from flowgen.core.random import Randomness
from flowgen.core.ranges import NonNegative, Share
from flowgen.core.tree import State, left, tree_map
from flowgen.device import send
from flowgen.media.interfaces import NamesStream
from flowgen.media.streams import Axis, Spec, StreamSpec


class Region(Protocol):
    probability: float
    """How often a training sample has this region."""

    @property
    def along(self) -> tuple[str, ...]:
        """The axes that the region needs."""

    def __call__(self, axes: Sequence[Axis], sizes: Tensor, u: Tensor) -> Tensor:
        """Known positions, bool [B, *axes], drawn by uniform numbers u [B, 4].

        sizes [B, number of axes]: how much of each axis is real, where clips differ in length.
        """


@dataclass(frozen=True)
class _Ranged:
    """`low` to `high`: how much is known, in units of the axis (seconds for time)."""

    probability: Share
    low: NonNegative
    high: NonNegative
    axis: str = "time"
    stream: str | None = None
    """The stream that has the region; by default every one that has the axis."""

    def __post_init__(self) -> None:
        _check(self.probability, self.low, self.high)

    @property
    def along(self) -> tuple[str, ...]:
        return (self.axis,)

    def __call__(self, axes: Sequence[Axis], sizes: Tensor, u: Tensor) -> Tensor:
        at = [axis.name for axis in axes].index(self.axis)
        place, size = torch.arange(axes[at].size), sizes[:, at : at + 1]
        lengths = torch.round((self.low + u[:, :2] * (self.high - self.low)) * axes[at].rate)
        lengths = torch.minimum(lengths.clamp(min=1), size - 1)
        return _spread(self._known(place, size, lengths, u[:, 2:3]), axes, at)

    def _known(self, place: Tensor, size: Tensor, lengths: Tensor, u: Tensor) -> Tensor:
        """bool [B, places] for lengths [B, 2] and one more uniform number [B, 1]."""
        raise NotImplementedError


class Prefix(_Ranged):
    """The beginning is known: continuation, or animation of a first frame."""

    def _known(self, place: Tensor, size: Tensor, lengths: Tensor, u: Tensor) -> Tensor:
        return place < lengths[:, :1]


class Suffix(_Ranged):
    """The end is known: what came before it."""

    def _known(self, place: Tensor, size: Tensor, lengths: Tensor, u: Tensor) -> Tensor:
        return place >= size - lengths[:, :1]


class Ends(_Ranged):
    """Beginning and end are known, each of a length of its own: interpolation."""

    def _known(self, place: Tensor, size: Tensor, lengths: Tensor, u: Tensor) -> Tensor:
        first = lengths[:, :1]
        last = torch.minimum(lengths[:, 1:], size - 1 - first)
        return (place < first) | (place >= size - last)


class Gap(_Ranged):
    """All but a gap is known; `low` to `high` is the length of the gap: inpainting."""

    def _known(self, place: Tensor, size: Tensor, lengths: Tensor, u: Tensor) -> Tensor:
        gap = lengths[:, :1]
        start = torch.floor(u * (size - gap + 1))
        return (place < start) | (place >= start + gap)


@dataclass(frozen=True)
class Outside:
    """All but a box over the named axes is known; `low` to `high` is its side as a share of the axis: spatial inpainting."""

    probability: Share
    low: Share = 0.25
    high: Share = 0.75
    axes: tuple[str, ...] = ("height", "width")
    stream: str | None = None
    """The stream that has the region; by default every one that has these axes."""

    def __post_init__(self) -> None:
        _check(self.probability, self.low, self.high)
        if not 1 <= len(self.axes) <= 3:
            raise ValueError(f"a box has 1 to 3 axes, got {self.axes}")

    @property
    def along(self) -> tuple[str, ...]:
        return self.axes

    def __call__(self, axes: Sequence[Axis], sizes: Tensor, u: Tensor) -> Tensor:
        inside = torch.ones(len(u), *(axis.size for axis in axes), dtype=torch.bool)
        share = self.low + u[:, :1] * (self.high - self.low)
        for i, name in enumerate(self.axes):
            at = [axis.name for axis in axes].index(name)
            place, size = torch.arange(axes[at].size), sizes[:, at : at + 1]
            length = torch.minimum(torch.round(share * size).clamp(min=1), size)
            start = torch.floor(u[:, 1 + i : 2 + i] * (size - length + 1))
            inside &= _spread((place >= start) & (place < start + length), axes, at)
        return ~inside


@dataclass(frozen=True)
class Whole:
    """All of a stream is known: the others are generated from it."""

    probability: Share
    stream: str

    def __post_init__(self) -> None:
        _check_probability(self.probability)

    @property
    def along(self) -> tuple[str, ...]:
        return ()

    def __call__(self, axes: Sequence[Axis], sizes: Tensor, u: Tensor) -> Tensor:
        return torch.ones(len(u), *(axis.size for axis in axes), dtype=torch.bool)


def draw_known(
    regions: Sequence[Region], spec: Spec, x1: State, mask: State | None, random: Randomness
) -> State | None:
    """For each row at most one region, each with its probability: bool [B, *axes]. None where there are no regions.

    In a state of several streams a region holds for the stream that it names, or else for all that have its axes.
    """
    if not regions:
        return None
    choice = random.uniform("known region")
    u = torch.stack([random.uniform(f"known {i}") for i in range(4)], dim=1)

    def leaf(spec: StreamSpec, x1: Tensor, mask: Tensor | None, name: str | None) -> Tensor:
        axes = [replace(axis, size=size) for axis, size in zip(spec.axes, x1.shape[1:-1], strict=True)]
        sizes = torch.tensor([axis.size for axis in axes]).repeat(len(x1), 1)
        if mask is not None and axes:  # only the first axis, time, varies in length
            sizes[:, 0] = mask.reshape(len(mask), mask.shape[1], -1)[:, :, 0].sum(1).cpu()
        known = torch.zeros(x1.shape[:-1], dtype=torch.bool)
        below = 0.0
        for region in regions:
            rows = (choice >= below) & (choice < below + region.probability)
            below += region.probability
            if rows.any() and holds(region, name, spec):
                known[rows] = region(axes, sizes[rows], u[rows])
        return send(known, x1.device)

    names = None if isinstance(spec, StreamSpec) else {name: name for name in spec}
    return tree_map(leaf, spec, x1, mask, names)


def stream_of(region: Region) -> str | None:
    """The stream that a region names, if any."""
    return region.stream if isinstance(region, NamesStream) else None


def holds(region: Region, name: str | None, spec: StreamSpec) -> bool:
    """Whether a region holds for a stream (None: the only one)."""
    return stream_of(region) in (None, name) and set(region.along) <= {axis.name for axis in spec.axes}


def check_regions(regions: Sequence[Region], spec: Spec) -> None:
    """ValueError: probabilities above 1 in all, a stream that is not there, or an axis that no stream has."""
    total = sum(region.probability for region in regions)
    if total > 1 + 1e-9:
        raise ValueError(f"the probabilities of the known regions sum to {total:g}; at most 1 is possible")
    streams: dict[str | None, StreamSpec] = {None: spec} if isinstance(spec, StreamSpec) else dict(spec.items())
    for region in regions:
        wanted = stream_of(region)
        if wanted is not None and wanted not in streams:
            have = "one stream" if isinstance(spec, StreamSpec) else ", ".join(spec)
            raise ValueError(f"a known region names the stream {wanted!r}; the latents have {have}")
        if not any(holds(region, name, stream) for name, stream in streams.items()):
            own = [stream for name, stream in streams.items() if wanted in (None, name)]
            names = sorted({axis.name for stream in own for axis in stream.axes})
            raise ValueError(
                f"a known region runs along {', '.join(region.along)}; the latents have {', '.join(names) or 'no axes'}"
            )


@dataclass(frozen=True)
class KnownFlow(AroundFlow):
    """A flow in which some positions are given: the network sees them as they are, at t = 1, and nothing moves them.

    It wraps the plain flow and is itself wrapped by guidance. Of what it is told about the given positions, a solver reads
    that their data estimate is what they are.

    Args:
        x1: the given values [B or 1, ...], a leaf for each of the state.
        known: bool [B or 1, *axes], where they hold.
    """

    x1: State
    known: State

    def __call__(self, x: State, t: Tensor | dict[str, Tensor], cond: Cond | None = None) -> Estimate:
        x1, known = (tree_map(lambda given, x: _rows(given, len(x)), given, x) for given in (self.x1, self.known))
        seen = tree_map(lambda x, x1, known: torch.where(known[..., None], x1.to(x.dtype), x), x, x1, known)
        times = tree_map(lambda known, t: torch.where(known, 1.0, left(t.float().to(known.device), known)), known, t)
        said = self.flow(seen, times, cond)

        def leaf(value: Tensor, x1: Tensor, known: Tensor, prediction: Prediction) -> Tensor:
            still = x1.to(value.dtype) if prediction == "data" else value.new_zeros(())
            return torch.where(known[..., None], still, value)

        return Estimate(said.path, seen, t, said.prediction, tree_map(leaf, said.value, x1, known, said.prediction))

    def restore(self, x: State) -> State:
        """x with the given positions exactly as they were given."""
        return tree_map(lambda x, x1, known: torch.where(known[..., None], x1.to(x.dtype), x), x, self.x1, self.known)


def _rows(given: Tensor, n: int) -> Tensor:
    """Rows for a batch that guidance has doubled, or one for all."""
    return given if len(given) == n else given.repeat(n // len(given), *[1] * (given.ndim - 1))


def _check_probability(probability: float) -> None:
    if not 0 < probability <= 1:
        raise ValueError(f"probability must lie in (0, 1], got {probability}")


def _check(probability: float, low: float, high: float) -> None:
    _check_probability(probability)
    if not 0 < low <= high:
        raise ValueError(f"expected 0 < low <= high, got {low} and {high}")


def _spread(mask: Tensor, axes: Sequence[Axis], at: int) -> Tensor:
    """A mask [B, size] of one axis as [B, *axes]."""
    shape = [1] * len(axes)
    shape[at] = axes[at].size
    return mask.reshape(len(mask), *shape).expand(len(mask), *(axis.size for axis in axes))

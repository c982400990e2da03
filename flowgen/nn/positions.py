"""Where a token lies, in physical units, as angles: rotary positions over any axes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TypeAlias

import torch
from torch import Tensor, nn

from flowgen.media.streams import Axis

_TABLES = 32  # grid shapes remembered; a training run has a handful of buckets


Rotation: TypeAlias = Tensor
"""exp(i angle) of each token, as cos and sin, float32 [tokens, 1, 1, pairs, 2], for heads of 2 x pairs channels."""


def rotate(x: Tensor, rotation: Rotation) -> Tensor:
    """Turn the channel pairs (2i, 2i + 1) of x [B, tokens, ..., heads, D] by their token's angles (Su et al. 2021, eq. 15)."""
    pairs = x.unflatten(-1, (-1, 2))
    if not torch.compiler.is_compiling():  # one pass over memory instead of seven; a compiler fuses the other form
        return torch.view_as_real(torch.view_as_complex(pairs) * torch.view_as_complex(rotation)).flatten(-2)
    (a, b), (cos, sin) = pairs.unbind(-1), rotation.unbind(-1)
    return torch.stack([a * cos - b * sin, b * cos + a * sin], -1).flatten(-2)


class Positions(nn.Module):
    """Rotary tables for a grid of tokens over the declared axes.

    A position on the axis "time" is in seconds, so a longer clip is more of the same. On any other axis it is a fraction of
    the whole, so another resolution shows the same picture. Each axis has an equal share of the channel pairs, with
    angular frequencies from a quarter turn a token (neighbours are told apart, nothing aliases) down to a quarter turn over
    the whole axis. They are fixed by the spec a network is first trained with, and stored with its weights: after
    `init_from` at another size or rate, an angle still means what it meant.

    Args:
        axes: the axes of the stream.
        patch: steps a token spans on each axis.
        pairs: channel pairs of a head, shared out among the axes.
    """

    frequencies: Tensor

    def __init__(self, axes: tuple[Axis, ...], patch: tuple[int, ...], pairs: int) -> None:
        super().__init__()
        if pairs < len(axes):
            raise ValueError(
                f"a head of {2 * pairs} channels has fewer pairs than the {len(axes)} axes; use fewer heads or more width"
            )
        self.units = tuple(
            axis.rate if axis.name == "time" else None for axis in axes
        )  # steps a second, or None: fraction
        self.patch = patch
        self.shares = tuple(pairs // len(axes) + (i < pairs % len(axes)) for i in range(len(axes)))
        bands = []
        for axis, p, share, unit in zip(axes, patch, self.shares, self.units, strict=True):
            extent = axis.size / unit if unit else 1.0
            low, high = math.pi / 2 / extent, math.pi / 2 / extent * max(axis.size // p, 1)
            bands.append(torch.logspace(math.log10(high), math.log10(low), share))
        self.register_buffer("frequencies", torch.cat(bands))  # radians a second, or a whole axis
        self._tables: dict[tuple[object, ...], Rotation] = {}
        self.register_load_state_dict_post_hook(_forget)

    def forward(self, grid: tuple[int, ...]) -> Rotation:
        """The tables of a grid of tokens, in row-major order."""
        key = (grid, self.frequencies.device)
        if key not in self._tables:
            if len(self._tables) >= _TABLES:
                self._tables.clear()
            # a table made while sampling must still serve training
            with torch.inference_mode(False), torch.no_grad():
                self._tables[key] = self._build(grid)
        return self._tables[key]

    def _build(self, grid: tuple[int, ...]) -> Rotation:
        bands = self.frequencies.float().split(self.shares)
        angles = []
        for i, (n, p, unit, band) in enumerate(zip(grid, self.patch, self.units, bands, strict=True)):
            centre = torch.arange(n, device=band.device, dtype=torch.float32) + 0.5
            position = centre * p / unit if unit else centre / n
            shape = [1] * len(grid) + [len(band)]
            shape[i] = n
            angles.append((position[:, None] * band).reshape(shape).expand(*grid, -1))
        angle = torch.cat(angles, -1).flatten(0, -2)[:, None, None]
        return torch.stack([angle.cos(), angle.sin()], -1)


class CommonPositions(nn.Module):
    """Rotary tables for the tokens of several streams: what happens at one time has one angle, whatever the rates.

    Half of the channel pairs (all, where no stream has other axes) are for the axis "time", in seconds, with frequencies
    from a quarter turn over the longest stream up to a quarter turn a token of the finest. The rest are shared out among
    the other axes by name, as `Positions` does; a stream without one of them has angle 0 there.

    Args:
        axes: of each stream, by name.
        patches: by stream, steps a token spans on each axis.
        pairs: channel pairs of a head.
    """

    frequencies: Tensor

    def __init__(
        self, axes: Mapping[str, tuple[Axis, ...]], patches: Mapping[str, tuple[int, ...]], pairs: int
    ) -> None:
        super().__init__()
        self.axes, self.patches = dict(axes), dict(patches)
        spans: dict[str, tuple[float, float]] = {}  # by axis, its extent and the most tokens over it
        for stream, own in axes.items():
            for axis, p in zip(own, patches[stream], strict=True):
                extent = axis.size / axis.rate if axis.name == "time" else 1.0
                longest, finest = spans.get(axis.name, (0.0, 0.0))
                spans[axis.name] = (max(longest, extent), max(finest, max(axis.size // p, 1) / extent))
        if pairs < max(1, len(spans)):
            raise ValueError(
                f"a head of {2 * pairs} channels has fewer pairs than the {len(spans)} axes; use fewer heads or more width"
            )
        self.shares = _shares(list(spans), pairs)
        bands = [
            torch.logspace(math.log10(math.pi / 2 * finest), math.log10(math.pi / 2 / longest), self.shares[name])
            for name, (longest, finest) in spans.items()
        ]
        self.register_buffer("frequencies", torch.cat(bands) if bands else torch.zeros(pairs))
        self._tables: dict[tuple[object, ...], Rotation] = {}
        self.register_load_state_dict_post_hook(_forget)

    def forward(self, grids: Mapping[str, tuple[int, ...]]) -> Rotation:
        """The tables of the tokens of all streams, one stream after the other, each in row-major order."""
        key = (tuple(grids.items()), self.frequencies.device)
        if key not in self._tables:
            if len(self._tables) >= _TABLES:
                self._tables.clear()
            with torch.inference_mode(False), torch.no_grad():
                self._tables[key] = torch.cat([self._build(name, grid) for name, grid in grids.items()])
        return self._tables[key]

    def seconds(self, grids: Mapping[str, tuple[int, ...]]) -> Tensor:
        """Of the centre of each token [N], in the order of `forward`; not-a-number where its stream has no time."""
        parts = []
        for name, grid in grids.items():
            at = torch.full(grid, math.nan, device=self.frequencies.device)
            for i, (axis, p) in enumerate(zip(self.axes[name], self.patches[name], strict=True)):
                if axis.name == "time":
                    shape = [grid[i] if j == i else 1 for j in range(len(grid))]
                    at = ((torch.arange(grid[i], device=at.device) + 0.5) * p / axis.rate).reshape(shape).expand(grid)
            parts.append(at.reshape(-1))
        return torch.cat(parts)

    def _build(self, stream: str, grid: tuple[int, ...]) -> Rotation:
        angles = []
        bands = dict(zip(self.shares, self.frequencies.float().split(list(self.shares.values())), strict=True))
        names = [axis.name for axis in self.axes[stream]]
        for name, band in bands.items():
            position = torch.zeros((1,) * len(grid), device=band.device)
            if name in names:
                i = names.index(name)
                axis, p = self.axes[stream][i], self.patches[stream][i]
                centre = torch.arange(grid[i], device=band.device, dtype=torch.float32) + 0.5
                position = centre * p / axis.rate if name == "time" else centre / grid[i]
                position = position.reshape([grid[i] if j == i else 1 for j in range(len(grid))])
            angles.append((position[..., None] * band).expand(*grid, -1))
        angle = (torch.cat(angles, -1) if angles else self.frequencies.expand(*grid, -1)).reshape(
            math.prod(grid), 1, 1, -1
        )
        return torch.stack([angle.cos(), angle.sin()], -1)


def _shares(names: list[str], pairs: int) -> dict[str, int]:
    """Channel pairs of each axis: half for the time, the others alike."""
    others = [name for name in names if name != "time"]
    if "time" not in names or not others:
        return {name: pairs // len(names) + (i < pairs % len(names)) for i, name in enumerate(names)}
    rest = max(pairs // 2, len(others))
    share = {name: rest // len(others) + (i < rest % len(others)) for i, name in enumerate(others)}
    return {name: pairs - rest if name == "time" else share[name] for name in names}


def _forget(module: nn.Module, incompatible: object) -> None:
    module._tables.clear()  # type: ignore[operator, union-attr]

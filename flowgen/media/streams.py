"""What a latent looks like: its axes in physical units, and its channels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias


@dataclass(frozen=True)
class Axis:
    """One axis of a stream: `size` steps as trained, `rate` steps for each unit (a second, a pixel)."""

    name: str
    size: int
    rate: float = 1.0


@dataclass(frozen=True)
class StreamSpec:
    """A stream of latents [B, *axes, channels]. No axes: a plain vector."""

    channels: int
    axes: tuple[Axis, ...] = ()

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one latent, without the batch."""
        return (*(axis.size for axis in self.axes), self.channels)


Spec: TypeAlias = StreamSpec | Mapping[str, StreamSpec]
"""One spec, or a dict of specs with one a stream: the structure of the state."""

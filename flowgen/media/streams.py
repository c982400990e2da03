"""What a latent looks like: its axes in physical units, and its channels."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from flowgen.errors import UsageError, unknown


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


def check_streams(key: str, named: Iterable[str], spec: Spec) -> None:
    """UsageError: what a config gives by stream under `key` is not given for the streams of the latents, each once."""
    if isinstance(spec, StreamSpec):
        raise UsageError(f"{key} is given by stream ({', '.join(named)}), and the latents are one stream; give one")
    names = list(named)
    for name in names:
        if name not in spec:
            raise UsageError(f"{key}: {unknown('stream', name, spec)}")
    if missing := [name for name in spec if name not in names]:
        raise UsageError(f"{key}: give one for each stream; {', '.join(missing)} has none")


Spec: TypeAlias = StreamSpec | Mapping[str, StreamSpec]
"""One spec, or a dict of specs with one a stream: the structure of the state."""

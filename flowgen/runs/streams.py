"""The encoder of several streams: one encoder for each."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import torch
from torch import Tensor, nn

from flowgen.config import build
from flowgen.config.schema import OnePerStream, StreamSlot
from flowgen.errors import FlowgenError, UsageError
from flowgen.media.clip import Clip
from flowgen.media.encoder import Encoder, Latents
from flowgen.media.interfaces import KnownLengths, MarksMasks, Modality, SeesBeyondCuts, SeveralStreams
from flowgen.media.streams import StreamSpec, check_streams


def streams(modality: Modality, encoders: Annotated[OnePerStream, StreamSlot("encoder")]) -> Streams:
    """Latents by stream, each from an encoder of its own: `encoders: {sound: mel, picture: {type: patches}}`.

    Lengths may be chosen where all encoders let them be, and masks are taken by the streams whose encoders take them. A clip
    that lacks a stream has a mask there that is false throughout.
    """
    if not isinstance(modality, SeveralStreams):
        raise UsageError("encoder: the modality has one stream; take an encoder of its own in place of 'streams'")
    specs = {name: StreamSpec(1) for name in modality.streams}
    check_streams("encoder.encoders", encoders, specs)
    parts = {name: build("encoder", encoders[name], modality=modality.streams[name]) for name in specs}
    for name, part in parts.items():
        if not isinstance(part.spec, StreamSpec):
            raise UsageError(
                f"encoder.encoders.{name}: {encoders[name].type!r} makes several streams; take one that makes one"
            )
    bases: list[type] = []
    if all(isinstance(part, KnownLengths) for part in parts.values()):
        bases.append(_Timed)
    if any(isinstance(part, MarksMasks) for part in parts.values()):
        bases.append(_Masked)
    return type("Streams", (*bases, Streams), {})(modality, parts)


class Streams(Encoder):
    """Encoders by stream as one, over clips of a medium of several streams."""

    spec: dict[str, StreamSpec]

    def __init__(self, modality: SeveralStreams, encoders: Mapping[str, Encoder]) -> None:
        super().__init__()
        self.modality = modality
        self.encoders = nn.ModuleDict(encoders)
        self.spec = {name: encoder.spec for name, encoder in encoders.items()}  # type: ignore[misc]

    def parts(self) -> dict[str, Any]:
        """The encoders by stream."""
        return dict(self.encoders.items())

    @property
    def context(self) -> dict[str, int]:
        return {name: _context(part) for name, part in self.parts().items()}

    def fit(self, clips: Sequence[Clip]) -> None:
        for name, part in self.parts().items():
            own = [found for clip in clips if (found := self.modality.stream_of(clip, name)) is not None]
            if not own:
                raise FlowgenError(f"no clip of the training set has the stream {name!r}; leave it out of the modality")
            part.fit(own)

    def encode(self, clips: Sequence[Clip]) -> Latents:
        found = {name: self._encode(name, part, clips) for name, part in self.parts().items()}
        x: dict[str, Any] = {name: latents.x for name, latents in found.items()}
        if all(latents.mask is None for latents in found.values()):
            return Latents(x)
        mask: dict[str, Any] = {name: latents.mask for name, latents in found.items()}
        return Latents(x, {name: _real(x[name]) if own is None else own for name, own in mask.items()})

    def _encode(self, name: str, part: Encoder, clips: Sequence[Clip]) -> Latents:
        """Latents of one stream, zero and masked for the clips that lack it."""
        own = [self.modality.stream_of(clip, name) for clip in clips]
        present = [clip for clip in own if clip is not None]
        if len(present) == len(own):
            return part.encode(present)
        if not present:
            place = next((tensor.device for tensor in part.state_dict().values()), torch.device("cpu"))
            x = torch.zeros(len(own), *self.spec[name].shape, device=place)
            return Latents(x, torch.zeros(x.shape[:-1], dtype=torch.bool, device=place))
        latents: Any = part.encode(present)
        real = _real(latents.x) if latents.mask is None else latents.mask
        rows = torch.tensor([clip is not None for clip in own], device=real.device)
        x, mask = (torch.zeros(len(own), *v.shape[1:], dtype=v.dtype, device=v.device) for v in (latents.x, real))
        x[rows], mask[rows] = latents.x, real
        return Latents(x, mask)

    def decode(self, latents: Latents) -> list[Clip]:
        n = len(next(iter(latents.x.values())))
        found: list[dict[str, Clip]] = [{} for _ in range(n)]
        for name, part in self.parts().items():
            x, mask = latents.x[name], None if latents.mask is None else latents.mask[name]  # type: ignore[index]
            rows = (
                torch.ones(n, dtype=torch.bool)
                if mask is None
                else mask.flatten(1).any(1).cpu()
                if mask.ndim > 1
                else mask.cpu()
            )
            if not bool(rows.any()):
                continue
            at = rows.to(x.device)
            # a mask of 1 throughout says nothing, and a stream without axes takes none
            own = None if mask is None or bool(mask[at].all()) else mask[at]
            for i, clip in zip(rows.nonzero()[:, 0].tolist(), part.decode(Latents(x[at], own)), strict=True):
                found[i][name] = clip
        return [self.modality.combined(parts) for parts in found]

    @property
    def identity(self) -> str:
        """A hash of the identities of all streams' encoders."""
        names = [f"{name}:{part.identity}" for name, part in sorted(self.parts().items())]
        return hashlib.sha256("streams".join(names).encode()).hexdigest()[:16]


class _Timed(Streams):
    def latent_shape(self, seconds: float) -> dict[str, Any]:
        return {name: part.latent_shape(seconds) for name, part in self.parts().items()}


class _Masked(Streams):
    def marked(self, mask: Clip) -> dict[str, Tensor]:
        found = {}
        for name, part in self.parts().items():
            own = self.modality.stream_of(mask, name) if isinstance(part, MarksMasks) else None
            if own is not None:
                found[name] = part.marked(own)
        return found


def _real(x: Tensor) -> Tensor:
    return torch.ones(x.shape[:-1], dtype=torch.bool, device=x.device)


def _context(part: Encoder) -> int:
    return part.context if isinstance(part, SeesBeyondCuts) and isinstance(part.context, int) else 0

"""Encoders: between clips and the latents that a flow lives in."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import NamedTuple

from torch import nn

from flowgen.core.tree import State
from flowgen.media.clip import Clip
from flowgen.media.streams import Spec


class Latents(NamedTuple):
    """Latents [B, *axes, channels] (one leaf a stream), and which positions are real (bool [B, *axes], None: all)."""

    x: State
    mask: State | None = None


class Encoder(nn.Module):
    """Encode clips to latents of about unit variance and decode them again.

    A subclass sets `spec` and implements `encode` and `decode`; one that measures statistics of the data set does so in
    `fit` and keeps them in buffers, so that they are stored with the run. What it may offer besides stands in
    `flowgen.media.interfaces`: `KnownLengths`, `SeesBeyondCuts`, `MarksMasks`.
    """

    spec: Spec
    crops_in_time: bool = True
    """Whether a part in time of a clip's latents is latents of a part of the clip, up to its `context`: a latent cache crops them."""

    def fit(self, clips: Sequence[Clip]) -> None:
        """Measure what depends on the data set. Called once, before training, with clips of the training set."""

    def encode(self, clips: Sequence[Clip]) -> Latents:
        """Latents of clips, on this module's device."""
        raise NotImplementedError

    def decode(self, latents: Latents) -> list[Clip]:
        """Clips of latents, on the CPU, without conditions."""
        raise NotImplementedError

    @property
    def identity(self) -> str:
        """A hash of kind, shape and weights: what cached latents and trained networks depend on."""
        h = hashlib.sha256(f"{type(self).__module__}.{type(self).__qualname__}{self.spec}".encode())
        for name, tensor in sorted(self.state_dict().items()):
            h.update(name.encode())
            h.update(tensor.detach().float().cpu().numpy().tobytes())
        return h.hexdigest()[:16]

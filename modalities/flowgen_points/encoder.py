"""Points to latents and back: one number to divide by."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from flowgen.core.ranges import NonNegative
from flowgen.device import send
from flowgen.media.clip import Clip
from flowgen.media.encoder import Encoder, Latents
from flowgen.media.streams import StreamSpec
from flowgen_points.modality import Points, stack


class ScaledPoints(Encoder):
    """Points divided by the standard deviation of the data about the origin (`std`; 0: measured before training)."""

    scale: Tensor

    def __init__(self, modality: Points, *, std: NonNegative = 0.0) -> None:
        super().__init__()
        self.spec = StreamSpec(channels=2)
        self.measured = std == 0
        self.register_buffer("scale", torch.tensor(std or 1.0))

    def fit(self, clips: Sequence[Clip]) -> None:
        if self.measured:
            self.scale.copy_(stack(clips).square().mean().sqrt())

    def encode(self, clips: Sequence[Clip]) -> Latents:
        return Latents(send(stack(clips), self.scale.device) / self.scale)

    def decode(self, latents: Latents) -> list[Clip]:
        assert isinstance(latents.x, Tensor)
        return [Clip(point) for point in (latents.x * self.scale).cpu()]

"""Encoders of frames."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from flowgen.clip import Clip
from flowgen.encoder import Encoder, Latents
from flowgen.errors import FlowgenError, UsageError
from flowgen.streams import Axis, StreamSpec
from flowgen_video.modality import Video


class Pixels(Encoder):
    """Bytes 0 to 255 as numbers from -1 to 1 and back, exactly; what lies outside [-1, 1] is clipped when decoded.

    Latents are [B, T, H, W, C]. Patches, in space and time, are the network's affair.
    """

    scale: Tensor

    def __init__(self, modality: Video) -> None:
        super().__init__()
        self.modality = modality
        self.spec = StreamSpec(
            channels=modality.channels,
            axes=(
                Axis("time", modality.frames, rate=modality.fps),
                Axis("height", modality.height),
                Axis("width", modality.width),
            ),
        )
        self.register_buffer("scale", torch.tensor(127.5), persistent=False)

    def latent_shape(self, seconds: float) -> tuple[int, ...]:
        """The shape of the latent of a clip of so many seconds, in whole frames."""
        frames = round(seconds * self.modality.fps)
        if frames < 1:
            raise UsageError(f"{seconds:g} s is less than one frame at {self.modality.fps:g} frames a second")
        return (frames, self.modality.height, self.modality.width, self.modality.channels)

    def encode(self, clips: Sequence[Clip]) -> Latents:
        return Latents(torch.stack([self._frames(clip) for clip in clips]) / self.scale - 1)

    def decode(self, latents: Latents) -> list[Clip]:
        assert isinstance(latents.x, Tensor)
        frames = ((latents.x.float() + 1) * 127.5).round().clamp(0, 255).to("cpu", torch.uint8)
        return [Clip(data=x, rate=self.modality.fps) for x in frames]

    def _frames(self, clip: Clip) -> Tensor:
        expected = (self.modality.height, self.modality.width, self.modality.channels)
        if not isinstance(clip.data, Tensor) or clip.data.dtype != torch.uint8 or clip.data.shape[1:] != expected:
            found = (
                f"{clip.data.dtype} {tuple(clip.data.shape)}" if isinstance(clip.data, Tensor) else "several streams"
            )
            raise FlowgenError(
                f"clip {clip.source or '?'}: expected bytes of shape [T, {', '.join(map(str, expected))}], got {found}"
            )
        return clip.data.to(self.scale.device, torch.float32)

"""Encoders of frames."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from flowgen.device import send
from flowgen.errors import FlowgenError, UsageError
from flowgen.media.clip import Clip
from flowgen.media.encoder import Encoder, Latents
from flowgen.media.streams import Axis, StreamSpec
from flowgen_video.modality import Video


class Pixels(Encoder):
    """Bytes 0 to 255 as numbers from -1 to 1 and back, exactly; what lies outside [-1, 1] is clipped when decoded.

    Latents are [B, T, H, W, C], in whatever size the clips of a batch have. Patches, in space and time, are the network's affair.
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
        frames = [self._frames(clip) for clip in clips]
        for clip, x in zip(clips, frames, strict=True):
            if x.shape != frames[0].shape:
                raise FlowgenError(
                    f"clip {clip.source or '?'} is {'x'.join(map(str, x.shape[:3]))} and {clips[0].source or 'the first'} "
                    f"{'x'.join(map(str, frames[0].shape[:3]))} (frames, height, width); one batch is of one size"
                )
        return Latents(torch.stack(frames) / self.scale - 1)

    def decode(self, latents: Latents) -> list[Clip]:
        assert isinstance(latents.x, Tensor)
        frames = ((latents.x.float() + 1) * 127.5).round().clamp(0, 255).to("cpu", torch.uint8)
        return [Clip(data=x, rate=self.modality.fps) for x in frames]

    def marked(self, mask: Clip) -> Tensor:
        """Which positions a mask in black and white marks (is light at), bool [T, H, W]."""
        return self._frames(mask).mean(-1) >= 128

    def _frames(self, clip: Clip) -> Tensor:
        channels = self.modality.channels
        fits = isinstance(clip.data, Tensor) and clip.data.ndim == 4 and clip.data.shape[3] == channels
        if not fits or clip.data.dtype != torch.uint8:  # type: ignore[union-attr]
            found = (
                f"{clip.data.dtype} {tuple(clip.data.shape)}" if isinstance(clip.data, Tensor) else "several streams"
            )
            raise FlowgenError(f"clip {clip.source or '?'}: expected bytes of shape [T, H, W, {channels}], got {found}")
        return send(clip.data, self.scale.device).float()  # type: ignore[arg-type]

"""Latents [B, T, 45]: every coordinate of every joint, less its mean, in units of the deviation of that coordinate."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from flowgen.media.clip import Clip
from flowgen.media.encoder import Encoder, Latents
from flowgen.media.streams import Axis, StreamSpec
from flowgen_motion.modality import Motion
from flowgen_motion.skeleton import NAMES


class Joints(Encoder):
    """Where the root is, and where every other joint is relative to it."""

    mean: Tensor
    std: Tensor

    def __init__(self, modality: Motion) -> None:
        super().__init__()
        self.modality = modality
        self.spec = StreamSpec(3 * len(NAMES), (Axis("time", modality.frames, modality.fps),))
        self.register_buffer("mean", torch.zeros(len(NAMES), 3))
        self.register_buffer("std", torch.ones(len(NAMES), 3))

    def fit(self, clips: Sequence[Clip]) -> None:
        frames = torch.cat([_relative(clip.data) for clip in clips])  # type: ignore[arg-type]
        self.mean.copy_(frames.mean(0))
        self.std.copy_(frames.std(0).clamp(min=0.02))  # two centimetres: what hardly moves is not blown up

    def encode(self, clips: Sequence[Clip]) -> Latents:
        joints = torch.stack([_relative(clip.data) for clip in clips]).to(self.mean)  # type: ignore[arg-type]
        return Latents(((joints - self.mean) / self.std).flatten(2))

    def decode(self, latents: Latents) -> list[Clip]:
        assert isinstance(latents.x, Tensor)
        joints = latents.x.float().unflatten(2, (len(NAMES), 3)) * self.std + self.mean
        root = joints[:, :, :1]
        joints = torch.cat([root, joints[:, :, 1:] + root], 2).cpu()
        return [Clip(one, self.modality.fps) for one in joints]


def _relative(joints: Tensor) -> Tensor:
    root = joints[:, :1]
    return torch.cat([root, joints[:, 1:] - root], 1)

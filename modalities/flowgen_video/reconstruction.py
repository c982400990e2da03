"""The loss of an autoencoder of video, and how near frames that it gives back are to what they were."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from flowgen.core.losses.reconstruction import WeightedReconstruction
from flowgen.core.random import Randomness
from flowgen.core.ranges import NonNegative, Whole
from flowgen.media.clip import Clip
from flowgen_video.modality import Video
from flowgen_video.quality import psnr, ssim

_MOVES = 20
"""Of 255: a pixel whose difference from the median of its clip is above this somewhere moves."""


class VideoReconstruction(WeightedReconstruction):
    """A weighted sum of distances between frames in [-1, 1], of autoencoders of video; each is logged under its name.

    Args:
        l1: mean absolute difference.
        l2: mean squared difference.
        change: mean absolute difference of the changes from frame to frame.
        move: training clips are moved by up to so many pixels each way, around their edges, so that the code does not rest on
            where its blocks lie.
    """

    def __init__(
        self,
        modality: Video,
        l1: NonNegative = 1.0,
        l2: NonNegative = 10.0,
        change: NonNegative = 0.0,
        move: Whole = 0,
    ) -> None:
        super().__init__({"l1": l1, "l2": l2, "change": change})
        self.move = move

    def reconstruction_loss(self, x: Tensor, made: Tensor, mask: Tensor | None = None) -> dict[str, Tensor]:
        difference = made.float() - x.float()
        found = {
            "l1": difference.abs().flatten(1).mean(1),
            "l2": difference.square().flatten(1).mean(1),
            "change": difference.diff(dim=1).abs().flatten(1).sum(1) / difference[0].numel(),
        }
        return {name: found[name] for name in self.weights}

    def varied(self, x: Tensor, random: Randomness) -> Tensor:
        if not self.move:
            return x
        by = [(random.uniform(f"move {axis}") * (2 * self.move + 1)).long() - self.move for axis in ("down", "right")]
        moved = [
            clip.roll((down, right), (1, 2)) for clip, down, right in zip(x, *(b.tolist() for b in by), strict=True)
        ]
        return torch.stack(moved)


def fidelity(made: Sequence[Clip], truth: Sequence[Clip]) -> dict[str, float]:
    """PSNR in dB of whole clips, `psnr_moving` of the pixels that move somewhere in their clip, and SSIM; means over clips."""
    found: dict[str, list[float]] = {"psnr_db": [], "psnr_moving_db": [], "ssim": []}
    for one, real in zip(made, truth, strict=True):
        a, b = one.data, real.data
        assert isinstance(a, Tensor)
        assert isinstance(b, Tensor)
        # a clip's frames stacked on top of each other: one error a clip
        found["psnr_db"].append(float(psnr(a.flatten(0, 1), b.flatten(0, 1)).clamp(max=100)))
        found["ssim"].append(float(ssim(a, b).mean()))
        moves = moving(b).expand_as(b)
        if moves.any():
            error = (a.double() - b.double())[moves].square().mean()
            found["psnr_moving_db"].append(float((10 * torch.log10(255.0**2 / error)).clamp(max=100)))
    return {name: sum(each) / len(each) for name, each in found.items() if each}


def moving(frames: Tensor) -> Tensor:
    """Which pixels of uint8 frames [T, H, W, C] are somewhere far from their median over the clip, bool [1, H, W, C]."""
    x = frames.float()
    return ((x - x.median(0, keepdim=True).values).abs() > _MOVES).any(0, keepdim=True)

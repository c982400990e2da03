"""The loss of an autoencoder of video, and how near frames that it gives back are to what they were."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from flowgen.core.losses.reconstruction import WeightedReconstruction
from flowgen.core.random import Randomness
from flowgen.core.ranges import NonNegative, Whole
from flowgen.media.clip import Clip
from flowgen_video.embedding import efficientnet
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
        perceptual: distance of features of EfficientNet-Lite0, see `Perceptual` (extra: efficientnet).
        move: training clips are moved by up to so many pixels each way, mirrored at their edges, so that the code does not rest
            on where its blocks lie.
        tint: contrast and the level of each colour change by up to this much in training, of the range from -1 to 1, so that it
            does not rest on the colours of few recordings.
    """

    def __init__(
        self,
        modality: Video,
        l1: NonNegative = 1.0,
        l2: NonNegative = 10.0,
        change: NonNegative = 0.0,
        perceptual: NonNegative = 0.0,
        move: Whole = 0,
        tint: NonNegative = 0.0,
    ) -> None:
        super().__init__({"l1": l1, "l2": l2, "change": change, "perceptual": perceptual})
        # frozen, and none of the modules: it is neither trained nor saved with the run
        self._perceptual = Perceptual() if perceptual else None
        self.move, self.tint = move, tint

    def reconstruction_loss(self, x: Tensor, made: Tensor, mask: Tensor | None = None) -> dict[str, Tensor]:
        difference = made.float() - x.float()
        found = {
            "l1": difference.abs().flatten(1).mean(1),
            "l2": difference.square().flatten(1).mean(1),
            "change": difference.diff(dim=1).abs().flatten(1).sum(1) / difference[0].numel(),
        }
        if self._perceptual is not None:
            found["perceptual"] = self._perceptual(x.float(), made.float())
        return {name: found[name] for name in self.weights}

    def varied(self, x: Tensor, random: Randomness) -> Tensor:
        if self.tint:
            contrast = 1 + self.tint * _signed(random, "contrast", x)[:, None, None, None, None]
            levels = torch.stack([_signed(random, f"level {c}", x) for c in range(x.shape[-1])], -1)
            x = (x * contrast + self.tint * levels[:, None, None, None, :]).clamp(-1, 1)
        if self.move:
            down, right = (
                (_signed(random, f"move {axis}", x) * (self.move + 0.5)).round().clamp(-self.move, self.move).long()
                for axis in ("down", "right")
            )
            x = torch.stack([_moved(*each) for each in zip(x, down.tolist(), right.tolist(), strict=True)])
        return x


class Perceptual:
    """The squared distance of features of two videos, each position's of unit length, a sum over layers at 1/2 to 1/16 of
    the size (Zhang et al. 2018, with equal weights and a network that ships in a package).

    FlowgenError: its packages are missing.
    """

    layers = (0, 2, 4, 10)

    def __init__(self) -> None:
        self.network = efficientnet("the weight perceptual of the loss").requires_grad_(False)
        self._seen: list[Tensor] = []
        blocks = list(self.network._blocks)
        for i in self.layers:
            blocks[i].register_forward_hook(lambda module, given, made: self._seen.append(made))

    def __call__(self, x: Tensor, made: Tensor) -> Tensor:
        """Distances [B] of frames [B, T, H, W, C] in [-1, 1]; means over frames."""
        self.network.to(x.device)
        total = x.new_zeros(len(x))
        for a, b in zip(self._features(x), self._features(made), strict=True):
            total = total + (a - b).square().sum(1).mean((1, 2)).unflatten(0, x.shape[:2]).mean(1)
        return total

    def _features(self, x: Tensor) -> list[Tensor]:
        self._seen.clear()
        self.network.extract_features(x.flatten(0, 1).permute(0, 3, 1, 2).expand(-1, 3, -1, -1))
        seen, self._seen = self._seen, []
        return [f / (f.square().sum(1, keepdim=True) + 1e-6).sqrt() for f in seen]


def _signed(random: Randomness, purpose: str, x: Tensor) -> Tensor:
    """Numbers from -1 to 1, one a row, where and what x is."""
    return (2 * random.uniform(purpose) - 1).to(x)


def _moved(clip: Tensor, down: int, right: int) -> Tensor:
    """A clip [T, H, W, C] moved by pixels, mirrored at its edges."""
    rows, columns = (
        _mirrored(torch.arange(size, device=clip.device) - by, size)
        for size, by in zip(clip.shape[1:3], (down, right), strict=True)
    )
    return clip[:, rows][:, :, columns]


def _mirrored(index: Tensor, size: int) -> Tensor:
    index = index.abs() % (2 * size - 2) if size > 1 else index * 0
    return torch.where(index < size, index, 2 * size - 2 - index)


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

"""Clips against the truth: PSNR, SSIM, and the baseline that any continuation must beat."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from flowgen.media.clip import Clip


def psnr(a: Tensor, b: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB of uint8 frames [..., H, W, C] of peak 255, [...]; infinite where they are equal."""
    error = (a.double() - b.double()).square().mean((-3, -2, -1))
    return 10 * torch.log10(255.0**2 / error)


def ssim(a: Tensor, b: Tensor) -> Tensor:
    """Structural similarity of uint8 frames [..., H, W, C], [...]: 11 x 11 Gaussian window of deviation 1.5, K = (0.01, 0.03),
    mean over the places where the window fits and over channels (Wang et al. 2004, eq. 13). Frames of 11 x 11 pixels or more."""
    if min(a.shape[-3:-1]) < 11:
        raise ValueError(f"SSIM needs frames of at least 11 x 11 pixels, got {a.shape[-3]} x {a.shape[-2]}")
    shape = a.shape[:-3]
    x, y = (v.double().reshape(-1, *v.shape[-3:]).permute(0, 3, 1, 2).flatten(0, 1)[:, None] for v in (a, b))
    line = torch.exp(-((torch.arange(11, dtype=torch.float64) - 5) ** 2) / (2 * 1.5**2))
    line = line / line.sum()
    window = torch.outer(line, line)[None, None]

    def blur(v: Tensor) -> Tensor:
        return F.conv2d(v, window)

    mx, my = blur(x), blur(y)
    vx, vy, cov = blur(x * x) - mx * mx, blur(y * y) - my * my, blur(x * y) - mx * my
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    value = (2 * mx * my + c1) * (2 * cov + c2) / ((mx * mx + my * my + c1) * (vx + vy + c2))
    return value.mean((1, 2, 3)).reshape(*shape, a.shape[-1]).mean(-1)


def continuation(made: Sequence[Clip], truth: Sequence[Clip], given: int, frames: int) -> dict[str, float]:
    """How well `frames` frames after `given` known ones agree with what really followed.

    `psnr` and `ssim`: means over clips (PSNR from the mean squared error of a clip); `psnr_copy` and `ssim_copy`: of a clip
    that repeats the last given frame; `psnr_gain`: what the continuation is better by, in dB; `given_exact`: the share of
    clips whose given frames are returned bit for bit; `frames`: how many are compared.
    """
    a, b = (torch.stack([clip.data for clip in clips]) for clips in (made, truth))  # type: ignore[misc]
    if given < 1 or a.shape[1] < given + frames or a.shape[2:] != b.shape[2:] or b.shape[1] < given + frames:
        raise ValueError(
            f"expected clips of at least {given} + {frames} frames of one size, got {tuple(a.shape)} and {tuple(b.shape)}"
        )
    exact = (a[:, :given] == b[:, :given]).flatten(1).all(1).double().mean()
    a, follows = a[:, given : given + frames], b[:, given : given + frames]
    copied = b[:, given - 1 : given].expand_as(follows)
    figures = {"given_exact": float(exact)}
    for name, shown in (("", a), ("_copy", copied)):
        # a clip's frames stacked on top of each other: one error a clip
        figures[f"psnr{name}"] = float(psnr(shown.flatten(1, 2), follows.flatten(1, 2)).clamp(max=100).mean())
        figures[f"ssim{name}"] = float(ssim(shown, follows).mean())
    return {**figures, "psnr_gain": figures["psnr"] - figures["psnr_copy"], "frames": float(frames)}

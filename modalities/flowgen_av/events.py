"""What is seen and heard in a clip: impacts of a bright ball on the walls of its box, and onsets of sounds."""

from __future__ import annotations

import numpy as np
import torch
from flowgen_video.digits import centre
from torch import Tensor

_STILL = 0.12
"""Pixels a frame below which a ball does not move along an axis."""
_NEAR = 1.5
"""Pixels from where the ball turns farthest out within which a turn is an impact."""
_HOP_S, _GAP_S = 0.004, 0.06
_RISE = 0.35
"""Of the steepest rise of a clip, that of an onset at the least."""
_FAINT = 0.02


def impacts(frames: Tensor, fps: float, radius: float) -> list[float]:
    """Seconds at which the ball of a clip [T, H, W, C] turns at a wall, between frames where the lines before and after meet.

    Those of the first and the last frame and a half cannot be seen.
    """
    bright = frames.amax(-1).float() / 255
    if float(bright.max()) < _FAINT * 10:
        return []
    path = centre(bright).numpy()
    found: list[float] = []
    for axis, size in enumerate(bright.shape[1:]):
        found += _turns(path[:, axis], radius - 0.5, size - radius - 0.5)
    return sorted(at / fps for at in found)


def _turns(x: np.ndarray, low: float, high: float) -> list[float]:
    """Frames, with fractions, at which x turns near one of the walls."""
    speed = np.diff(x)
    candidates = []
    for i in range(1, len(x) - 2):  # between frames i and i + 1
        before, after = speed[i - 1], speed[i + 1]
        if before * after >= 0 or min(abs(before), abs(after)) < _STILL:
            continue
        at = i + (x[i + 1] - after - x[i]) / (before - after)  # where the two lines meet
        turn = x[i] + before * (at - i)
        outside = high - turn if before > 0 else turn - low
        if -0.5 <= at - i <= 1.5 and outside < _NEAR:
            candidates.append((abs(at - i - 0.5), at))
    found: list[float] = []
    for _, at in sorted(candidates):
        if all(abs(at - other) > 1.5 for other in found):
            found.append(at)
    return found


def rises(samples: Tensor, rate: int) -> tuple[Tensor, Tensor]:
    """Seconds, and how much the spectrum of a sound [channels, n] rises there."""
    hop = max(1, round(_HOP_S * rate))
    n = 1 << round(np.log2(4 * hop))
    padded = torch.nn.functional.pad(samples.float().mean(0), (n, n))
    spectrum = torch.stft(padded, n, hop, window=torch.hann_window(n), center=False, return_complex=True).abs().sqrt()
    rise = spectrum.diff(dim=1).clamp(min=0).sum(0)
    # the window whose end meets the onset is the one that rises; on the average half of it lies after the onset
    return ((torch.arange(len(rise)) + 1) * hop - n / 2) / rate, rise


def onsets(samples: Tensor, rate: int) -> list[float]:
    """Seconds at which a sound [channels, n] sets in: peaks of the rise of its spectrum."""
    if float(samples.float().mean(0).abs().max()) < _FAINT:
        return []
    time, raw = rises(samples, rate)
    rise = np.convolve(raw.numpy(), np.ones(3) / 3, mode="same")
    gap = max(1, round(_GAP_S / float(time[1] - time[0])))
    least = _RISE * np.quantile(np.sort(rise)[-max(1, len(rise) // 50) :], 0.5)
    found: list[int] = []
    for i in np.argsort(-rise):
        if rise[i] < least:
            break
        if all(abs(i - j) > gap for j in found):
            found.append(int(i))
    return sorted(float(time[i]) for i in found)

"""Loudness after ITU-R BS.1770, and the gain that brings a recording to a wanted one."""

from __future__ import annotations

import math

from torch import Tensor


def loudness(samples: Tensor, rate: int) -> float:
    """Integrated loudness of samples [channels, n] in LUFS (within 0.3 dB of the standard); -70 at the least.

    The measure is defined over blocks of 0.4 s: what is shorter than 0.8 s counts as repeated up to that.
    """
    import torchaudio

    least = int(0.8 * rate)
    if samples.shape[1] < least:
        samples = samples.repeat(1, math.ceil(least / samples.shape[1]))
    scale = max(float(samples.abs().max()), 1.0)  # torchaudio's filters cut off what lies beyond full scale
    value = float(torchaudio.functional.loudness(samples.float() / scale, rate)) + 20 * math.log10(scale)
    return value if value >= -70 else -70.0  # not-a-number where every block is gated away

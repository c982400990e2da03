"""Sound from one format to another: channels by the standard matrices, rates in bounded memory."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from flowgen.errors import FlowgenError

_HALF = math.sqrt(0.5)
_TO_STEREO: dict[int, tuple[tuple[float, ...], tuple[float, ...]]] = {
    3: ((1, 0, _HALF), (0, 1, _HALF)),
    4: ((1, 0, _HALF, 0), (0, 1, 0, _HALF)),
    5: ((1, 0, _HALF, _HALF, 0), (0, 1, _HALF, 0, _HALF)),
    6: ((1, 0, _HALF, 0, _HALF, 0), (0, 1, _HALF, 0, 0, _HALF)),
    7: ((1, 0, _HALF, 0, 0.5, _HALF, 0), (0, 1, _HALF, 0, 0.5, 0, _HALF)),
    8: ((1, 0, _HALF, 0, _HALF, 0, _HALF, 0), (0, 1, _HALF, 0, 0, _HALF, 0, _HALF)),
}
"""ITU-R BS.775-4, annex 4: left and right of 3.0, quadro, 5.0, 5.1, 6.1 and 7.1 in the order of WAV (front left and right,
centre, low frequencies, which are left out, back, side)."""
_LARGEST = 2000
"""Of the numbers in the ratio of two rates: torchaudio's filters grow with their product."""


def mixed(samples: Tensor, channels: int) -> Tensor:
    """Samples [n, T] in 1 or 2 channels. Mono is the mean of left and right, and stereo of mono twice the same.

    FlowgenError: there are more channels than the standard has matrices for.
    """
    if len(samples) > 2:
        if len(samples) not in _TO_STEREO:
            raise FlowgenError(f"{len(samples)} channels: expected up to {max(_TO_STEREO)}; mix them down first")
        samples = torch.tensor(_TO_STEREO[len(samples)], dtype=samples.dtype) @ samples
    if channels == 1:
        return samples.mean(0, keepdim=True)
    return samples.expand(channels, -1)


def resampled(samples: Tensor, rate: int, target: int) -> Tensor:
    """Samples [channels, T] at another rate, of T x target / rate samples rounded up."""
    if rate == target:
        return samples
    common = math.gcd(rate, target)
    if max(rate, target) // common <= _LARGEST:
        return _resampler(rate, target)(samples)
    return _by_swresample(samples, rate, target)


@lru_cache(maxsize=16)
def _resampler(rate: int, target: int) -> Any:
    """Its filter is made once for each pair of rates."""
    import torchaudio

    return torchaudio.transforms.Resample(rate, target)


def _by_swresample(samples: Tensor, rate: int, target: int) -> Tensor:
    """For ratios of large numbers: ffmpeg's resampler interpolates between the phases of its filter."""
    import av

    layout = "mono" if len(samples) == 1 else "stereo"
    length = math.ceil(samples.shape[1] * target / rate)
    quiet = torch.nn.functional.pad(samples, (0, rate // 10))  # what the filter holds back
    frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(quiet.numpy()), format="fltp", layout=layout)
    frame.sample_rate = rate
    converter = av.AudioResampler(format="fltp", layout=layout, rate=target)
    parts = [out.to_ndarray() for out in (*converter.resample(frame), *converter.resample(None))]
    return torch.from_numpy(np.concatenate(parts, 1)[:, :length])

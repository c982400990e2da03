"""The fundamental frequency of a sound, measured: McLeod's normalised difference function on short frames."""

from __future__ import annotations

import torch
from torch import Tensor

_UPSAMPLE = 4  # at 8 kHz the period of B5 is 8 samples: peaks are sought between them


def fundamental(samples: Tensor, rate: int, low: float = 60.0, high: float = 1500.0) -> float:
    """Fundamental of a sound [channels, n] in Hz between `low` and `high`; not-a-number if nothing in it is periodic.

    Every 64 ms frame gives the period of its first high peak of 2 r(lag) / m(lag) (McLeod and Wyvill 2005, eq. 9); the
    answer is the median over frames that are clearly periodic and not much softer than the loudest.
    """
    mono = samples.detach().double().mean(0)
    size, hop = max(int(0.064 * rate), int(2.5 * rate / low)), int(0.016 * rate)
    if len(mono) < size:
        mono = torch.nn.functional.pad(mono, (0, size - len(mono)))
    frames = mono.unfold(0, size, hop)
    energy = frames.square().mean(1)
    loud = energy > 1e-3 * energy.max()
    if not bool(energy.max() > 1e-10):
        return float("nan")
    frames = frames[loud]
    periods, clarity = _periods(frames, rate / high, rate / low)
    clear = clarity > 0.7
    if int(clear.sum()) < 2:
        return float("nan")
    return rate / float(periods[clear].median())


def _periods(frames: Tensor, shortest: float, longest: float) -> tuple[Tensor, Tensor]:
    """Period in samples and height (at most 1) of the chosen peak of each frame [N, size]."""
    size = frames.shape[1]
    n = 1 << (2 * size - 1).bit_length()
    power = torch.fft.rfft(frames - frames.mean(1, keepdim=True), n).abs().square()
    wide = torch.fft.irfft(power, n * _UPSAMPLE) * _UPSAMPLE
    lags = torch.arange(int(longest * _UPSAMPLE) + 2)
    correlation = wide[:, lags]
    squares = torch.nn.functional.pad((frames - frames.mean(1, keepdim=True)).square().cumsum(1), (1, 0))
    whole = lags / _UPSAMPLE
    head = _at(squares, size - whole)  # energy of the frame without its last `lag` samples
    tail = squares[:, -1:] - _at(squares, whole)
    nsdf = 2 * correlation / (head + tail).clamp(min=1e-12)
    middle = nsdf[:, 1:-1]
    peak = (middle > nsdf[:, :-2]) & (middle >= nsdf[:, 2:]) & (lags[1:-1] >= shortest * _UPSAMPLE) & (middle > 0)
    height = torch.where(peak, middle, -1.0)
    best = height.max(1, keepdim=True).values
    first = (height >= 0.9 * best).int().argmax(1, keepdim=True)  # an octave below peaks as high: the first one counts
    a, b, c = (torch.gather(nsdf, 1, first + i)[:, 0] for i in range(3))
    bend = (a - 2 * b + c).clamp(max=-1e-12)
    return (lags[1:-1][first[:, 0]] + (0.5 * (a - c) / bend).clamp(-0.5, 0.5)) / _UPSAMPLE, best[:, 0]


def _at(cumulative: Tensor, position: Tensor) -> Tensor:
    low = position.floor().long().clamp(max=cumulative.shape[1] - 1)
    high = (low + 1).clamp(max=cumulative.shape[1] - 1)
    return cumulative[:, low] + (position - low) * (cumulative[:, high] - cumulative[:, low])

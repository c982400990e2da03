"""Phases for magnitudes: Griffin-Lim with momentum (Perraudin et al. 2013), from a start that depends on nothing."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def griffin_lim(magnitude: Tensor, window: Tensor, hop: int, iterations: int, momentum: float = 0.99) -> Tensor:
    """Samples [B, (T - 1) hop] whose STFT has about the magnitudes [B, F, T]."""
    n_fft = len(window)
    length = (magnitude.shape[-1] - 1) * hop
    angles = torch.polar(torch.ones_like(magnitude), start_phases(magnitude, n_fft, hop))
    previous = torch.zeros_like(angles)
    for _ in range(iterations):
        wave = torch.istft(magnitude * angles, n_fft, hop, window=window, length=length)
        rebuilt = torch.stft(wave, n_fft, hop, window=window, pad_mode="constant", return_complex=True)
        angles = rebuilt - momentum / (1 + momentum) * previous
        angles = angles / angles.abs().clamp(min=1e-16)
        previous = rebuilt
    return torch.istft(magnitude * angles, n_fft, hop, window=window, length=length)


def start_phases(magnitude: Tensor, n_fft: int, hop: int) -> Tensor:
    """Phases [B, F, T] of single-pass inversion (Beauregard et al. 2015): every peak advances at its own frequency.

    The bins around a peak follow it, with the alternating sign that a centred window gives its main lobe.
    """
    log = magnitude.clamp(min=1e-8).log()
    left, middle, right = log[:, :-2], log[:, 1:-1], log[:, 2:]
    offset = 0.5 * (left - right) / (left - 2 * middle + right).clamp(max=-1e-6)
    is_peak = (middle > left) & (middle >= right)
    bins = torch.arange(magnitude.shape[1], device=magnitude.device, dtype=magnitude.dtype)
    frequency = bins[None, :, None].expand_as(magnitude).clone()
    frequency[:, 1:-1] += torch.where(is_peak, offset.clamp(-0.5, 0.5), 0.0)
    peak = torch.zeros_like(magnitude, dtype=torch.bool)
    peak[:, 1:-1] = is_peak
    owner = _nearest(peak)
    advance = torch.gather(frequency, 1, owner) * (2 * math.pi * hop / n_fft)
    # a fixed, irregular phase for each bin at the start keeps harmonics from piling up into a click
    first = 2 * math.pi * ((bins * 0.6180339887498949) % 1)
    lobe = math.pi * (bins[None, :, None] - owner)
    return advance.cumsum(-1) + torch.gather(first[None, :, None].expand_as(magnitude), 1, owner) + lobe


def _nearest(peak: Tensor) -> Tensor:
    """The index [B, F, T] along F of the nearest peak of every bin (itself where there is none)."""
    size = peak.shape[1]
    index = torch.arange(size, device=peak.device)[None, :, None].expand(peak.shape)
    below = torch.where(peak, index, -size * 4).cummax(1).values
    above = torch.where(peak, index, size * 4).flip(1).cummin(1).values.flip(1)
    nearest = torch.where(index - below <= above - index, below, above)
    return torch.where((nearest < 0) | (nearest >= size), index, nearest)


def magnitudes(samples: Tensor, window: Tensor, hop: int) -> Tensor:
    """|STFT| [B, F, T] of samples [B, n]."""
    return torch.stft(samples, len(window), hop, window=window, pad_mode="constant", return_complex=True).abs()


def spectral_convergence(samples: Tensor, reference: Tensor, window: Tensor, hop: int) -> float:
    """|| |S| - |R| || / || |R| ||, the usual error of a phase reconstruction; 0 is exact."""
    a, b = (magnitudes(x, window, hop) for x in (samples, reference))
    return float((a - b).norm() / b.norm())

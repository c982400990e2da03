"""How near sound that went through an autoencoder is to what it was."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from flowgen_audio.encoders import mel_filters

_WINDOWS_S = (0.064, 0.032, 0.016)
_FLOOR = 5e-3
"""Of magnitudes whose logarithm is taken: quieter is silence."""
_TINY = 1e-12


def fidelity(made: Sequence[Tensor], real: Sequence[Tensor], sample_rate: int, bands: int = 40) -> dict[str, float]:
    """Means over pairs of sounds [C, n], channels by themselves.

    si_sdr_db: scale-invariant signal to distortion ratio (Le Roux et al. 2019, eq. 5).
    stft: relative norm of the difference of STFT magnitudes (Arik et al. 2018, eq. 2) and mean absolute difference of their
        logarithms, a mean over windows of 64, 32 and 16 ms.
    log_mel: mean absolute difference of the logarithms of mel bands, windows of 64 ms.
    """
    sizes = [2 ** round(math.log2(sample_rate * seconds)) for seconds in _WINDOWS_S]
    filters = mel_filters(sizes[0] // 2 + 1, bands, sample_rate, 20.0)
    found: dict[str, list[float]] = {"si_sdr_db": [], "stft": [], "log_mel": []}
    for pair in zip(made, real, strict=True):
        n = min(wave.shape[-1] for wave in pair)
        y, x = (wave[..., :n].double() for wave in pair)
        found["si_sdr_db"].append(float(_si_sdr(y, x).mean()))
        parts = []
        for size in sizes:
            q, p = (_magnitudes(wave, size) for wave in (y, x))
            convergence = (p - q).norm() / p.norm().clamp(min=_TINY)
            parts.append(convergence + _logarithms(p, q).mean())
        found["stft"].append(float(torch.stack(parts).mean()))
        q, p = (filters.double() @ _magnitudes(wave, sizes[0]) for wave in (y, x))
        found["log_mel"].append(float(_logarithms(p, q).mean()))
    return {name: sum(values) / len(values) for name, values in found.items()}


def _si_sdr(y: Tensor, x: Tensor) -> Tensor:
    y, x = (wave - wave.mean(-1, keepdim=True) for wave in (y, x))
    target = (y * x).sum(-1, keepdim=True) / x.square().sum(-1, keepdim=True).clamp(min=_TINY) * x
    power, error = (wave.square().sum(-1).clamp(min=_TINY) for wave in (target, y - target))
    return 10 * torch.log10(power / error)


def _magnitudes(wave: Tensor, size: int) -> Tensor:
    window = torch.hann_window(size, dtype=wave.dtype)
    return torch.stft(wave, size, size // 4, window=window, pad_mode="constant", return_complex=True).abs()


def _logarithms(p: Tensor, q: Tensor) -> Tensor:
    return (p.clamp(min=_FLOOR).log() - q.clamp(min=_FLOOR).log()).abs()

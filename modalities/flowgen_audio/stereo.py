"""Two channels as magnitudes of mid and side and the balance of left and right, and the phases that fit all of them.

With M = (L + R) / 2 and S = (L - R) / 2 the real part of L R* is |M|^2 - |S|^2, and |L|^2 - |R|^2 is 4 Re M S*. So the magnitudes
of mid and side hold the correlation of left and right, and the balance (|L|^2 - |R|^2) / (|L|^2 + |R|^2) the angle between M and S,
up to its sign: what phases that are found for each channel by itself would lose.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

import torch
from torch import Tensor

from flowgen_audio.griffin_lim import start_phases

Stereo: TypeAlias = Literal["joint", "separate"]
"""Whether the phases of two channels are found together, or those of each by itself, as flowgen 0.1 did."""


def mid_side_balance(z: Tensor, floor: float) -> tuple[Tensor, Tensor, Tensor]:
    """Magnitudes of mid and side and the balance in [-1, 1], each [B, F, T], of spectra of left and right [B, 2, F, T].

    The balance of what is far below `floor` is 0.
    """
    left, right = z.unbind(1)
    powers = left.abs().square(), right.abs().square()
    balance = (powers[0] - powers[1]) / (powers[0] + powers[1] + floor**2)
    return ((left + right) / 2).abs(), ((left - right) / 2).abs(), balance


def joint_griffin_lim(
    mid: Tensor, side: Tensor, balance: Tensor, window: Tensor, hop: int, iterations: int, momentum: float = 0.99
) -> Tensor:
    """Samples [B, 2, (T - 1) hop] of left and right whose spectra have about these magnitudes and balance [B, F, T].

    Griffin-Lim with momentum on mid and side together: in each round the nearest pair of spectra that has both magnitudes and
    the angle between them is taken. Where the balance does not fit the magnitudes, these are kept.
    """
    n_fft, length = len(window), (mid.shape[-1] - 1) * hop
    cosine = balance.clamp(-1, 1) * (mid.square() + side.square()) / (2 * mid * side).clamp(min=1e-12)
    angle = torch.polar(torch.ones_like(mid), cosine.clamp(-1, 1).acos())

    def fitted(z: Tensor) -> Tensor:
        """Nearest to z [B, 2, F, T]: the angle has the sign that it has there."""
        turned = torch.where((z[:, 0] * z[:, 1].conj()).imag >= 0, angle, angle.conj())
        common = mid * z[:, 0] + side * z[:, 1] * turned
        common = common / common.abs().clamp(min=1e-16)
        return torch.stack([mid * common, side * common * turned.conj()], 1)

    def waves(z: Tensor) -> Tensor:
        return torch.istft(z.flatten(0, 1), n_fft, hop, window=window, length=length)

    first = torch.polar(torch.ones_like(mid), start_phases((mid.square() + side.square()).sqrt(), n_fft, hop))
    z = fitted(torch.stack([first, first * angle.conj()], 1))
    previous = torch.zeros_like(z)
    for _ in range(iterations):
        rebuilt = torch.stft(waves(z), n_fft, hop, window=window, pad_mode="constant", return_complex=True)
        rebuilt = rebuilt.unflatten(0, (-1, 2))
        z, previous = fitted(rebuilt - momentum / (1 + momentum) * previous), rebuilt
    m, s = waves(z).unflatten(0, (-1, 2)).unbind(1)
    return torch.stack([m + s, m - s], 1)

"""Bottlenecks of autoencoders: what lies between an encoder's features and the latent that its decoder is given."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from flowgen.core.interfaces import Code
from flowgen.core.random import Randomness
from flowgen.core.ranges import Count, NonNegative

_PURPOSE = "bottleneck"
_SPEED = 100.0
"""How many times as fast as other weights a running variance is to move."""
_LOG_VARIANCE = (-30.0, 20.0)
"""Beyond these the exponential of a logarithm of variances says nothing more."""


class Plain(nn.Module):
    """The features themselves, with noise of a fixed deviation in training.

    Nothing bounds the latent: noise bears on it as far as the encoder leaves it small.
    """

    def __init__(self, channels: int, noise: NonNegative = 0.0) -> None:
        super().__init__()
        self.features, self.noise = channels, noise

    def forward(self, h: Tensor, random: Randomness | None = None, mask: Tensor | None = None) -> Code:
        h = h if random is None else h + self.noise * _normal(h, random)
        return Code(h, torch.zeros(len(h), device=h.device))


class KL(nn.Module):
    """A normal posterior of each latent, held near the standard normal (Kingma and Welling 2013, eq. 10).

    Args:
        weight: of the divergence, in nats a number, in the loss.
    """

    def __init__(self, channels: int, weight: NonNegative = 1e-4) -> None:
        super().__init__()
        self.features, self.weight = 2 * channels, weight

    def forward(self, h: Tensor, random: Randomness | None = None, mask: Tensor | None = None) -> Code:
        mean, log = h.chunk(2, -1)
        log = log.clamp(*_LOG_VARIANCE)
        z = mean if random is None else mean + (log / 2).exp() * _normal(mean, random)
        divergence = (mean.square() + log.exp() - 1 - log) / 2
        return Code(z, self.weight * _mean(divergence, mask))


class SoftNorm(nn.Module):
    """Features divided by their running deviation by channel, then noise of a fixed share of it.

    The running variance is a weight: the exp(v) that minimises v + h^2 exp(-v), the likelihood of a normal distribution, is the
    mean of h^2. So it is averaged over ranks, saved and resumed as every weight is, and no sample sees its batch. All channels
    have about unit variance, and bear noise alike.

    Args:
        noise: deviation of the noise in training, of the latent's 1.
    """

    def __init__(self, channels: int, noise: NonNegative = 0.1) -> None:
        super().__init__()
        self.features, self.noise = channels, noise
        self.slow_log_variance = nn.Parameter(torch.zeros(channels))
        """The logarithm of the variance over `_SPEED`: the steps of an optimizer are of one size for all weights."""

    def forward(self, h: Tensor, random: Randomness | None = None, mask: Tensor | None = None) -> Code:
        v = _SPEED * self.slow_log_variance
        z = h * (-v.detach() / 2).exp()
        fit = v + h.detach().square() * (-v).exp()
        return Code(z if random is None else z + self.noise * _normal(z, random), _mean(fit, mask) / _SPEED**2)


class FSQ(nn.Module):
    """Finite scalar quantisation: each number takes one of `levels` values from -1 to 1 (Mentzer et al. 2023, section 3.1).

    Gradients pass the rounding as if it were not there. `codes` are the values as integers.
    """

    def __init__(self, channels: int, levels: Count = 8) -> None:
        super().__init__()
        if levels < 2:
            raise ValueError(f"levels: expected at least 2, got {levels}")
        self.features, self.levels = channels, levels

    def forward(self, h: Tensor, random: Randomness | None = None, mask: Tensor | None = None) -> Code:
        half, offset = self._grid()
        # an even number of levels has none at 0: the grid is shifted by half a step, and 0 is kept where it was
        bounded = torch.tanh(h + math.atanh(offset / half)) * half - offset
        return Code(
            (bounded + (bounded.round() - bounded).detach()) / (self.levels // 2), torch.zeros(len(h), device=h.device)
        )

    def codes(self, z: Tensor) -> Tensor:
        """Integers from 0 to levels - 1 of latents, int64 of their shape; any numbers are taken to the nearest."""
        half = self.levels // 2
        return (z * half + half).round().long().clamp(0, self.levels - 1)

    def latents(self, codes: Tensor) -> Tensor:
        """The latents of codes. ValueError: a code is none."""
        if codes.numel() and not 0 <= int(codes.min()) <= int(codes.max()) < self.levels:
            raise ValueError(f"codes go from 0 to {self.levels - 1}, got {int(codes.min())} to {int(codes.max())}")
        half = self.levels // 2
        return (codes - half).float() / half

    def _grid(self) -> tuple[float, float]:
        """Half the width of the grid, a little more than whole so that its ends are reached; and half a step, if even."""
        return (self.levels - 1) * (1 + 1e-3) / 2, 0.0 if self.levels % 2 else 0.5


def _normal(like: Tensor, random: Randomness) -> Tensor:
    noise = random.normal(like, _PURPOSE)
    assert isinstance(noise, Tensor)
    return noise


def _mean(each: Tensor, mask: Tensor | None) -> Tensor:
    """Means [B] of [B, T, C] over the steps that count."""
    if mask is None:
        return each.flatten(1).mean(1)
    return (each.mean(-1) * mask).sum(1) / mask.sum(1).clamp(min=1)

"""A recording as a condition: sound like this one (its speaker, its instrument, its room), whatever it says."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from flowgen.core.ranges import Count, Positive
from flowgen.data.shards import Source
from flowgen.errors import FlowgenError, UsageError
from flowgen_audio.encoders import mel_filters
from flowgen_audio.media import read_samples
from flowgen_audio.modality import Audio

_HOP_S, _WINDOW_S = 0.01, 0.032


@dataclass(frozen=True)
class Excerpt:
    """A recording, or a segment of one."""

    path: Source
    start_s: float = 0.0
    duration_s: float | None = None

    def __str__(self) -> str:
        segment = "" if self.duration_s is None else f" [{self.start_s:g}-{self.start_s + self.duration_s:g} s]"
        return f"{self.path}{segment}"


@dataclass(frozen=True)
class ReferenceCondition:
    """A sound file, of which the first `seconds` are heard, at `sample_rate`, in `bands` mel bands and whatever loudness."""

    sample_rate: Count
    seconds: Positive = 2.0
    bands: Count = 48
    role = "vector"
    file_kind = "audio"

    def __post_init__(self) -> None:
        if self.seconds < 2 * _WINDOW_S or self.sample_rate < 1000 or self.bands < 2:
            raise ValueError(
                f"expected seconds >= {2 * _WINDOW_S}, sample_rate >= 1000 and bands >= 2, got {self.seconds:g}, "
                f"{self.sample_rate} and {self.bands}"
            )

    @property
    def frames(self) -> int:
        """Frames of the longest reference."""
        return math.ceil(self.seconds / _HOP_S)

    def encode(self, value: Any) -> dict[str, Tensor]:
        """Log-mel frames [frames, bands] between 0 and 2, padded, and which are real [frames], of a path or an excerpt."""
        excerpt = value if isinstance(value, Excerpt) else Excerpt(Path(str(value)))
        try:
            found = _log_mel(excerpt, self.sample_rate, self.seconds, self.bands)[: self.frames]
        except FlowgenError as error:
            raise UsageError(f"expected a sound file to sound like: {error}") from error
        rest = self.frames - len(found)
        return {
            "frames": F.pad(found, (0, 0, 0, rest)),
            "mask": F.pad(torch.ones(len(found), dtype=torch.bool), (0, rest)),
        }

    def null(self) -> dict[str, Tensor]:
        return {
            "frames": torch.zeros(self.frames, self.bands),
            "mask": torch.zeros(self.frames, dtype=torch.bool),
        }

    def describe(self) -> str:
        return f"a sound file to sound like, of which {self.seconds:g} s are heard"

    def embedder(self, width: int) -> nn.Module:
        return ReferenceEmbedding(self.bands, width)


class ReferenceEmbedding(nn.Module):
    """Frames to one vector: three convolutions over time, then mean and deviation over the real frames.

    Statistics over time say who speaks and not what is said (Snyder et al. 2018, x-vectors). No frames are a learned vector.
    Norms, so that references differ from the first step on, by as much as classes do.
    """

    def __init__(self, bands: int, width: int, hidden: int = 128) -> None:
        super().__init__()
        sizes = [bands, hidden, hidden, hidden]
        self.layers = nn.ModuleList(nn.Conv1d(a, b, 5, padding=2) for a, b in pairwise(sizes))
        self.norms = nn.ModuleList(nn.LayerNorm(hidden) for _ in self.layers)
        self.pooled = nn.LayerNorm(2 * hidden)
        self.out = nn.Linear(2 * hidden, width)
        self.none = nn.Parameter(torch.randn(width) * 0.3)

    def forward(self, value: dict[str, Tensor]) -> Tensor:
        mask = value["mask"][:, None]  # [B, 1, T]
        h = (value["frames"].mT - 1) * mask  # beyond the end stay the zeros that a convolution pads with
        for layer, norm in zip(self.layers, self.norms, strict=True):
            h = F.silu(norm(layer(h).mT).mT) * mask
        n = mask.sum(-1).clamp(min=1)
        mean = h.sum(-1) / n
        deviation = (((h - mean[..., None]) * mask).square().sum(-1) / n + 1e-6).sqrt()
        return torch.where(mask.any(-1), self.out(self.pooled(torch.cat([mean, deviation], 1))), self.none)


@lru_cache(maxsize=4096)
def _log_mel(excerpt: Excerpt, rate: int, seconds: float, bands: int) -> Tensor:
    """Frames [T, bands]: 60 dB below the loudest are 0, so that loudness plays no part."""
    duration = seconds if excerpt.duration_s is None else min(seconds, excerpt.duration_s)
    samples, found = read_samples(excerpt.path, excerpt.start_s, duration)
    wave = Audio(rate).convert(samples, found)[0]
    window = 1 << round(math.log2(_WINDOW_S * rate))
    padded = F.pad(wave, (window // 2, window // 2))
    spectrum = torch.stft(
        padded, window, round(_HOP_S * rate), window=torch.hann_window(window), center=False, return_complex=True
    )
    mel = (mel_filters(window // 2 + 1, bands, rate, 50.0) @ spectrum.abs()).clamp(min=1e-8).log10() * 20
    return ((mel - mel.max()).clamp(min=-60) / 30 + 2).T.contiguous()

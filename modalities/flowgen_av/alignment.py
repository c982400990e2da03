"""Does what is heard follow what is seen? Measures for recordings, whose events are not known."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from flowgen.core.random import seed_of
from flowgen.core.ranges import Count, Share
from flowgen.errors import UsageError
from flowgen.evaluation.features import FromFeatures
from flowgen.media.clip import Clip
from flowgen.media.interfaces import Better
from flowgen_av.events import rises
from flowgen_av.modality import AudioVideo

Region = tuple[Share, Share, Share, Share]


class OnsetCorrelation(FromFeatures):
    """How the onsets of a sound go with what lights up in its picture, beside pairs that do not belong together.

    In every frame, the rise of brightness in a region of the picture and that of the spectrum of the sound, each over two
    frames; their correlation over a clip is averaged over the clips. `correlation`: of each picture with its own sound;
    `shuffled`: with those of all other clips.

    Args:
        region: top, left, bottom and right of what is watched, in shares of the picture; the whole by default.
    """

    better: ClassVar[Mapping[str, Better]] = {"correlation": "higher"}

    def __init__(self, modality: AudioVideo, region: Region = (0.0, 0.0, 1.0, 1.0)) -> None:
        top, left, bottom, right = region
        if not (top < bottom and left < right):
            raise UsageError(f"region: top, left, bottom, right enclose nothing: {list(region)}")
        self.modality, self.region = modality, region

    def features(self, clips: Sequence[Clip]) -> dict[str, Tensor]:
        """Rises by frame, of zero mean and unit length over a clip (zero where a stream is absent or still)."""
        seen, heard = [], []
        for clip in clips:
            picture, sound = (self.modality.stream_of(clip, name) for name in ("picture", "sound"))
            seen.append(self._seen(picture))
            heard.append(self._heard(sound))
        return {"seen": _unit(seen), "heard": _unit(heard)}

    def figures(self, found: Mapping[str, Tensor], reference: Mapping[str, Tensor]) -> dict[str, float]:
        n = len(found["seen"])
        if not n:
            return {}
        each = correlations(found)
        figures = {"correlation": float(each.diagonal().mean())}
        if n > 1:
            figures["shuffled"] = float((each.sum() - each.diagonal().sum()) / (n * (n - 1)))
        return figures

    def _seen(self, picture: Clip | None) -> Tensor:
        if picture is None:
            return torch.zeros(self.modality.frames)
        frames: Any = picture.data
        high, wide = frames.shape[1:3]
        top, left, bottom, right = self.region
        part = frames[
            :, math.floor(top * high) : math.ceil(bottom * high), math.floor(left * wide) : math.ceil(right * wide)
        ]
        light = part.float().mean(-1) / 255
        return torch.cat([light.new_zeros(1), light.diff(dim=0).clamp(min=0).flatten(1).mean(1)])

    def _heard(self, sound: Clip | None) -> Tensor:
        if sound is None:
            return torch.zeros(self.modality.frames)
        wave: Any = sound.data
        time, rise = rises(wave, self.modality.sample_rate)
        n = max(1, round(wave.shape[-1] / self.modality.sample_rate * self.modality.fps))
        frame = (time * self.modality.fps).long().clamp(0, n - 1)
        return torch.zeros(n).scatter_reduce(0, frame, rise, "amax")


class OnsetTest:
    """Whether pictures and sounds belong together, by a permutation test of `OnsetCorrelation`.

    `p_value`: the share of random pairings whose mean correlation reaches that of the own ones, these among them.

    Args:
        region: as of `OnsetCorrelation`.
        pairings: that are drawn.
    """

    def __init__(self, modality: AudioVideo, region: Region = (0.0, 0.0, 1.0, 1.0), pairings: Count = 9999) -> None:
        self.correlation, self.pairings = OnsetCorrelation(modality, region), pairings

    def measure(self, clips: Sequence[Clip], reference: Sequence[Clip] = ()) -> dict[str, float]:
        """Figures by name."""
        if len(clips) < 2:
            return {}
        each = correlations(self.correlation.features(clips))
        n, rng = len(each), torch.Generator().manual_seed(seed_of("onset-test"))
        rows = torch.arange(n)
        drawn = torch.stack([each[rows, torch.randperm(n, generator=rng)].mean() for _ in range(self.pairings)])
        reached = int((drawn >= each.diagonal().mean() - 1e-12).sum())
        return {"p_value": (1 + reached) / (1 + self.pairings)}


def correlations(found: Mapping[str, Tensor]) -> Tensor:
    """Of each picture with each sound [N, N]."""
    return found["seen"] @ found["heard"].T


def _unit(rows: list[Tensor]) -> Tensor:
    """[N, T], the shorter filled up; each smoothed over two frames, less its mean, at unit length."""
    out = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True).double()
    out[:, 1:] = out[:, 1:] + out[:, :-1]
    out = out - out.mean(1, keepdim=True)
    return out / out.norm(dim=1, keepdim=True).clamp(min=1e-9)

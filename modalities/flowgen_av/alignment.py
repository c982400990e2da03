"""Does what is heard follow what is seen? Measures for recordings, whose events are not known."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from flowgen.core.random import seed_of
from flowgen.core.ranges import Count, Share
from flowgen.errors import UsageError
from flowgen.evaluation.features import FromFeatures
from flowgen.media.clip import Clip
from flowgen.media.interfaces import Better
from flowgen_av.events import onsets, rises
from flowgen_av.modality import AudioVideo

_MOST = 48
"""Events of a clip that are kept."""

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


class AVAlign(FromFeatures):
    """Intersection over union of the peaks of motion and of the onsets of sound (AV-Align; Yariv et al. 2024, sec. 4.1).

    A peak of one belongs to one of the other within `frames` frames. Motion is the mean length of the optical flow between
    frames (Lucas and Kanade 1981 in windows; the paper's is Farneback's), so that figures of other programs are near, not
    equal: hold `av_align` against the same of real clips. `shuffled`: of each picture with the sound of the next clip.

    Args:
        frames: within which a peak and an onset belong together.
    """

    better: ClassVar[Mapping[str, Better]] = {"av_align": "higher"}

    def __init__(self, modality: AudioVideo, frames: Count = 1) -> None:
        self.modality, self.frames = modality, frames

    def features(self, clips: Sequence[Clip]) -> dict[str, Tensor]:
        """Seconds of peaks and of onsets [N, ...], filled with not-a-number; of clips that have both."""
        seen, heard = [], []
        for clip in clips:
            picture, sound = (self.modality.stream_of(clip, name) for name in ("picture", "sound"))
            if picture is None or sound is None:
                continue
            frames: Any = picture.data
            wave: Any = sound.data
            seen.append(torch.tensor(motion_peaks(frames, self.modality.fps), dtype=torch.float64))
            heard.append(torch.tensor(onsets(wave, self.modality.sample_rate), dtype=torch.float64))
        pad = torch.nn.utils.rnn.pad_sequence
        return {
            name: pad(
                [F.pad(e, (0, _MOST - len(e)), value=math.nan) if len(e) <= _MOST else e[:_MOST] for e in events],
                batch_first=True,
            )
            if events
            else torch.zeros(0, _MOST)
            for name, events in (("seen", seen), ("heard", heard))
        }

    def figures(self, found: Mapping[str, Tensor], reference: Mapping[str, Tensor]) -> dict[str, float]:
        seen, heard = found["seen"], found["heard"]
        if not len(seen):
            return {}
        out = {"av_align": self._aligned(seen, heard)}
        return out | ({"shuffled": self._aligned(seen, heard.roll(1, 0))} if len(seen) > 1 else {})

    def _aligned(self, seen: Tensor, heard: Tensor) -> float:
        near = (seen[:, :, None] - heard[:, None, :]).abs() <= self.frames / self.modality.fps + 1e-9
        both = (near.any(2).sum(1) + near.any(1).sum(1)) / 2
        all_of = (~seen.isnan()).sum(1) + (~heard.isnan()).sum(1) - both
        return float((both / all_of.clamp(min=1)).mean())


def motion_peaks(frames: Tensor, fps: float) -> list[float]:
    """Seconds at which the optical flow of a picture [T, H, W, C] is longer, in the mean, than before and after."""
    light = frames.float().mean(-1)[:, None] / 255
    if len(light) < 4:
        return []
    down, right = torch.gradient((light[1:] + light[:-1]) / 2, dim=(2, 3))
    later = light.diff(dim=0)

    def near(x: Tensor) -> Tensor:
        return F.avg_pool2d(x, 5, 1, 2, count_include_pad=False)

    yy, xx, xy = near(down**2) + 1e-4, near(right**2) + 1e-4, near(down * right)
    yt, xt = near(down * later), near(right * later)
    flow = torch.stack([xy * xt - xx * yt, xy * yt - yy * xt]) / (xx * yy - xy**2)
    length = flow.norm(dim=0).flatten(1).mean(1)
    middle = length[1:-1]
    peaks = (middle > length[:-2]) & (middle >= length[2:]) & (middle > length.mean())
    return ((peaks.nonzero()[:, 0] + 1.5) / fps).tolist()


def correlations(found: Mapping[str, Tensor]) -> Tensor:
    """Of each picture with each sound [N, N]."""
    return found["seen"] @ found["heard"].T


def _unit(rows: list[Tensor]) -> Tensor:
    """[N, T], the shorter filled up; each smoothed over two frames, less its mean, at unit length."""
    out = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True).double()
    out[:, 1:] = out[:, 1:] + out[:, :-1]
    out = out - out.mean(1, keepdim=True)
    return out / out.norm(dim=1, keepdim=True).clamp(min=1e-9)

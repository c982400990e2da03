"""How like the real recordings generated ones are: as asked, as a whole, and one by one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from flowgen.core.ranges import Count, Integer
from flowgen.errors import UsageError
from flowgen.evaluation.distances import frechet
from flowgen.evaluation.features import FromFeatures, agreement, shares
from flowgen.evaluation.pool import training_clips
from flowgen.media.clip import Clip
from flowgen.media.interfaces import Better, Dataset
from flowgen_audio.modality import Audio
from flowgen_audio.recogniser import Recogniser, class_conditions, recogniser

_DECIBELS = 30
"""To a unit of the recogniser's frames."""


@dataclass(frozen=True)
class ClassifierAgreement(FromFeatures):
    """Share of clips in which a recogniser, trained on real training clips only, hears what was asked, for each class.

    The recogniser trains for `epochs` the first time a data set is measured, and is kept in the user's cache folder.
    """

    modality: Audio
    dataset: Dataset
    epochs: Count = 15
    seed: Integer = 0

    @cached_property
    def recogniser(self) -> Recogniser:
        return recogniser(self.modality, self.dataset, self.epochs, self.seed)

    @property
    def judged(self) -> tuple[str, ...]:
        return tuple(class_conditions(self.dataset))

    @property
    def better(self) -> dict[str, Better]:  # type: ignore[override]
        return dict.fromkeys(self.judged, "higher")

    def features(self, clips: Sequence[Clip]) -> dict[str, Tensor]:
        """Whether what was asked is heard in each clip, by class."""
        heard, _ = self.recogniser.read(clips)
        return {
            name: agreement([h[name] for h in heard], [c.conditions.get(name) for c in clips]) for name in self.judged
        }

    def figures(self, found: Mapping[str, Tensor], reference: Mapping[str, Tensor]) -> dict[str, float]:
        return shares(found)

    def readings(self, clips: Sequence[Clip]) -> list[dict[str, str]]:
        """What is heard in each clip."""
        return self.recogniser.read(clips)[0]


@dataclass(frozen=True)
class FrechetAudio:
    """Frechet distance between Gaussians fitted to the recogniser's features of the clips and of held-out real clips.

    distance: clips to as many held-out clips. training: as many real training clips to the same held-out clips, at equal
    number on both sides, which is what a perfect generator would reach. The distance depends on features and number, and
    compares with no other.
    """

    modality: Audio
    dataset: Dataset
    epochs: Count = 15
    seed: Integer = 0

    @cached_property
    def recogniser(self) -> Recogniser:
        return recogniser(self.modality, self.dataset, self.epochs, self.seed)

    def measure(self, clips: Sequence[Clip], reference: Sequence[Clip] = ()) -> dict[str, float]:
        held_out = self.dataset.validation()
        n = min(len(clips), len(held_out), len(self.dataset))
        if n < 2:
            raise UsageError(f"a Frechet distance needs at least 2 clips on both sides, got {n}")
        test = self._features(training_clips(held_out, n))
        training = self._features(training_clips(self.dataset, n))
        return {
            "distance": frechet(self._features(clips[:n]), test),
            "training": frechet(training, test),
        }

    def _features(self, clips: Sequence[Clip]) -> Tensor:
        return self.recogniser.read(clips)[1]


@dataclass(frozen=True)
class NearestRecording(FromFeatures):
    """Distance to the nearest training clip (memorisation).

    copied: share of clips that lie nearer to some training clip than any held-out real clip does. distance: median
    distance to the nearest training clip, beside `real`, that of held-out clips. Distances are root mean squares, in
    decibels, between log-mel frames stretched to one length; at most `most` training clips are compared.
    """

    modality: Audio
    dataset: Dataset
    most: Count = 10000
    seed: Integer = 0

    better: ClassVar[Mapping[str, Better]] = {"copied": "lower", "distance": "real"}

    @cached_property
    def _training(self) -> Tensor:
        return self._points(training_clips(self.dataset, self.most))

    @cached_property
    def _held_out(self) -> Tensor:
        return self._nearest(self._points(training_clips(self.dataset.validation(), self.most)))

    def features(self, clips: Sequence[Clip]) -> dict[str, Tensor]:
        """Distance of each clip to the training clip nearest to it."""
        return {"nearest": self._nearest(self._points(clips))}

    def figures(self, found: Mapping[str, Tensor], reference: Mapping[str, Tensor]) -> dict[str, float]:
        nearest, real = found["nearest"], self._held_out
        return {
            "copied": float((nearest < real.min()).float().mean()),
            "distance": float(nearest.median()),
            "real": float(real.median()),
        }

    def _points(self, clips: Sequence[Clip]) -> Tensor:
        return mel_points(self.modality, clips)

    def _nearest(self, points: Tensor) -> Tensor:
        """Distance of each point to the training clip nearest to it, in decibels."""
        parts = [torch.cdist(part, self._training).amin(1) for part in points.split(256)]
        return torch.cat(parts) / points.shape[1] ** 0.5 * _DECIBELS


@dataclass(frozen=True)
class Diversity:
    """Are the clips as different from each other as real ones are?

    distance: mean over all pairs of clips. real: that of as many held-out real clips, and ratio one over the other: well
    below 1 means that the same few clips come again and again. within, within_real, within_ratio: over the pairs of which
    the same was asked, where the data set has classes: what is left when the asked differences are taken out.
    Distances are those of `nearest-recording` (decibels, for log-mel), or between the recogniser's features.
    """

    modality: Audio
    dataset: Dataset
    features: Literal["log-mel", "recogniser"] = "log-mel"
    epochs: Count = 15
    seed: Integer = 0

    def measure(self, clips: Sequence[Clip], reference: Sequence[Clip] = ()) -> dict[str, float]:
        n = min(len(clips), len(self.dataset.validation()))
        if n < 2:
            raise UsageError(f"diversity needs at least 2 clips on both sides, got {n}")
        sides = {"": clips[:n], "_real": training_clips(self.dataset.validation(), n)}
        classes = [k for k, c in self.dataset.conditions.items() if c["type"] == "class"]
        out: dict[str, float] = {}
        for side, chosen in sides.items():
            distances = torch.pdist(self._points(chosen))
            out["distance" if side == "" else "real"] = float(distances.mean())
            if classes:
                asked = [tuple(str(c.conditions.get(k)) for k in classes) for c in chosen]
                same = torch.tensor([a == b for a, b in combinations(asked, 2)])
                if same.any():
                    out[f"within{side}"] = float(distances[same].mean())
        out["ratio"] = out["distance"] / out["real"]
        if {"within", "within_real"} <= out.keys():
            out["within_ratio"] = out["within"] / out["within_real"]
        return out

    def _points(self, clips: Sequence[Clip]) -> Tensor:
        if self.features == "recogniser":
            return recogniser(self.modality, self.dataset, self.epochs, self.seed).read(clips)[1]
        points = mel_points(self.modality, clips)
        return points * (_DECIBELS / points.shape[1] ** 0.5)


def mel_points(modality: Audio, clips: Sequence[Clip]) -> Tensor:
    """Log-mel frames of what sounds in each clip, stretched to one length: [N, D]."""
    model = Recogniser(modality.sample_rate, {}, bands=40)
    frames = [sounding(model.frames(clip)) for clip in clips]
    return torch.stack([F.interpolate(f[None], 32, mode="linear", align_corners=False).flatten() for f in frames])


def sounding(frames: Tensor, below: float = 2 - 40 / 30) -> Tensor:
    """Frames [bands, T] without the silence (40 dB below the loudest) before and after."""
    loud = (frames.amax(0) > below).nonzero()[:, 0]
    return frames[:, int(loud[0]) : int(loud[-1]) + 1] if len(loud) else frames

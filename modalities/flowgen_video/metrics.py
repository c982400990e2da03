"""Measures for clips of any content."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from flowgen.core.ranges import Count
from flowgen.errors import FlowgenError, UsageError
from flowgen.evaluation.distances import frechet
from flowgen.evaluation.distribution import Distribution
from flowgen.evaluation.features import FromFeatures, agreement, shares
from flowgen.evaluation.pool import training_clips
from flowgen.media.clip import Clip
from flowgen.media.interfaces import Better, Dataset
from flowgen_video.embedding import embed
from flowgen_video.modality import Video


class VideoDistribution(Distribution):
    __doc__ = f"""{Distribution.__doc__}
        embedding: one that needs no weights from elsewhere ("random-convolution"), "efficientnet-lite0", the folder of a
            transformers model of videos (VideoMAE) or pictures (DINOv2, CLIP), or one's own as package.module:attribute.
    """

    def __init__(
        self,
        modality: Video,
        dataset: Dataset,
        embedding: str = "random-convolution",
        dimensions: Count = 32,
        pool: Count = 512,
    ) -> None:
        super().__init__(lambda clips: embed(clips, embedding), dataset, dimensions, pool)


class FrechetDistance:
    """Frechet distance between Gaussians fitted to clips and to real ones, in an embedding that sees motion (Heusel et al.
    2017, eq. 6; Unterthiner et al. 2018 for video).

    Features are scaled by their deviation over training clips and projected on the first `dimensions` principal components
    of those, so that a hundred clips suffice to fit a covariance. `frechet` depends on the embedding and on how many clips are
    compared: hold it against the same figure of as many real clips.

    Where whole persons or places are held out, held-out clips differ from training clips more than a good generator does from
    what it was shown. `against: training` compares with training clips instead, and gives beside it `frechet_real`, the
    distance of as many other training clips from the same, and `frechet_ratio`, one over the other.
    """

    def __init__(
        self,
        modality: Video,
        dataset: Dataset,
        embedding: str = "random-convolution",
        dimensions: Count = 32,
        clips: Count = 256,
        against: Literal["held-out", "training"] = "held-out",
    ) -> None:
        self.embedding, self.against = embedding, against
        features = embed(training_clips(dataset, clips), embedding)
        self.mean, self.scale = features.mean(0), features.std(0).clamp(min=1e-6)
        self.basis = torch.linalg.svd((features - self.mean) / self.scale, full_matrices=False).Vh[:dimensions].T
        self.training = (features - self.mean) / self.scale @ self.basis

    @property
    def compares(self) -> bool:
        return self.against == "held-out"

    @property
    def better(self) -> dict[str, Better]:
        return {"frechet": "lower"} if self.compares else {"frechet": "lower", "frechet_ratio": "lower"}

    def features(self, clips: Sequence[Clip]) -> dict[str, Tensor]:
        """Components [N, d] of the clips."""
        return {"components": (embed(clips, self.embedding) - self.mean) / self.scale @ self.basis}

    def figures(self, found: Mapping[str, Tensor], reference: Mapping[str, Tensor]) -> dict[str, float]:
        shown = found["components"]
        if self.compares:
            return {"frechet": self._distance(shown, reference["components"])}
        n = min(len(shown), len(self.training) // 2)
        ours = self._distance(shown[:n], self.training[:n])
        real = self._distance(self.training[n : 2 * n], self.training[:n])
        return {"frechet": ours, "frechet_real": real, "frechet_ratio": ours / real}

    def measure(self, clips: Sequence[Clip], reference: Sequence[Clip]) -> dict[str, float]:
        return self.figures(self.features(clips), self.features(reference) if self.compares else {})

    def _distance(self, a: Tensor, b: Tensor) -> float:
        """Over as many of each, in fewer dimensions than there are clips."""
        n = min(len(a), len(b))
        d = max(1, min(a.shape[1], n - 1))
        try:
            return frechet(a[:n, :d], b[:n, :d])
        except ValueError as error:
            raise UsageError(f"metric 'frechet-video': {error}") from None


class LabelAgreement(FromFeatures):
    """Whether a classifier trained on real training clips sees in a clip the class that was asked.

    The classifier is a support vector machine on the embedding. `label`: the share of clips in which the asked class is
    seen. The same figure of real held-out clips stands beside it and says how far the classifier is to be trusted.
    """

    def __init__(
        self,
        modality: Video,
        dataset: Dataset,
        condition: str = "label",
        embedding: str = "random-convolution",
        clips: Count = 512,
    ) -> None:
        kind = dataset.conditions.get(condition, {}).get("type")
        if kind != "class":
            classes = [name for name, c in dataset.conditions.items() if c["type"] == "class"]
            raise UsageError(
                f"label-agreement.condition: {condition!r} is no class of this data set (classes: {', '.join(classes) or 'none'})"
            )
        self.condition, self.embedding = condition, embedding
        real = training_clips(dataset, clips)
        self.classifier = _classifier()
        self.classifier.fit(embed(real, embedding).numpy(), [str(c.conditions[condition]) for c in real])

    judged = ("label",)
    better: ClassVar[Mapping[str, Better]] = {"label": "higher"}

    def features(self, clips: Sequence[Clip]) -> dict[str, Tensor]:
        asked = [clip.conditions.get(self.condition) for clip in clips]
        if all(value is None for value in asked):
            raise FlowgenError(f"label-agreement needs clips of which {self.condition!r} was asked, and there are none")
        return {"label": agreement(self.classifier.predict(embed(clips, self.embedding).numpy()), asked)}

    def figures(self, found: Mapping[str, Tensor], reference: Mapping[str, Tensor]) -> dict[str, float]:
        return shares(found)


def _classifier() -> Any:
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from sklearn.svm import SVC

    return make_pipeline(StandardScaler(), SVC(C=10.0, gamma="scale"))


class MotionMagnitude(FromFeatures):
    """How much moves: the mean absolute change from frame to frame, in grey levels (0 to 255).

    `change`: the mean over clips. `change_ratio`: relative to the real ones; 0 is frozen, 1 as lively as real.
    """

    better: ClassVar[Mapping[str, Better]] = {"change": "real"}
    compares = True

    def __init__(self, modality: Video, dataset: Dataset) -> None:
        pass

    def features(self, clips: Sequence[Clip]) -> dict[str, Tensor]:
        return {"change": torch.tensor([change(clip) for clip in clips], dtype=torch.float64)}

    def figures(self, found: Mapping[str, Tensor], reference: Mapping[str, Tensor]) -> dict[str, float]:
        ours, real = (float(side["change"].sum()) / max(len(side["change"]), 1) for side in (found, reference))
        return {"change": ours} | ({"change_ratio": ours / real} if real > 0 else {})


def change(clip: Clip) -> float:
    """Mean absolute difference of neighbouring frames, in grey levels."""
    frames = clip.data.float()  # type: ignore[union-attr]
    return float(frames.diff(dim=0).abs().mean()) if len(frames) > 1 else 0.0


class NearestTraining(FromFeatures):
    """Distance to the nearest training clip (memorisation), as root mean square difference in grey levels.

    `nearest`: the median over clips. `nearest_ratio`: relative to the same figure of real clips that are not in training;
    well below 1 means that training clips are repeated.
    """

    better: ClassVar[Mapping[str, Better]] = {"nearest": "real"}
    compares = True

    def __init__(self, modality: Video, dataset: Dataset, clips: Count = 1000) -> None:
        self.training = torch.stack([clip.data.flatten() for clip in training_clips(dataset, clips)]).float()  # type: ignore[union-attr]

    def features(self, clips: Sequence[Clip]) -> dict[str, Tensor]:
        """Distance of each clip to the training clip nearest to it."""
        if not clips:
            return {"nearest": torch.zeros(0)}
        flat = torch.stack([clip.data.flatten() for clip in clips]).float()  # type: ignore[union-attr]
        if flat.shape[1] != self.training.shape[1]:
            raise FlowgenError(
                f"nearest compares clips of the training length ({self.training.shape[1]} numbers), got {flat.shape[1]}"
            )
        return {"nearest": torch.cdist(flat, self.training).amin(1) / flat.shape[1] ** 0.5}

    def figures(self, found: Mapping[str, Tensor], reference: Mapping[str, Tensor]) -> dict[str, float]:
        ours, real = (float(side["nearest"].median()) if len(side["nearest"]) else 0.0 for side in (found, reference))
        return {"nearest": ours} | ({"nearest_ratio": ours / real} if real > 0 else {})

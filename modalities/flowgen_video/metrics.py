"""Measures for clips of any content."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from flowgen.core.random import seed_of
from flowgen.core.ranges import Count
from flowgen.data.loader import Order
from flowgen.errors import FlowgenError, UsageError
from flowgen.media.clip import Clip
from flowgen.media.interfaces import Dataset
from flowgen_video.embedding import embed
from flowgen_video.modality import Video


def training_clips(dataset: Dataset, n: int) -> list[Clip]:
    """At most n clips of the training set, the same ones every time."""
    order = Order(0, len(dataset))
    chosen = [order[i].index for i in range(min(n, len(dataset)))]
    return [dataset.clip(index, seed_of(0, "metric", index)) for index in chosen]


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
        if not 1 <= dimensions < len(features):
            raise UsageError(
                f"frechet-video.dimensions must lie between 1 and the number of training clips less one ({len(features) - 1}), "
                f"got {dimensions}"
            )
        self.mean, self.scale = features.mean(0), features.std(0).clamp(min=1e-6)
        self.basis = torch.linalg.svd((features - self.mean) / self.scale, full_matrices=False).Vh[:dimensions].T
        self.training = (features - self.mean) / self.scale @ self.basis

    def measure(self, clips: Sequence[Clip], reference: Sequence[Clip]) -> dict[str, float]:
        shown = self._project(clips)
        if self.against == "held-out":
            return {"frechet": frechet(shown, self._project(reference))}
        n = len(clips)
        if 2 * n > len(self.training):
            raise UsageError(
                f"frechet-video.clips: to hold {n} clips against as many training clips and those against as many others "
                f"takes {2 * n}, and there are {len(self.training)}; measure fewer clips, or raise it"
            )
        ours = frechet(shown, self.training[:n])
        real = frechet(self.training[n : 2 * n], self.training[:n])
        return {"frechet": ours, "frechet_real": real, "frechet_ratio": ours / real}

    def _project(self, clips: Sequence[Clip]) -> Tensor:
        return (embed(clips, self.embedding) - self.mean) / self.scale @ self.basis


def frechet(a: Tensor, b: Tensor) -> float:
    """|m_a - m_b|^2 + tr(C_a + C_b - 2 (C_a C_b)^1/2) of two samples [N, D]. ValueError: fewer than two rows."""
    if min(len(a), len(b)) < 2:
        raise ValueError(f"a covariance needs at least 2 clips, got {len(a)} and {len(b)}")
    a, b = a.double(), b.double()
    cov_a, cov_b = torch.cov(a.T).reshape(a.shape[1], -1), torch.cov(b.T).reshape(b.shape[1], -1)
    # (C_a C_b)^1/2 has the eigenvalues of (C_a^1/2 C_b C_a^1/2)^1/2, which is symmetric
    values, vectors = torch.linalg.eigh(cov_a)
    root = vectors * values.clamp(min=0).sqrt() @ vectors.T
    cross = torch.linalg.eigvalsh(root @ cov_b @ root).clamp(min=0).sqrt().sum()
    distance = (a.mean(0) - b.mean(0)).square().sum() + cov_a.trace() + cov_b.trace() - 2 * cross
    return max(0.0, float(distance))


class LabelAgreement:
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

    def measure(self, clips: Sequence[Clip], reference: Sequence[Clip]) -> dict[str, float]:
        asked = [clip for clip in clips if clip.conditions.get(self.condition) is not None]
        if not asked:
            raise FlowgenError(f"label-agreement needs clips of which {self.condition!r} was asked, and there are none")
        seen = self.classifier.predict(embed(asked, self.embedding).numpy())
        return {
            "label": sum(str(c.conditions[self.condition]) == s for c, s in zip(asked, seen, strict=True)) / len(asked)
        }


def _classifier() -> Any:
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from sklearn.svm import SVC

    return make_pipeline(StandardScaler(), SVC(C=10.0, gamma="scale"))


class MotionMagnitude:
    """How much moves: the mean absolute change from frame to frame, in grey levels (0 to 255).

    `change`: the mean over clips. `change_ratio`: relative to the real ones; 0 is frozen, 1 as lively as real.
    """

    def __init__(self, modality: Video, dataset: Dataset) -> None:
        pass

    def measure(self, clips: Sequence[Clip], reference: Sequence[Clip]) -> dict[str, float]:
        ours, real = (sum(map(change, c)) / max(len(c), 1) for c in (clips, reference))
        return {"change": ours} | ({"change_ratio": ours / real} if real > 0 else {})


def change(clip: Clip) -> float:
    """Mean absolute difference of neighbouring frames, in grey levels."""
    frames = clip.data.float()  # type: ignore[union-attr]
    return float(frames.diff(dim=0).abs().mean()) if len(frames) > 1 else 0.0


class NearestTraining:
    """How far clips are from the nearest training clip, as root mean square difference in grey levels.

    `nearest`: the median over clips. `nearest_ratio`: relative to the same figure of real clips that are not in training;
    well below 1 means that training clips are repeated by heart.
    """

    def __init__(self, modality: Video, dataset: Dataset, clips: Count = 1000) -> None:
        self.training = torch.stack([clip.data.flatten() for clip in training_clips(dataset, clips)]).float()  # type: ignore[union-attr]

    def measure(self, clips: Sequence[Clip], reference: Sequence[Clip]) -> dict[str, float]:
        ours, real = self._median(clips), self._median(reference)
        return {"nearest": ours} | ({"nearest_ratio": ours / real} if real > 0 else {})

    def _median(self, clips: Sequence[Clip]) -> float:
        if not clips:
            return 0.0
        flat = torch.stack([clip.data.flatten() for clip in clips]).float()  # type: ignore[union-attr]
        if flat.shape[1] != self.training.shape[1]:
            raise FlowgenError(
                f"nearest compares clips of the training length ({self.training.shape[1]} numbers), got {flat.shape[1]}"
            )
        distance = torch.cdist(flat, self.training).amin(1) / flat.shape[1] ** 0.5
        return float(distance.median())

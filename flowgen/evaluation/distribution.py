"""How near the distribution of clips is to that of real ones, in an embedding: a metric each modality brings its own features to."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import ClassVar

import torch
from torch import Tensor

from flowgen.errors import FlowgenError, UsageError
from flowgen.evaluation.distances import frechet, kernel_distance, mean_distance_within, precision_recall
from flowgen.evaluation.features import FromFeatures
from flowgen.evaluation.pool import training_clips
from flowgen.media.clip import Clip
from flowgen.media.interfaces import Better, Dataset

Embed = Callable[[Sequence[Clip]], Tensor]
"""Clips to features [N, D]."""

_ROWS_A_DIMENSION = 4


class Distribution(FromFeatures):
    """Clips against as many real ones, in features whitened by training clips.

    frechet: Frechet distance of Gaussians. kernel: squared maximum mean discrepancy, unbiased. precision: share of the clips
    that are like real ones; recall: share of the real ones that the clips are like. within: mean distance between clips
    of which the same was asked (diversity within a condition). nearest: median distance to the nearest training clip of the
    pool (memorisation). All depend on features and number: hold them against the
    column of the real clips, which is real against real.

    Features are scaled by their deviation over training clips, projected on the first `dimensions` principal components of
    these, and each component on unit deviation, so that what is small is seen, too. There are fewer dimensions where there
    are fewer than four clips for each, so that covariances can be fitted.

    Args:
        embed: clips to features.
        pool: how many training clips this is taken from.
    """

    better: ClassVar[Mapping[str, Better]] = {
        "frechet": "lower",
        "kernel": "lower",
        "precision": "higher",
        "recall": "higher",
        "within": "real",
        "nearest": "real",
    }
    compares = True

    def __init__(self, embed: Embed, dataset: Dataset, dimensions: int, pool: int) -> None:
        self.embed, self.dataset, self.dimensions, self.pool = embed, dataset, dimensions, pool

    @cached_property
    def _axes(self) -> tuple[Tensor, Tensor, Tensor]:
        """The mean of training features [D], what projects on the components [D, dimensions], most important first, and the
        components of the training clips."""
        features = self._embedded(training_clips(self.dataset, self.pool))
        if len(features) < 2:
            raise UsageError(f"the distribution of clips needs at least 2 training clips, got {len(features)}")
        mean, scale = features.mean(0), features.std(0).clamp(min=1e-6)
        _, values, basis = torch.linalg.svd((features - mean) / scale, full_matrices=False)
        rank = int((values > 1e-6 * values[0]).sum())
        kept = slice(0, max(1, min(self.dimensions, rank)))
        deviation = (values[kept] / len(features) ** 0.5).clamp(min=1e-6)
        project = basis[kept].T / scale[:, None] / deviation
        return mean, project, (features - mean) @ project

    def _embedded(self, clips: Sequence[Clip]) -> Tensor:
        features = self.embed(clips).double().cpu()
        if not features.isfinite().all():
            raise FlowgenError(
                "the embedding gives values that are not finite; take another with the option 'embedding'"
            )
        return features

    def features(self, clips: Sequence[Clip]) -> dict[str, Tensor]:
        """Components [N, d], the distance to the nearest training clip [N], and the number of what was asked [N] (equal for
        equal values of the class conditions)."""
        mean, project, training = self._axes
        d = max(1, min(project.shape[1], len(clips) // _ROWS_A_DIMENSION))
        classes = [name for name, c in self.dataset.conditions.items() if c["type"] == "class"]
        asked = [tuple(str(clip.conditions.get(name)) for name in classes) for clip in clips]
        numbers = {values: i for i, values in enumerate(dict.fromkeys(asked))}
        components = (self._embedded(clips) - mean) @ project[:, :d]
        return {
            "components": components,
            "nearest": torch.cdist(components, training[:, :d]).amin(1) / d**0.5,
            "asked": torch.tensor([numbers[values] for values in asked]),
        }

    def figures(self, found: Mapping[str, Tensor], reference: Mapping[str, Tensor]) -> dict[str, float]:
        ours, real = found["components"], reference["components"]
        d = min(ours.shape[1], real.shape[1])
        ours, real = ours[:, :d], real[:, :d]
        if min(len(ours), len(real)) < 2:
            raise UsageError(
                f"distances of distributions need at least 2 clips on both sides, got {len(ours)} and {len(real)}"
            )
        precision, recall = precision_recall(ours, real)
        out = {
            "frechet": frechet(ours, real),
            "kernel": kernel_distance(ours, real),
            "precision": precision,
            "recall": recall,
            "nearest": float(found["nearest"].median()),
        }
        within = mean_distance_within(ours, found["asked"])
        return out if within is None else {**out, "within": within / d**0.5}

    def measure(self, clips: Sequence[Clip], reference: Sequence[Clip] = ()) -> dict[str, float]:
        """Figures of clips against as many real ones (the first ones, where there are more)."""
        n = min(len(clips), len(reference))
        return self.figures(self.features(clips[:n]), self.features(reference[:n]))

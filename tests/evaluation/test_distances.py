"""Distances of distributions, against other programs and closed forms, and their intervals."""

import math

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm

from flowgen.evaluation.distances import frechet, kernel_distance, mean_distance_within, precision_recall
from flowgen.evaluation.distribution import Distribution
from flowgen.evaluation.features import FromFeatures
from flowgen.evaluation.intervals import intervals
from flowgen.evaluation.pool import training_clips
from flowgen.media.clip import Clip


def normal(n, d, seed):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_frechet_is_the_formula_of_the_reference_implementations():
    """pytorch-fid and the FAD and FVD codes: scipy's matrix square root of the product of covariances."""
    a, b = normal(400, 16, 0) @ normal(16, 16, 1), normal(300, 16, 2) + 2
    ca, cb = np.cov(a.numpy().T), np.cov(b.numpy().T)
    root = sqrtm(ca @ cb).real
    expected = float((a.mean(0) - b.mean(0)).square().sum()) + np.trace(ca + cb - 2 * root)
    assert frechet(a, b) == pytest.approx(expected, rel=1e-6)
    assert frechet(a, a) == pytest.approx(0, abs=1e-9)
    assert frechet(a, a + 3) == pytest.approx(9 * 16, rel=1e-9)
    with pytest.raises(ValueError, match="at least 2"):
        frechet(torch.zeros(1, 3), torch.zeros(5, 3))


def test_kernel_distance_is_the_unbiased_estimate():
    a, b = normal(7, 3, 0), normal(5, 3, 1) + 1

    def k(x, y):
        return (float(x @ y) / 3 + 1) ** 3

    def within(z):
        pairs = [(i, j) for i in range(len(z)) for j in range(len(z)) if i != j]
        return sum(k(z[i], z[j]) for i, j in pairs) / len(pairs)

    across = sum(k(x, y) for x in a for y in b) / 35
    assert kernel_distance(a, b) == pytest.approx(within(a) + within(b) - 2 * across, rel=1e-9)
    same = [kernel_distance(normal(50, 3, 2 * s), normal(50, 3, 2 * s + 1)) for s in range(60)]
    assert abs(np.mean(same)) < 3 * np.std(same) / 60**0.5, "unbiased"


def test_precision_sees_strangers_and_recall_lost_modes():
    real = torch.cat([normal(50, 4, 0), normal(50, 4, 1) + 20])
    assert precision_recall(real[:50], real) == (1, 0.5)
    precision, recall = precision_recall(torch.cat([real, normal(100, 4, 2) - 40]), real)
    assert (precision, recall) == (0.5, 1)


def test_diversity_within_is_over_pairs_of_one_group():
    x = torch.tensor([[0.0], [1.0], [10.0], [13.0]])
    assert mean_distance_within(x, torch.tensor([0, 0, 1, 1])) == 2
    assert mean_distance_within(x, torch.tensor([0, 1, 2, 3])) is None


class Mean(FromFeatures):
    def features(self, clips):
        return {"x": torch.stack([clip.data for clip in clips])}

    def figures(self, found, reference):
        return {"mean": float(found["x"].mean())}


def test_an_interval_covers_the_truth_about_as_often_as_it_says():
    covered, metric = 0, Mean()
    for seed in range(100):
        x = {"x": normal(60, 1, seed)}
        figures = metric.figures(x, {})
        low, high = intervals(metric, x, {}, figures, seed)["mean"]
        assert (high - low) / 2 == pytest.approx(1.96 * float(x["x"].std()) / 60**0.5, rel=0.25)
        covered += low < 0 < high
    assert 88 <= covered <= 100


class Points:
    """2-D points around the place of their class."""

    conditions = {"side": {"type": "class", "names": ["left", "right"]}}  # noqa: RUF012

    def __len__(self):
        return 200

    def clip(self, index, seed):
        side = ("left", "right")[index % 2]
        return Clip(normal(1, 6, 1000 + index)[0] + (6 if side == "left" else -6), conditions={"side": side})


def test_a_distribution_tells_real_clips_from_means_and_repeats():
    data = Points()
    metric = Distribution(lambda clips: torch.stack([c.data for c in clips]), data, dimensions=32, pool=100)
    clips = [data.clip(i, 0) for i in range(200)]
    real, reference = clips[:80], clips[100:180]
    good = metric.measure(real, reference)
    centres = {s: torch.full((6,), v, dtype=torch.float64) for s, v in (("left", 6.0), ("right", -6.0))}
    means = [Clip(centres[c.conditions["side"]] + 0.05 * c.data, conditions=c.conditions) for c in real]
    repeats = [Clip(clips[i % 2].data, conditions=c.conditions) for i, c in enumerate(real)]
    for bad in (metric.measure(means, reference), metric.measure(repeats, reference)):
        assert bad["frechet"] > 2 * good["frechet"]
        assert bad["within"] < 0.3 * good["within"]
        assert bad["recall"] < 0.5 < good["recall"]
    copies = metric.measure(training_clips(data, 80), reference)
    held_out = metric.measure([data.clip(i, 0) for i in range(200, 280)], reference)
    assert copies["nearest"] < 1e-6
    assert held_out["nearest"] > 0.1
    few = metric.features(real[:9])
    assert few["components"].shape == (9, 2), "four clips a dimension"
    assert all(map(math.isfinite, metric.measure(real[:4], reference[:4]).values()))

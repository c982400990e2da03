"""How far figures of a sample may be off: 95 % intervals."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from flowgen.core.random import generator
from flowgen.media.interfaces import Judging, Resampled

RESAMPLES = 200
_Z = 1.96

Interval = tuple[float, float]


def intervals(
    metric: Resampled,
    found: Mapping[str, Tensor],
    reference: Mapping[str, Tensor],
    figures: Mapping[str, float],
    seed: int,
) -> dict[str, Interval]:
    """A 95 % interval for each of the figures of `found` against `reference`.

    The bootstrap by half samples: figures of a random half of the rows of each side, whose standard deviation is that of the
    figure itself (McCarthy 1969; Shao and Wu 1989: the jackknife that deletes half). Drawn with replacement a clip would
    meet itself, which distances, neighbours and diversity take for a copy. Shares that a recogniser judges have the score
    interval of Wilson (1927) instead, which is no point at 0 and 1.
    """
    n, m = _rows(found), _rows(reference)
    judged = metric.judged if isinstance(metric, Judging) else ()
    out = {name: wilson(figures[name], n) for name in judged if name in figures}
    if n < 4:
        return out
    g = generator(seed, "bootstrap")
    drawn: dict[str, list[float]] = {name: [] for name in figures if name not in out}
    for _ in range(RESAMPLES if drawn else 0):
        half = metric.figures(_some(found, n, g), _some(reference, m, g))
        for name, values in drawn.items():
            if math.isfinite(half.get(name, math.nan)):
                values.append(half[name])
    for name, values in drawn.items():
        if len(values) > 1 and math.isfinite(figures[name]):
            width = _Z * float(torch.tensor(values, dtype=torch.float64).std())
            out[name] = (figures[name] - width, figures[name] + width)
    return out


def wilson(share: float, n: int) -> Interval:
    """The 95 % score interval of a share of n."""
    from scipy.stats import binomtest

    low, high = binomtest(round(share * n), n).proportion_ci(0.95, "wilson")
    return float(low), float(high)


def apart(a: Interval, b: Interval) -> bool:
    """Whether two intervals share nothing."""
    return a[1] < b[0] or b[1] < a[0]


def _rows(found: Mapping[str, Tensor]) -> int:
    return len(next(iter(found.values()))) if found else 0


def _some(found: Mapping[str, Tensor], n: int, g: torch.Generator) -> Mapping[str, Tensor]:
    if n < 4:
        return found
    rows = torch.randperm(n, generator=g)[: n // 2]
    return {name: value[rows] for name, value in found.items()}

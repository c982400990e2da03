"""Rows of an evaluation: a metric on several sets of clips, with intervals, and whether its judge can be believed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch

from flowgen.core.random import generator
from flowgen.evaluation.intervals import Interval, apart, intervals
from flowgen.media.clip import Clip
from flowgen.media.interfaces import Better, Graded, Judging, Metric, Resampled

COLUMNS = ("generated", "round_trip", "real")


@dataclass(frozen=True)
class Row:
    """One figure of one metric on the three sets and on the negative controls; None where a set does not give it.

    Args:
        intervals: by column or control, the 95 % interval, of a metric that is `Resampled`.
        controls: the figure of each control.
        better: which way is better, of a metric that is `Graded`.
        void: why the figure proves nothing, where its judge fails on real clips.
    """

    metric: str
    name: str
    generated: float | None
    round_trip: float | None
    real: float | None
    intervals: Mapping[str, Interval] = field(default_factory=dict)
    controls: Mapping[str, float | None] = field(default_factory=dict)
    better: Better | None = None
    void: str | None = None

    def value(self, column: str) -> float | None:
        """The figure of a column or control; None: it has none."""
        own = dict(zip(COLUMNS, (self.generated, self.round_trip, self.real), strict=True))
        return {**self.controls, **own}.get(column)

    def fails(self, column: str) -> bool:
        """Whether the figure is worse than that of real clips by more than the sampling error: their intervals do not meet."""
        value, real = self.value(column), self.real
        if self.better is None or self.void or value is None or real is None:
            return False
        if not {column, "real"} <= self.intervals.keys() or not apart(self.intervals[column], self.intervals["real"]):
            return False
        return self.better == "real" or (value < real) == (self.better == "higher")


def measure(
    name: str, metric: Metric, columns: Mapping[str, Sequence[Clip]], reference: Sequence[Clip], seed: int
) -> list[Row]:
    """The rows of one metric on each column of clips; columns that are not among COLUMNS are controls."""
    figures: dict[str, dict[str, float]] = {}
    spread: dict[str, dict[str, Interval]] = {}
    if isinstance(metric, Resampled):
        others = metric.features(reference) if metric.compares else {}
        for column, clips in columns.items():
            found = metric.features(clips)
            figures[column] = metric.figures(found, others)
            spread[column] = intervals(metric, found, others, figures[column], seed)
    else:
        figures = {column: metric.measure(clips, reference) for column, clips in columns.items()}
    void = _void(metric, figures["real"], columns["real"], reference, seed)
    better = metric.better if isinstance(metric, Graded) else {}
    rows = []
    for figure in dict.fromkeys(figure for found in figures.values() for figure in found):
        values = {column: finite(found.get(figure)) for column, found in figures.items()}
        rows.append(
            Row(
                name,
                figure,
                values.pop("generated", None),
                values.pop("round_trip", None),
                values.pop("real"),
                intervals={column: found[figure] for column, found in spread.items() if figure in found},
                controls=values,
                better=better.get(figure),
                void=void.get(figure),
            )
        )
    return rows


def _void(
    metric: Metric, figures: Mapping[str, float], real: Sequence[Clip], reference: Sequence[Clip], seed: int
) -> dict[str, str]:
    """Why figures of a judge prove nothing: it is not even half way from what it finds in real clips that others were asked
    for (chance) to what it would find if it never erred."""
    if not isinstance(metric, Judging) or len(real) < 2:
        return {}
    order = torch.randperm(len(real), generator=generator(seed, "judge")).tolist()
    strangers = [replace(clip, conditions=real[i].conditions) for clip, i in zip(real, order, strict=True)]
    chance = metric.measure(strangers, reference)
    return {
        name: f"of real clips the judge finds {figures[name]:.0%}, and by chance {chance[name]:.0%}"
        for name in metric.judged
        if name in figures and name in chance and figures[name] < (1 + chance[name]) / 2
    }


def finite(value: float | None) -> float | None:
    return float(value) if value is not None and math.isfinite(value) else None

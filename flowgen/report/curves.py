"""Loss curves as geometry: the template draws it, so that it takes the colours of the page."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

WIDTH, HEIGHT = 560, 220
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 12, 10, 28
_POINTS = 300

Series = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Tick:
    at: float
    label: str


@dataclass(frozen=True)
class Chart:
    """Lines by name as SVG points, and ticks, in a box of WIDTH x HEIGHT; steps run linearly, losses logarithmically."""

    lines: dict[str, str]
    last: dict[str, float]
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    width: int = WIDTH
    height: int = HEIGHT
    left: int = _LEFT
    right: int = WIDTH - _RIGHT
    top: int = _TOP
    bottom: int = HEIGHT - _BOTTOM


def loss_chart(log: Sequence[Mapping[str, float]]) -> Chart | None:
    """Training and validation loss of the lines of log.jsonl; None where there are no two points to join."""
    named = {"training": "loss", "validation": "validation/loss"}
    series = {name: [(e["step"], e[key]) for e in log if e.get(key, 0) > 0] for name, key in named.items()}
    return chart({name: points for name, points in series.items() if len(points) > 1})


def chart(series: Mapping[str, Series]) -> Chart | None:
    """Lay out series of (step, positive value)."""
    if not series:
        return None
    series = {name: thinned(points) for name, points in series.items()}
    xs = [x for points in series.values() for x, _ in points]
    ys = [y for points in series.values() for _, y in points]
    low, high = math.log10(min(ys)), math.log10(max(ys))
    margin = max(0.05 * (high - low), 0.02)
    low, high, right = low - margin, high + margin, max(xs)

    def x_of(x: float) -> float:
        return round(_LEFT + (WIDTH - _LEFT - _RIGHT) * x / right, 1)

    def y_of(y: float) -> float:
        return round(_TOP + (HEIGHT - _TOP - _BOTTOM) * (high - math.log10(y)) / (high - low), 1)

    lines = {name: " ".join(f"{x_of(x)},{y_of(y)}" for x, y in points) for name, points in series.items()}
    return Chart(
        lines,
        {name: points[-1][1] for name, points in series.items()},
        tuple(Tick(x_of(x), f"{x:,.0f}") for x in _round_steps(right)),
        tuple(Tick(y_of(y), f"{y:.3g}") for y in _round_values(10**low, 10**high)),
    )


def thinned(points: Series) -> Series:
    """At most about 300 points, each the mean of its neighbours."""
    size = math.ceil(len(points) / _POINTS)
    groups = [points[i : i + size] for i in range(0, len(points), size)]
    return [(sum(x for x, _ in g) / len(g), sum(y for _, y in g) / len(g)) for g in groups]


def _round_steps(right: float, low: float = 0.0) -> list[float]:
    """Four to seven round numbers from `low` to `right`."""
    raw = (right - low) / 6
    unit = 10 ** math.floor(math.log10(raw))
    step = next(m * unit for m in (1, 2, 2.5, 5, 10) if m * unit >= raw)
    return [i * step for i in range(math.ceil(low / step), int(right / step) + 1)]


def _round_values(low: float, high: float) -> list[float]:
    """Round numbers between low and high: evenly spaced in a narrow range, else as dense as gives at most seven."""
    if high < 3 * low:
        return _round_steps(high, low)
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    found: list[float] = []
    for digits in ((1,), (1, 3), (1, 2, 5), (1, 2, 3, 5, 7)):
        finer = [d * 10.0**k for k in decades for d in digits if low <= d * 10.0**k <= high]
        if len(finer) > 7:
            break
        found = finer
    return found

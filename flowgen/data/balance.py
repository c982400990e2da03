"""A few clips that stand for all: every class equally often, as far as there are clips of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flowgen.media.interfaces import Dataset, Labelled


def balanced(dataset: Dataset, count: int) -> list[int]:
    """Indices of up to `count` clips, spread evenly over the data set and, where it is `Labelled`, over its classes."""
    total = len(dataset)
    classes = [name for name, condition in dataset.conditions.items() if condition["type"] == "class"]
    groups: dict[Any, list[int]] = {}
    if isinstance(dataset, Labelled) and classes:
        for index in range(total):
            labels: Mapping[str, Any] = dataset.labels(index)
            groups.setdefault(tuple(str(labels.get(name)) for name in classes), []).append(index)
    else:
        groups[()] = list(range(total))
    ordered = [groups[key] for key in sorted(groups)]
    if len(ordered) > count:
        ordered = [ordered[i] for i in _spread(len(ordered), count)]
    shares = _shares([len(group) for group in ordered], min(count, total))
    return sorted(group[i] for group, share in zip(ordered, shares, strict=True) for i in _spread(len(group), share))


def _shares(sizes: list[int], count: int) -> list[int]:
    """How many of each group, equally many as far as they go."""
    shares = [0] * len(sizes)
    while sum(shares) < min(count, sum(sizes)):
        for i, size in enumerate(sizes):
            if shares[i] < size and sum(shares) < count:
                shares[i] += 1
    return shares


def _spread(length: int, count: int) -> list[int]:
    """`count` of `length` places, from the first to the last."""
    return [round(i * (length - 1) / max(count - 1, 1)) for i in range(count)]

"""What some metrics can say of one clip."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

from flowgen.media.clip import Clip
from flowgen.media.interfaces import Metric


@runtime_checkable
class Reads(Protocol):
    """A metric that can also say what it finds in each clip, for the report to show beside the clip."""

    def readings(self, clips: Sequence[Clip]) -> Sequence[Mapping[str, str]]:
        """What is found in each clip, by name. Under the name of a condition stands one of that condition's own values."""


def readings(metrics: Sequence[tuple[str, Metric]], clips: Sequence[Clip]) -> list[dict[str, str]]:
    """What the metrics that can read single clips find in each."""
    found: list[dict[str, str]] = [{} for _ in clips]
    for _, metric in metrics:
        if isinstance(metric, Reads):
            for mine, theirs in zip(found, metric.readings(clips), strict=True):
                mine.update(theirs)
    return found

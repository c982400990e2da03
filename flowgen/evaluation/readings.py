"""The metrics of a config, and what some of them can say of one clip."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

from flowgen.config import Config, build
from flowgen.errors import UsageError
from flowgen.media.clip import Clip
from flowgen.media.encoder import Encoder
from flowgen.media.interfaces import Dataset, Metric, Modality
from flowgen.plugins import registry


@runtime_checkable
class Reads(Protocol):
    """A metric that can also say what it finds in each clip, for the report to show beside the clip."""

    def readings(self, clips: Sequence[Clip]) -> Sequence[Mapping[str, str]]:
        """What is found in each clip, by name. Under the name of a condition stands one of that condition's own values."""


def build_metrics(
    config: Config, modality: Modality, dataset: Dataset, encoder: Encoder | None = None
) -> list[tuple[str, Metric]]:
    """The metrics of `eval.metrics` by name. UsageError: the config names none."""
    if not config.eval.metrics:
        raise UsageError(
            f"{config.name} names no metrics; give some in the config's eval.metrics or with --metric "
            f"(valid: {', '.join(registry().names('metric')) or 'none'})"
        )
    given = {"modality": modality, "dataset": dataset, "encoder": encoder}
    return [(m.type, build("metric", m, **given)) for m in config.eval.metrics]


def readings(metrics: Sequence[tuple[str, Metric]], clips: Sequence[Clip]) -> list[dict[str, str]]:
    """What the metrics that can read single clips find in each."""
    found: list[dict[str, str]] = [{} for _ in clips]
    for _, metric in metrics:
        if isinstance(metric, Reads):
            for mine, theirs in zip(found, metric.readings(clips), strict=True):
                mine.update(theirs)
    return found

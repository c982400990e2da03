"""Other recordings of the same label as a condition of a data set: sound like this one.

Options are read from signatures, so this module does without postponed annotations.
"""

from abc import ABC
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch

from flowgen.core.random import generator
from flowgen.data.items import Item, Kind
from flowgen.data.recordings import Recordings
from flowgen.errors import UsageError, unknown
from flowgen.media.clip import Clip
from flowgen_audio.reference import Excerpt

REFERENCE = "reference"
_REFERENCE_S = 3.0  # more of a reference says little more about how it sounds


@dataclass(eq=False, repr=False)
class WithReferences(Recordings, ABC):
    """Clips with the condition `reference`: another recording of their part that has the same value of `reference_by`."""

    reference_by: str | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.reference_by is not None and self.reference_by not in self.found.columns:
            raise UsageError(f"data.reference_by: {unknown('column', self.reference_by, self.found.columns)}")

    def clip_of(self, item: Item, window: int, index: int, seed: int) -> Clip:
        clip = super().clip_of(item, window, index, seed)
        if self.reference_by is None:
            return clip
        return replace(clip, conditions={**clip.conditions, REFERENCE: self._reference(index, seed)})

    @cached_property
    def _alike(self) -> dict[str, dict[Any, list[int]]]:
        """By part, which recordings have each value of `reference_by`."""
        found: dict[str, dict[Any, list[int]]] = {"training": {}, "validation": {}}
        for part, items in zip(found, self.survey, strict=True):
            for index, item in enumerate(items):
                if (value := item.values.get(str(self.reference_by))) is not None:
                    found[part].setdefault(value, []).append(index)
        return found

    def _reference(self, index: int, seed: int) -> Excerpt | None:
        """Another recording of this part that has the same value; none where it has no value, or is the only one."""
        alike = self._alike[self.part].get(self.items[index].values.get(str(self.reference_by)), [])
        others = len(alike) - 1
        if others < 1:
            return None
        chosen = int(torch.randint(others, (), generator=generator(seed, "reference")))
        return self.excerpt(self.items[alike[chosen] if alike[chosen] != index else alike[others]])

    def excerpt(self, item: Item) -> Excerpt:
        """What of its file an item is."""
        return Excerpt(item.path, item.start_s, item.duration_s)

    def condition(self, name: str, kind: Kind) -> dict[str, Any]:
        if kind != "recording":
            return super().condition(name, kind)
        if not any(isinstance(item.values.get(name), Excerpt) for item in self.found.items):
            raise UsageError(
                f"data.columns.{name}: only a column of an audio-manifest can be of type recording; elsewhere give "
                f"data.reference_by"
            )
        return self.reference_condition()

    @cached_property
    def conditions(self) -> dict[str, dict[str, Any]]:
        found = super().conditions
        return found if self.reference_by is None else {**found, REFERENCE: self.reference_condition()}

    def reference_condition(self) -> dict[str, Any]:
        """The conditioner that fits the references."""
        seconds = min(self.modality.duration_s, _REFERENCE_S)
        return {"type": "audio-reference", "sample_rate": self.modality.sample_rate, "seconds": seconds}

"""A clip: what is read from a media file, shown to an encoder, and written to a media file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from flowgen.core.tree import State, tree_map
from flowgen.device import pin


@dataclass(frozen=True)
class Clip:
    """Media tensors in the layout of their modality, the rate of each (per second), and what is known about them."""

    data: State
    rate: float | Mapping[str, float] = 1.0
    conditions: Mapping[str, Any] = field(default_factory=dict)
    source: str = ""
    """The file or data-set index it came from, for messages."""
    instead_of: tuple[tuple[str, str], ...] = ()
    """The items that could not be decoded, and why, whose place it takes."""
    start: Clip | State | None = None
    """What its flow starts from, for the coupling `given-pairs`: a clip, or the noise of its latents [*axes, C] itself."""
    rejected: Clip | None = None
    """The clip that it was preferred to, for losses of pairs."""

    def pin_memory(self) -> Clip:
        """The same in page-locked memory, from where an accelerator copies it while the host goes on (torch's loader asks)."""
        start = self.start.pin_memory() if isinstance(self.start, Clip) else tree_map(pin, self.start)
        rejected = None if self.rejected is None else self.rejected.pin_memory()
        return replace(self, data=tree_map(pin, self.data), start=start, rejected=rejected)

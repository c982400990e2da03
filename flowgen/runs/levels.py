"""How loud the clips of a run are: `levels.json` in its folder, against which samples are compared."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

from pydantic import TypeAdapter, ValidationError

from flowgen.errors import FlowgenError
from flowgen.files import read_json, write_json
from flowgen.media.clip import Clip
from flowgen.media.interfaces import HasLevel, Modality

_MARGIN_DB = 2.0
"""How far samples may lie outside of the range before that is said."""


@dataclass(frozen=True)
class Levels:
    """Levels of training clips in dB of full scale: their median, and the range that holds 90 % of them."""

    low: float
    median: float
    high: float

    @classmethod
    def of(cls, modality: Modality, clips: Sequence[Clip]) -> Levels | None:
        """None: the clips of this medium have no level, or all are silent."""
        found = sorted(clip_levels(modality, clips))
        if not found:
            return None
        return cls(*(found[round(share * (len(found) - 1))] for share in (0.05, 0.5, 0.95)))

    @classmethod
    def read(cls, folder: Path) -> Levels | None:
        """Those of a run folder; None where it has none (it is of an earlier version). FlowgenError: the file is damaged."""
        path = folder / "levels.json"
        if not path.is_file():
            return None
        try:
            return _LEVELS.validate_python(read_json(path))
        except ValidationError:
            raise FlowgenError(f"{path} does not hold the levels low, median and high; remove it") from None

    def write(self, folder: Path) -> None:
        write_json(asdict(self), folder / "levels.json")

    def warn(self, levels: Sequence[float]) -> None:
        """Say it where samples of these levels are, by their median, louder or quieter than the training clips."""
        if not levels:
            return
        level = median(levels)
        if self.low - _MARGIN_DB <= level <= self.high + _MARGIN_DB:
            return
        louder = level > self.high
        remedy = ", lower --guidance, or end it earlier: --set guidance.end=0.3" if louder else ""
        warnings.warn(
            f"the samples are {abs(level - self.median):.1f} dB {'louder' if louder else 'quieter'} than the training clips "
            f"(median RMS {level:.1f} dB, theirs {self.median:.1f} dB){remedy}",
            stacklevel=3,
        )


_LEVELS = TypeAdapter(Levels)


def clip_levels(modality: Modality, clips: Sequence[Clip]) -> list[float]:
    """Of each clip that is not silent, in dB of full scale; [] where clips of this medium have none."""
    if not isinstance(modality, HasLevel):
        return []
    return [level for clip in clips if math.isfinite(level := modality.level(clip))]

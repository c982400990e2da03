"""The common case of a metric: something is found in each clip, and figures are functions of what was found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor

from flowgen.media.clip import Clip
from flowgen.media.interfaces import Better


class FromFeatures:
    """A metric with intervals (`Resampled`, `Graded`): a subclass has `features` and `figures`."""

    better: ClassVar[Mapping[str, Better]] = {}
    compares: ClassVar[bool] = False

    def features(self, clips: Sequence[Clip]) -> dict[str, Tensor]:
        """What is found in each clip: tensors [N, ...] by name."""
        raise NotImplementedError

    def figures(self, found: Mapping[str, Tensor], reference: Mapping[str, Tensor]) -> dict[str, float]:
        """Figures by name, of the rows of `found`, and of those of real clips where `compares`."""
        raise NotImplementedError

    def measure(self, clips: Sequence[Clip], reference: Sequence[Clip] = ()) -> dict[str, float]:
        """Figures by name for clips, against real clips where it needs them."""
        return self.figures(self.features(clips), self.features(reference) if self.compares else {})


AGREES, DIFFERS, NOT_ASKED = 1, 0, -1


def agreement(found: Sequence[object], asked: Sequence[object]) -> Tensor:
    """Of each clip AGREES, DIFFERS, or NOT_ASKED where nothing was asked: int8 [N]."""
    values = [NOT_ASKED if a is None else int(str(f) == str(a)) for f, a in zip(found, asked, strict=True)]
    return torch.tensor(values, dtype=torch.int8)


def shares(found: Mapping[str, Tensor]) -> dict[str, float]:
    """The share of AGREES among the clips of which something was asked, by name; without names of which nothing was."""
    return {
        name: float((values[values != NOT_ASKED] == AGREES).double().mean())
        for name, values in found.items()
        if bool((values != NOT_ASKED).any())
    }

"""Measures of generated moving digits: a reader trained on real ones, and the motion of the bright mass."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, ClassVar

import torch
from torch import Tensor

from flowgen.core.random import generator
from flowgen.errors import UsageError
from flowgen.evaluation.features import FromFeatures, agreement, shares
from flowgen.media.clip import Clip
from flowgen.media.interfaces import Better
from flowgen_video.modality import Video
from flowgen_video.moving_digits import DIRECTIONS, MovingDigits, render, scans, split

_CELL = 12
"""Side of the normalised picture of a digit that the reader sees."""
_FAINT = 0.25
"""A frame whose brightest spot is below this shows nothing."""


class DigitAgreement(FromFeatures):
    """Whether the asked digit is read in a clip, and the same one at its beginning as at its end.

    The reader is a support vector machine on real training digits, cut out around the centre of brightness as they are
    in clips. The frames of a clip vote. `digit`: the share of clips in which the asked digit is read; `digit_identity`: the
    share in which the first and the last third of the frames read the same one; it is blind to what is read, so it means
    something beside a good `digit` only. A clip in which no digit is seen counts against both.
    """

    judged = ("digit",)
    better: ClassVar[Mapping[str, Better]] = {"digit": "higher"}

    def __init__(self, modality: Video, dataset: MovingDigits) -> None:
        _check(dataset, "digit-agreement")
        self.size = dataset.size

    def features(self, clips: Sequence[Clip]) -> dict[str, Tensor]:
        read = [self.read(clip) for clip in clips]
        return {
            "digit": agreement([whole for whole, _, _ in read], [clip.conditions.get("digit") for clip in clips]),
            "digit_identity": torch.tensor([a is not None and a == b for _, a, b in read], dtype=torch.int8),
        }

    def figures(self, found: Mapping[str, Tensor], reference: Mapping[str, Tensor]) -> dict[str, float]:
        return shares(found)

    def readings(self, clips: Sequence[Clip]) -> list[dict[str, str]]:
        """The digit read in each clip."""
        return [{"digit": "none" if digit is None else str(digit)} for digit, _, _ in map(self.read, clips)]

    def read(self, clip: Clip) -> tuple[int | None, int | None, int | None]:
        """The digit read in the whole clip, in its first third and in its last; None: no digit is seen."""
        frames = brightness(clip)
        third = max(1, len(frames) // 3)
        seen = frames.flatten(1).amax(1) >= _FAINT
        votes = torch.full((len(frames), 10), math.nan, dtype=torch.float64)
        if seen.any():
            cells = cut_out(frames[seen], self.size).flatten(1)
            votes[seen] = torch.tensor(_reader().predict_proba(cells.numpy())).log()
        parts = votes, votes[:third], votes[-third:]
        return tuple(_vote(part) for part in parts)  # type: ignore[return-value]


class Motion(FromFeatures):
    """Whether the first half of a clip moves in the asked direction.

    The centre of brightness is followed and a straight line laid through it; its heading is rounded to the directions in
    use. `direction`: the share of clips that move as asked; one that hardly moves counts against it. `speed`: pixels a
    frame, mean over the clips.
    """

    judged = ("direction",)
    better: ClassVar[Mapping[str, Better]] = {"direction": "higher", "speed": "real"}

    def __init__(self, modality: Video, dataset: MovingDigits) -> None:
        _check(dataset, "motion")
        self.names = dataset.names
        self.still = 0.25 * dataset.speed

    def features(self, clips: Sequence[Clip]) -> dict[str, Tensor]:
        asked = [clip.conditions.get("direction") for clip in clips]
        return {
            "direction": agreement([self.direction(clip) for clip in clips], asked),
            "speed": torch.tensor([float(self.drift(clip).norm()) for clip in clips], dtype=torch.float64),
        }

    def figures(self, found: Mapping[str, Tensor], reference: Mapping[str, Tensor]) -> dict[str, float]:
        speed = {"speed": float(found["speed"].mean())} if len(found["speed"]) else {}
        return shares({"direction": found["direction"]}) | speed

    def readings(self, clips: Sequence[Clip]) -> list[dict[str, str]]:
        """The direction in which each clip moves."""
        return [{"direction": self.direction(clip) or "none"} for clip in clips]

    def direction(self, clip: Clip) -> str | None:
        """The name of the direction in use that is nearest to the clip's heading; None where it stands still."""
        drift = self.drift(clip)
        if float(drift.norm()) < self.still:
            return None
        headings = torch.tensor([DIRECTIONS[name] for name in self.names], dtype=torch.float64)
        return self.names[int((torch.nn.functional.normalize(headings) @ drift).argmax())]

    def drift(self, clip: Clip) -> Tensor:
        """Motion (y, x) in pixels a frame, float64, by least squares over the first half of the clip."""
        frames = brightness(clip)
        centres = centre(frames[: len(frames) // 2 + 1])
        time = torch.arange(len(centres), dtype=torch.float64)
        time = time - time.mean()
        return (time[:, None] * centres).sum(0) / time.square().sum().clamp(min=1)


def _check(dataset: Any, metric: str) -> None:
    if not isinstance(dataset, MovingDigits):
        raise UsageError(
            f"metric {metric!r} measures clips of the data set moving-digits, not of {type(dataset).__name__}; "
            "take it out of eval.metrics"
        )


def brightness(clip: Clip) -> Tensor:
    """The brightest channel [T, H, W] in [0, 1], float32."""
    return clip.data.amax(-1).float() / 255  # type: ignore[union-attr]


def centre(frames: Tensor) -> Tensor:
    """Centre of brightness (y, x) of each frame [T, H, W] in pixels, float64 [T, 2]; the middle of a frame that is dark."""
    mass = (frames.double() - 0.5 * frames.flatten(1).amax(1)[:, None, None]).clamp(min=0)  # faint haze weighs nothing
    mass = torch.where(mass.flatten(1).sum(1)[:, None, None] > 0, mass, torch.ones_like(mass))
    mass = mass / mass.flatten(1).sum(1)[:, None, None]
    y, x = (torch.arange(n, dtype=torch.float64) for n in frames.shape[1:])
    return torch.stack([(mass.sum(2) * y).sum(1), (mass.sum(1) * x).sum(1)], 1)


def cut_out(frames: Tensor, size: int) -> Tensor:
    """A window of `size` pixels around the centre of brightness, scaled to [T, cell, cell]."""
    height, width = frames.shape[1:]
    offset = ((torch.arange(_CELL) + 0.5) / _CELL - 0.5) * size
    at = centre(frames).float()[:, None, :] + offset[None, :, None]  # [T, cell, (y, x)]
    scaled = 2 * (at + 0.5) / torch.tensor([height, width]) - 1
    grid = torch.stack(
        [scaled[:, None, :, 1].expand(-1, _CELL, -1), scaled[:, :, None, 0].expand(-1, -1, _CELL)], dim=-1
    )
    return torch.nn.functional.grid_sample(frames[:, None], grid, align_corners=False)[:, 0]


@cache
def _reader() -> Any:
    """The reader of digits, trained on the training scans: (cell x cell pictures) -> probabilities. About two seconds."""
    from sklearn.calibration import CalibratedClassifierCV
    from sklearn.svm import SVC

    images, labels = scans()
    train = split()[0]
    rng = generator(0, "digit-reader")
    size, side = 13, 26
    corners = torch.rand(len(train), 1, 2, generator=rng) * (side - size)
    pictures = cut_out(render(images[train], corners, size, side, side)[:, 0], size)
    machine = CalibratedClassifierCV(SVC(C=10.0, gamma="scale"), ensemble=False)
    return machine.fit(pictures.flatten(1).numpy(), labels[train].numpy())


def _vote(log_probabilities: Tensor) -> int | None:
    total = log_probabilities.nansum(0)
    return None if bool(log_probabilities.isnan().all()) else int(total.argmax())

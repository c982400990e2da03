"""Real handwritten digits that move at constant speed and bounce off the border: the data set that needs no download.

The digits are the 1797 8x8 scans that ship with scikit-learn (Alpaydin and Kaynak 1998). A clip of them is rendered in
a millisecond at any size, at sub-pixel positions, so that it moves as smoothly as a camera would see it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any, Literal

import torch
from torch import Tensor

from flowgen.core.random import generator
from flowgen.core.ranges import NonNegative, Whole
from flowgen.errors import UsageError
from flowgen.media.clip import Clip
from flowgen_video.modality import Video

DIRECTIONS: dict[str, tuple[int, int]] = {
    "right": (0, 1),
    "left": (0, -1),
    "down": (1, 0),
    "up": (-1, 0),
    "down-right": (1, 1),
    "up-left": (-1, -1),
    "down-left": (1, -1),
    "up-right": (-1, 1),
}
"""(dy, dx) of the first motion by name; the first four are `directions=4`."""

_HELD_OUT = 5  # every fifth scan of each digit


@cache
def scans() -> tuple[Tensor, Tensor]:
    """All digits [1797, 8, 8] in [0, 1], float32, and their values [1797]."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    return torch.tensor(bunch.images, dtype=torch.float32) / 16, torch.tensor(bunch.target)


@cache
def split() -> tuple[Tensor, Tensor]:
    """Indices into `scans()` of the training and of the held-out digits."""
    labels = scans()[1]
    rank = torch.zeros_like(labels)
    for digit in range(10):
        at = (labels == digit).nonzero()[:, 0]
        rank[at] = torch.arange(len(at))
    held_out = rank % _HELD_OUT == _HELD_OUT - 1
    return (~held_out).nonzero()[:, 0], held_out.nonzero()[:, 0]


@dataclass(frozen=True)
class MovingDigits:
    """One digit a clip, in every direction.

    The digit fills `digit_size` pixels (0: 0.55 of the frame's shorter side) and crosses about `travel` times the room
    that it has. It goes in the asked direction for at least the first half of the clip and may bounce once, later. With
    three channels each digit has a colour of its own. `digits` are those that are shown: all ten by default, and the
    condition knows all ten in any case.

    Conditions: `digit` ("0" to "9"), `direction` (its first motion) and `caption` ("a 3 moving left"). One digit in
    five is held out for validation.
    """

    modality: Video
    digit_size: Whole = 0
    directions: Literal[4, 8] = 8
    travel: NonNegative = 1.0
    digits: tuple[Whole, ...] = ()
    held_out: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        side = min(self.modality.height, self.modality.width)
        fastest = (self.modality.frames - 1) / (1.2 * max(self.modality.frames // 2, 1))
        if not 0 < self.travel <= fastest:
            raise UsageError(
                f"data.travel must lie in (0, {fastest:.2g}], so that nothing bounces in the first half of the clip, "
                f"got {self.travel:g}"
            )
        if self.digit_size < 0 or self.size >= side:
            raise UsageError(
                f"data.digit_size must be less than the frame's shorter side of {side}, got {self.digit_size}"
            )
        if strangers := [d for d in self.digits if d > 9]:
            raise UsageError(f"data.digits lie in 0 to 9, got {strangers[0]}")
        if self.size < 6:
            raise UsageError(f"a digit of {self.size} pixels cannot be read; give frames of 12x12 or more")

    @property
    def size(self) -> int:
        """Side of a digit in pixels."""
        return self.digit_size or round(0.55 * min(self.modality.height, self.modality.width))

    @property
    def speed(self) -> float:
        """Mean speed along an axis, in pixels a frame."""
        room = min(self.modality.height, self.modality.width) - self.size
        return self.travel * room / max(self.modality.frames - 1, 1)

    @property
    def names(self) -> tuple[str, ...]:
        """The directions in use."""
        return tuple(DIRECTIONS)[: self.directions]

    @property
    def conditions(self) -> dict[str, dict[str, Any]]:
        return {
            "digit": {"type": "class", "names": [str(d) for d in range(10)]},
            "direction": {"type": "class", "names": list(self.names)},
            "caption": {"type": "text", "max_bytes": 32},
        }

    @property
    def indices(self) -> Tensor:
        """The scans used here."""
        own = split()[self.held_out]
        return own[torch.isin(scans()[1][own], torch.tensor(self.digits))] if self.digits else own

    def __len__(self) -> int:
        return len(self.indices) * self.directions

    def clip(self, index: int, seed: int) -> Clip:
        return self.clips([index], [seed])[0]

    def clips(self, indices: Sequence[int], seeds: Sequence[int]) -> list[Clip]:
        """Many clips at once, each as `clip` gives it."""
        images, labels = scans()
        chosen, routes, colours = [], [], []
        for index, seed in zip(indices, seeds, strict=True):
            if not 0 <= index < len(self):
                raise IndexError(f"clip {index} of {len(self)}")
            turn, which = divmod(index, len(self.indices))
            direction = self.names[
                (which + turn) % self.directions
            ]  # neighbours differ in both, so any few show variety
            rng = generator(seed, "moving-digits", index)
            chosen.append((int(self.indices[which]), direction))
            routes.append(self._route(direction, rng))
            colours.append(_colour(self.modality.channels, rng))
        light = render(
            images[[scan for scan, _ in chosen]],
            torch.stack(routes),
            self.size,
            self.modality.height,
            self.modality.width,
        )
        data = (light[..., None] * torch.stack(colours)[:, None, None, None] * 255).round().to(torch.uint8)
        return [
            Clip(
                data=frames,
                rate=self.modality.fps,
                conditions={
                    "digit": (digit := str(int(labels[scan]))),
                    "direction": direction,
                    "caption": f"a {digit} moving {direction}",
                },
                source=f"moving-digits {'validation' if self.held_out else 'training'} clip {index} (scan {scan})",
            )
            for frames, (scan, direction), index in zip(data, chosen, indices, strict=True)
        ]

    def _route(self, direction: str, rng: torch.Generator) -> Tensor:
        """Top left corners (y, x) of the digit, float32 [T, 2]."""
        frames = self.modality.frames
        draw = torch.rand(3, generator=rng).tolist()
        # one speed for both axes, so that a diagonal is a diagonal on frames that are not square, too
        speed = self.speed * (0.8 + 0.4 * draw[0])
        straight = speed * (frames // 2)  # no wall before that
        axes = []
        for heading, side, u in zip(
            DIRECTIONS[direction], (self.modality.height, self.modality.width), draw[1:], strict=True
        ):
            room = side - self.size
            start = u * (max(room - straight, 0) if heading else room)
            start = room - start if heading < 0 else start
            path = [(start + t * speed * heading) % (2 * room) for t in range(frames)]
            axes.append([room - abs(p - room) for p in path])  # folded at the walls
        return torch.tensor(axes).T

    def validation(self) -> MovingDigits:
        other = replace(self)
        object.__setattr__(other, "held_out", True)
        return other

    def describe(self) -> dict[str, Any]:
        m = self.modality
        return {
            "clips": len(self),
            "digits": f"{len(self.indices)} real handwritten ones, {self.size}x{self.size} pixels",
            "directions": ", ".join(self.names),
            "frames": f"{m.frames} of {m.height}x{m.width} at {m.fps:g} a second ({m.frames / m.fps:g} s)",
        }


def render(images: Tensor, corners: Tensor, size: int, height: int, width: int) -> Tensor:
    """`images` [B, h, w] scaled to size x size pixels with their top left corners at `corners` [B, T, 2], [B, T, H, W] in [0, 1]."""
    rows = _weights(corners[..., 0], size, images.shape[-2], height)
    cols = _weights(corners[..., 1], size, images.shape[-1], width)
    return (rows @ images[:, None] @ cols.mT).clamp(0, 1)


def _weights(at: Tensor, size: int, taps: int, n: int) -> Tensor:
    """Catmull-Rom weights [B, T, n, taps] of `taps` samples spread over `size` pixels from `at` [B, T] on."""
    position = (torch.arange(n) + 0.5 - at[..., None]) * (taps / size) - 0.5
    d = (position[..., None] - torch.arange(taps)).abs()
    near = (1.5 * d - 2.5) * d * d + 1
    far = ((-0.5 * d + 2.5) * d - 4) * d + 2
    return torch.where(d < 1, near, torch.where(d < 2, far, 0.0))


def _colour(channels: int, rng: torch.Generator) -> Tensor:
    """White, or a light colour of random hue."""
    hue = torch.rand((), generator=rng)
    if channels == 1:
        return torch.ones(1)
    return 0.65 + 0.35 * torch.cos(2 * math.pi * (hue - torch.arange(3) / 3))

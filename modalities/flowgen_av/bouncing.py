"""The built-in data set: a ball bounces in a box and sounds at each impact. Every event is known in closed form."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from flowgen.core.random import seed_of
from flowgen.core.ranges import Count, Positive, Share, Whole
from flowgen.errors import UsageError
from flowgen.media.clip import Clip
from flowgen_av.modality import AudioVideo

BALLS = {"red": ((1.0, 0.25, 0.2), 330.0), "green": ((0.25, 1.0, 0.3), 523.0), "blue": ((0.3, 0.45, 1.0), 880.0)}
"""Colour, and pitch in Hz, of each ball."""
MATERIALS = {"bell": ((1.0, 2.76, 5.4), 0.16), "wood": ((1.0, 2.57, 4.2), 0.035)}
"""Partials relative to the pitch, and the time in seconds in which a sound falls to 1/e."""
_LOUDEST = 0.7
_CLICK_S = 0.004
_HEARD = 9.0
"""Decay times after which a sound is 78 dB down, and ends."""


@dataclass(frozen=True)
class Bounce:
    """How one ball moves, in pixels of its centre's room [0, room] on each of two axes (down, right), and sounds."""

    room: tuple[float, float]
    start: tuple[float, float]
    velocity: tuple[float, float]
    """Pixels a second."""
    ball: str
    material: str

    def position(self, time: np.ndarray) -> np.ndarray:
        """[N, 2] at times in seconds: straight lines, mirrored at the walls."""
        way = np.asarray(self.start) + time[:, None] * np.asarray(self.velocity)
        folded = np.mod(way, 2 * np.asarray(self.room))
        return np.minimum(folded, 2 * np.asarray(self.room) - folded)

    def impacts(self, seconds: float) -> list[tuple[float, float]]:
        """(time, speed across the wall) of every impact within a clip, in order."""
        found = []
        for room, start, velocity in zip(self.room, self.start, self.velocity, strict=True):
            first, last = sorted((start / room, (start + velocity * seconds) / room))
            walls = range(
                math.ceil(first), math.floor(last) + 1
            )  # the unfolded way crosses a wall at each whole number
            found += [((wall * room - start) / velocity, abs(velocity)) for wall in walls]
        return sorted((t, speed) for t, speed in found if 0 <= t < seconds)


@dataclass(frozen=True)
class BouncingSounds:
    """Clips of one ball each; the ball says the pitch, the material its shape and timbre, the speed across the wall how loud.

    Clip i is a function of (i, seed) alone. All balls and materials are equally likely.

    Args:
        radius: of a ball in pixels; a bell is a disc, wood a square.
        slowest: least and `fastest` greatest speed along each axis, in pixels a second.
        no_picture: share of training clips that have a sound alone.
        no_sound: share that have a picture alone.
    """

    modality: AudioVideo
    radius: Positive = 2.5
    slowest: Positive = 7.0
    fastest: Positive = 18.0
    no_picture: Share = 0.0
    no_sound: Share = 0.0
    size: Count = 20_000
    validation_size: Whole = 256
    held_out: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        if self.slowest > self.fastest:
            raise UsageError(f"data.slowest: {self.slowest:g} lies above data.fastest, {self.fastest:g}")
        if min(self.modality.height, self.modality.width) <= 4 * self.radius:
            raise UsageError(f"data.radius: a ball of {self.radius:g} pixels has no room to move in; make it smaller")
        if self.no_picture + self.no_sound > 1:
            raise UsageError("data: the shares no_picture and no_sound are more than all clips")
        if self.modality.channels != 3:
            raise UsageError("data: the balls are told apart by colour; set modality.channels=3")

    @property
    def conditions(self) -> dict[str, dict[str, Any]]:
        return {
            "ball": {"type": "class", "names": tuple(BALLS)},
            "material": {"type": "class", "names": tuple(MATERIALS)},
        }

    def __len__(self) -> int:
        return self.validation_size if self.held_out else self.size

    def key(self, index: int) -> str:
        return f"{'validation' if self.held_out else 'training'} {index}"

    def bounce(self, index: int, seed: int) -> Bounce:
        """How the ball of a clip moves."""
        rng = self._rng(index, seed)
        room = tuple(size - 2 * self.radius for size in (self.modality.height, self.modality.width))
        start = tuple(float(rng.uniform(0, r)) for r in room)
        speed = tuple(float(rng.uniform(self.slowest, self.fastest) * rng.choice((-1, 1))) for _ in room)
        ball, material = (list(names)[rng.integers(len(names))] for names in (BALLS, MATERIALS))
        return Bounce(room, start, speed, ball, material)  # type: ignore[arg-type]

    def clip(self, index: int, seed: int) -> Clip:
        bounce, rng = self.bounce(index, seed), self._rng(index, seed, "sound")
        absent = rng.uniform()
        parts: dict[str, Tensor] = {}
        if self.held_out or absent >= self.no_picture:
            parts["picture"] = self._picture(bounce)
        if self.held_out or not self.no_picture <= absent < self.no_picture + self.no_sound:
            wave = torch.from_numpy(self._sound(bounce, rng))
            parts["sound"] = wave.expand(self.modality.sound_channels, -1).contiguous()
        rates = {"picture": self.modality.fps, "sound": float(self.modality.sample_rate)}
        asked = {"ball": bounce.ball, "material": bounce.material}
        return Clip(parts, {name: rates[name] for name in parts}, asked, f"bounce {self.key(index)}")

    def validation(self) -> BouncingSounds:
        held_out = replace(self)
        object.__setattr__(held_out, "held_out", True)
        return held_out

    def describe(self) -> dict[str, Any]:
        m = self.modality
        return {
            "clips": len(self),
            "seconds each": m.frames / m.fps,
            "picture": f"{m.height} x {m.width} at {m.fps:g} frames a second",
            "sample rate": m.sample_rate,
            "balls": ", ".join(f"{name} ({hertz:g} Hz)" for name, (_, hertz) in BALLS.items()),
            "materials": ", ".join(MATERIALS),
        }

    def _rng(self, index: int, seed: int, what: str = "way") -> np.random.Generator:
        part = "validation" if self.held_out else "training"
        return np.random.default_rng(seed_of("bouncing-sounds", what, part, index, seed))

    def _picture(self, bounce: Bounce) -> Tensor:
        m = self.modality
        centre = bounce.position(np.arange(m.frames) / m.fps) + self.radius - 0.5  # of pixel centres
        y, x = np.mgrid[: m.height, : m.width]
        down, right = (np.abs(axis[None] - centre[:, i, None, None]) for i, axis in enumerate((y, x)))
        if bounce.material == "bell":
            cover = np.clip(self.radius + 0.5 - np.hypot(down, right), 0, 1)
        else:
            cover = np.clip(self.radius + 0.5 - down, 0, 1) * np.clip(self.radius + 0.5 - right, 0, 1)
        colour = np.asarray(BALLS[bounce.ball][0])
        return torch.from_numpy((255 * cover[..., None] * colour).round().astype(np.uint8))

    def _sound(self, bounce: Bounce, rng: np.random.Generator) -> np.ndarray:
        m = self.modality
        rate, n = m.sample_rate, m.sound.samples
        pitch = BALLS[bounce.ball][1]
        partials, decay = MATERIALS[bounce.material]
        wave = np.zeros(n)
        for at, speed in bounce.impacts(m.frames / m.fps):
            first = math.ceil(at * rate)
            loudness = 0.5 * _LOUDEST * (0.3 + 0.7 * speed / self.fastest)
            for k in partials:
                if k * pitch < 0.45 * rate:
                    own = decay / k**0.5
                    time = np.arange(first, min(n, first + round(_HEARD * own * rate))) / rate - at
                    tone = np.sin(2 * np.pi * k * pitch * time + rng.uniform(0, 2 * np.pi)) * np.exp(-time / own) / k
                    wave[first : first + len(time)] += loudness * tone
            time = np.arange(first, min(n, first + round(_HEARD * _CLICK_S * rate))) / rate - at
            click = 0.5 * rng.standard_normal(len(time)) * np.exp(-time / _CLICK_S)
            wave[first : first + len(time)] += loudness * click
        return np.clip(wave, -1, 1).astype(np.float32)

"""Data sets: clip i is an episode of its own, played when it is asked for. Nothing is kept on the disk."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from flowgen_audio.modality import Audio
from flowgen_video.modality import Video

from flowgen.core.random import seed_of
from flowgen.core.ranges import Count, Whole
from flowgen.errors import UsageError
from flowgen.media.clip import Clip
from flowgen_doom.game import RATE, TICS, Played, Scenario, actions, play


@dataclass(frozen=True)
class _Episodes:
    def __len__(self) -> int:
        return self.validation_size if self.held_out else self.size  # type: ignore[attr-defined,no-any-return]

    @property
    def conditions(self) -> dict[str, dict[str, Any]]:
        return {"action": {"type": "class", "names": list(actions(self.scenario))}}  # type: ignore[attr-defined]

    def validation(self) -> Any:
        return replace(self, held_out=True)

    def _played(self, index: int, seed: int, tics: int) -> tuple[str, Played]:
        names = actions(self.scenario)  # type: ignore[attr-defined]
        action = names[index % len(names)]
        part = "held out" if self.held_out else "training"  # type: ignore[attr-defined]
        return action, play(self.scenario, action, tics, seed_of(part, index, seed))  # type: ignore[attr-defined]


@dataclass(frozen=True)
class Doom(_Episodes):
    """Video of a player who does one thing, `action`, at 35 divided by a whole number of frames a second.

    Frames of 160x120 are averaged to the modality's size. Every epoch plays other episodes.
    """

    modality: Video
    scenario: Scenario = "health_gathering"
    size: Count = 2048
    validation_size: Whole = 128
    held_out: bool = False

    def __post_init__(self) -> None:
        if abs(TICS / self.modality.fps - self.skip) > 1e-6 * self.skip:
            raise UsageError(
                f"modality.fps must be {TICS} divided by a whole number (35, 17.5, 8.75), got {self.modality.fps:g}"
            )

    @property
    def skip(self) -> int:
        """Tics from frame to frame."""
        return max(round(TICS / self.modality.fps), 1)

    def clip(self, index: int, seed: int) -> Clip:
        m = self.modality
        action, played = self._played(index, seed, (m.frames - 1) * self.skip + 1)
        frames = torch.from_numpy(played.pictures[:: self.skip]).permute(0, 3, 1, 2).float()
        frames = F.interpolate(frames, (m.height, m.width), mode="bilinear", antialias=True)
        frames = frames.mean(1, keepdim=True) if m.channels == 1 else frames
        data = frames.round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous()
        return Clip(data, m.fps, {"action": action}, f"{self.scenario} episode {index}")

    def describe(self) -> dict[str, Any]:
        return {
            "episodes": f"{len(self)} an epoch, other ones every epoch",
            "scenario": self.scenario,
            "actions": ", ".join(actions(self.scenario)),
            "frames": f"{self.modality.frames}, every {self.skip}. of 35 a second",
        }


@dataclass(frozen=True)
class DoomSound(_Episodes):
    """The sound of the same game: shots, steps, doors, pain, of a player who does one thing, `action`."""

    modality: Audio
    scenario: Scenario = "defend_the_center"
    size: Count = 2048
    validation_size: Whole = 128
    held_out: bool = False

    def clip(self, index: int, seed: int) -> Clip:
        m = self.modality
        tics = -(-m.samples * TICS // m.sample_rate) + 1
        action, played = self._played(index, seed, tics)
        sound = torch.from_numpy(played.sound.T.copy()).float() / 32768
        data = m.convert(sound, RATE)[:, : m.samples]
        return Clip(data.contiguous(), m.sample_rate, {"action": action}, f"{self.scenario} episode {index}")

    def describe(self) -> dict[str, Any]:
        return {
            "episodes": f"{len(self)} an epoch, other ones every epoch",
            "scenario": self.scenario,
            "actions": ", ".join(actions(self.scenario)),
            "seconds each": self.modality.duration_s,
        }

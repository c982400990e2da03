"""The data: motion capture that ships with pybullet (the clips of Peng et al. 2018, from the CMU and SFU recordings)."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, replace
from functools import cache
from importlib import resources
from typing import Any

import numpy as np
import torch

from flowgen.core.random import generator
from flowgen.core.ranges import Count
from flowgen.errors import FlowgenError, UsageError
from flowgen.media.clip import Clip
from flowgen_motion.modality import Motion
from flowgen_motion.skeleton import MIRROR, positions

_ACTIONS = {"dance_a": "dance", "dance_b": "dance", "getup_facedown": "getup", "getup_faceup": "getup"}


@cache
def recordings(fps: float) -> dict[str, tuple[str, np.ndarray]]:
    """By name: the action, and joints [T, 15, 3] at `fps`. FlowgenError: pybullet's data are not there."""
    try:
        folder = resources.files("pybullet_data") / "data" / "motions"
    except ModuleNotFoundError:
        raise FlowgenError("the recordings ship with pybullet, which is not installed: pip install pybullet") from None
    found = {}
    for file in sorted([*folder.iterdir(), *(folder / "walker").iterdir()], key=lambda f: f.name):
        name = file.name.removesuffix(".txt").removeprefix("humanoid3d_").removeprefix("0")
        if not file.name.endswith(".txt") or name.startswith("laikago"):  # that one is a dog
            continue
        frames = np.asarray(json.loads(file.read_text())["Frames"], dtype=np.float64)
        action = "turn" if name.startswith("turn") else "walk" if name.startswith("walk") else _ACTIONS.get(name, name)
        found[name] = (action, positions(frames, fps))
    return found


@dataclass(frozen=True)
class Mocap:
    """Windows of real recordings of people. Condition: `action`. The mirror images of all recordings are held out.

    A clip is a window at a random place, moved to the origin and turned to face along x. Recordings shorter than a clip
    are left out, and counted.
    """

    modality: Motion
    size: Count = 2048
    held_out: bool = False

    def __post_init__(self) -> None:
        if self.size < 1:
            raise UsageError(f"data.size: expected at least 1, got {self.size}")
        if not self.used:
            raise UsageError(
                f"no recording has modality.frames={self.modality.frames} frames at {self.modality.fps:g} fps"
            )

    @property
    def used(self) -> list[tuple[str, np.ndarray]]:
        """Action and joints of each recording that is long enough."""
        every = recordings(self.modality.fps).values()
        return [(action, joints) for action, joints in every if len(joints) >= self.modality.frames]

    @property
    def names(self) -> list[str]:
        return sorted({action for action, _ in self.used})

    @property
    def conditions(self) -> dict[str, dict[str, Any]]:
        return {"action": {"type": "class", "names": self.names}}

    def __len__(self) -> int:
        return max(self.size // 8, 1) if self.held_out else self.size

    def clip(self, index: int, seed: int) -> Clip:
        rng = generator("mocap", "held out" if self.held_out else "training", index, seed)
        action = self.names[index % len(self.names)]  # all actions equally often, however long their recordings
        choices = [joints for name, joints in self.used if name == action]
        which, place = torch.rand(2, generator=rng).tolist()
        joints = choices[int(which * len(choices))]
        start = int(place * (len(joints) - self.modality.frames + 1))
        window = joints[start : start + self.modality.frames]
        window = window[:, MIRROR] * [1, 1, -1] if self.held_out else window
        data = torch.from_numpy(_facing_x(window)).float()
        return Clip(data, self.modality.fps, {"action": action}, f"{action} from frame {start}")

    def validation(self) -> Mocap:
        return replace(self, held_out=True)

    def describe(self) -> dict[str, Any]:
        seconds = sum(len(joints) for _, joints in self.used) / self.modality.fps
        return {
            "clips": len(self),
            "recordings": f"{len(self.used)} of {len(recordings(self.modality.fps))}, {seconds:.0f} s in all",
            "actions": ", ".join(self.names),
            "held out": "the mirror images",
        }


def _facing_x(joints: np.ndarray) -> np.ndarray:
    """Moved so that the root begins above the origin, and turned so that the body then faces along x."""
    joints = joints - joints[0, 0] * [1, 0, 1]
    x, _, z = joints[0, 3] - joints[0, 9]  # from the left hip to the right one
    angle = math.atan2(x, z)  # zero where that points along z
    cos, sin = math.cos(angle), math.sin(angle)
    return joints @ np.array([[cos, 0, sin], [0, 1, 0], [-sin, 0, cos]])

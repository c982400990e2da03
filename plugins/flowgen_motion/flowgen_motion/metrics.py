"""Is it a body, and does it do what was asked?"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from flowgen.core.ranges import Count
from flowgen.media.clip import Clip
from flowgen_motion.mocap import Mocap
from flowgen_motion.modality import Motion
from flowgen_motion.skeleton import BONES


def stack(clips: Sequence[Clip]) -> Tensor:
    """[B, T, 15, 3]."""
    return torch.stack([clip.data for clip in clips]).double()  # type: ignore[misc]


def bone_lengths(joints: Tensor) -> Tensor:
    parents, children = zip(*BONES, strict=True)
    return (joints[..., list(children), :] - joints[..., list(parents), :]).norm(dim=-1)


class Bodies:
    """How far bones are from their true length (percent), how jerky joints move, and how low joints sink (cm)."""

    def __init__(self, modality: Motion, dataset: Mocap) -> None:
        self.fps = modality.fps
        self.lengths = bone_lengths(stack([dataset.clip(0, 0)]))[0, 0]

    def measure(self, clips: Sequence[Clip], reference: Sequence[Clip]) -> dict[str, float]:
        joints = stack(clips)
        jerk = joints.diff(n=3, dim=1).norm(dim=-1).mean() * self.fps**3
        return {
            "bone length error, %": 100 * float((bone_lengths(joints) / self.lengths - 1).abs().mean()),
            "jerk, m/s^3": float(jerk),
            "joints below ground, cm": 100 * float(joints[..., 1].clamp(max=0).neg().mean()),
        }


class Action:
    """The share of clips whose nearest recording, among `recordings` training clips, is of the asked action."""

    def __init__(self, modality: Motion, dataset: Mocap, *, recordings: Count = 512) -> None:
        clips = [dataset.clip(i % len(dataset), i) for i in range(recordings)]
        self.known, self.actions = stack(clips).flatten(1), [clip.conditions["action"] for clip in clips]

    def measure(self, clips: Sequence[Clip], reference: Sequence[Clip]) -> dict[str, float]:
        asked = [clip.conditions.get("action") for clip in clips]
        nearest = torch.cdist(stack(clips).flatten(1), self.known).argmin(1).tolist()
        hits = [self.actions[i] == action for i, action in zip(nearest, asked, strict=True) if action is not None]
        return {"nearest recording is of the asked action": sum(hits) / len(hits)} if hits else {}

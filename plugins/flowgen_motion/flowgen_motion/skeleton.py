"""The body of the recordings: 15 joints in a tree, and where they are when each is turned so and so.

Offsets and order are those of the `humanoid3d` of Peng et al. 2018 (DeepMimic): x is forward, y up, z to the right,
in metres; a frame is [duration, root position 3, root rotation 4, rotation of each joint: quaternion (w, x, y, z) 4, or
an angle about z 1].
"""

from __future__ import annotations

import numpy as np
from scipy.spatial.transform import Rotation, Slerp

JOINTS: dict[str, tuple[str, tuple[float, float, float], int]] = {
    # name: parent, offset in the parent's frame, numbers in a frame
    "root": ("", (0.0, 0.0, 0.0), 4),
    "chest": ("root", (0.0, 0.236151, 0.0), 4),
    "neck": ("chest", (0.0, 0.223894, 0.0), 4),
    "right_hip": ("root", (0.0, 0.0, 0.084887), 4),
    "right_knee": ("right_hip", (0.0, -0.421546, 0.0), 1),
    "right_ankle": ("right_knee", (0.0, -0.409870, 0.0), 4),
    "right_shoulder": ("chest", (-0.024050, 0.243500, 0.183110), 4),
    "right_elbow": ("right_shoulder", (0.0, -0.274788, 0.0), 1),
    "right_wrist": ("right_elbow", (0.0, -0.258947, 0.0), 0),
    "left_hip": ("root", (0.0, 0.0, -0.084887), 4),
    "left_knee": ("left_hip", (0.0, -0.421546, 0.0), 1),
    "left_ankle": ("left_knee", (0.0, -0.409870, 0.0), 4),
    "left_shoulder": ("chest", (-0.024050, 0.243500, -0.183110), 4),
    "left_elbow": ("left_shoulder", (0.0, -0.274788, 0.0), 1),
    "left_wrist": ("left_elbow", (0.0, -0.258947, 0.0), 0),
}
NAMES = tuple(JOINTS)
BONES = tuple((NAMES.index(parent), i) for i, (parent, _, _) in enumerate(JOINTS.values()) if parent)
"""(parent, child) of every bone."""
MIRROR = [NAMES.index(n.replace("right", "*").replace("left", "right").replace("*", "left")) for n in NAMES]
"""The joint on the other side of the body."""


def positions(frames: np.ndarray, fps: float) -> np.ndarray:
    """Joints [T, 15, 3] at `fps` of frames [N, 44]; between frames it is turns that are interpolated, not places."""
    time = np.cumsum(np.concatenate([[0.0], frames[:-1, 0]]))
    wanted = np.minimum(np.arange(int(time[-1] * fps) + 1) / fps, time[-1])
    where, turned, at = [], [], 4
    for parent, offset, numbers in JOINTS.values():
        turn = Rotation.identity(len(wanted))
        if numbers == 4:
            turn = Slerp(time, Rotation.from_quat(frames[:, [at + 1, at + 2, at + 3, at]]))(wanted)  # scipy has w last
        elif numbers == 1:
            turn = Slerp(time, Rotation.from_rotvec(frames[:, at : at + 1] * [0.0, 0.0, 1.0]))(wanted)
        at += numbers
        if parent:
            p = NAMES.index(parent)
            where.append(where[p] + turned[p].apply(offset))
            turn = turned[p] * turn
        else:
            where.append(np.stack([np.interp(wanted, time, frames[:, i]) for i in (1, 2, 3)], 1))
        turned.append(turn)
    return np.stack(where, 1)

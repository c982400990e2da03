"""The medium: a clip is the joints' positions, float32 [T, 15, 3] in metres; a file is an animated stick figure."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from PIL import Image, ImageDraw

from flowgen.core.ranges import Count, Positive
from flowgen.errors import FlowgenError, UsageError
from flowgen.files import replacing
from flowgen.media.clip import Clip
from flowgen_motion.skeleton import BONES, NAMES

_SIZE = 256
_RIGHT, _LEFT, _TRUNK = (214, 69, 65), (52, 101, 164), (70, 70, 70)


@dataclass(frozen=True)
class Motion:
    """`frames` frames at `fps` a second of a person who begins at the origin, facing along x.

    A gif shows the figure and carries the exact numbers in its comment, so that it can be read back.
    """

    formats: ClassVar[Mapping[str, str]] = {".gif": "image/gif"}
    clips_per_file: ClassVar[int | None] = 1

    frames: Count = 20
    fps: Positive = 25.0

    def __post_init__(self) -> None:
        if self.frames < 2 or self.fps <= 0:
            raise UsageError(f"modality: expected frames >= 2 and fps > 0, got {self.frames} and {self.fps:g}")

    def read(self, path: Path) -> Clip:
        """A gif that flowgen wrote. FlowgenError: it is none."""
        try:
            comment = Image.open(path).info.get("comment", b"").decode()
            values = np.frombuffer(base64.b64decode(comment.partition("\n")[2]), dtype="<f4").copy()
            joints = torch.from_numpy(values.reshape(-1, len(NAMES), 3))
        except (OSError, ValueError) as error:
            raise FlowgenError(f"cannot read {path} as motion: {error}; expected a gif written by flowgen") from None
        if not len(joints):
            raise FlowgenError(f"{path} holds no joints; expected a gif written by flowgen")
        return Clip(joints, self.fps, source=str(path))

    def write(self, clips: Sequence[Clip], path: Path, metadata: Mapping[str, Any]) -> None:
        if len(clips) != 1:
            raise UsageError(f"{path}: a file holds one motion, got {len(clips)}")
        joints = _joints(clips[0])
        numbers = base64.b64encode(joints.astype("<f4").tobytes()).decode()
        comment = f"{json.dumps(dict(metadata), default=str)}\n{numbers}".encode()
        first, *rest = _pictures(joints)
        options = {"append_images": rest, "duration": round(1000 / self.fps), "loop": 0, "comment": comment}
        with replacing(Path(path)) as temporary:
            first.save(temporary, format="gif", save_all=True, **options)

    def sheet(self, clips: Sequence[Clip], path: Path, captions: Sequence[str] = ()) -> None:
        """A row for each clip, with six moments of it."""
        sheet = Image.new("RGB", (6 * _SIZE // 2, len(clips) * (_SIZE // 2 + 12)), "white")
        for row, clip in enumerate(clips):
            pictures = _pictures(_joints(clip))
            top = row * (_SIZE // 2 + 12)
            for i in range(6):
                picture = pictures[round(i * (len(pictures) - 1) / 5)].resize((_SIZE // 2, _SIZE // 2))
                sheet.paste(picture, (i * _SIZE // 2, top + 12))
            if row < len(captions):
                ImageDraw.Draw(sheet).text((4, top), captions[row], fill="black")
        with replacing(Path(path)) as temporary:
            sheet.save(temporary, format="png")


def _joints(clip: Clip) -> np.ndarray:
    assert isinstance(clip.data, torch.Tensor)
    return clip.data.float().numpy()


def _pictures(joints: np.ndarray) -> list[Image.Image]:
    """Frames seen from the side and a little from above, the whole way of the figure in view."""
    angle = np.deg2rad(25)
    across = joints[..., 0] * np.cos(angle) + joints[..., 2] * np.sin(angle)
    up = joints[..., 1] + 0.2 * (joints[..., 0] * np.sin(angle) - joints[..., 2] * np.cos(angle))
    middle = (across.min() + across.max()) / 2
    scale = (_SIZE - 24) / (max(float(np.ptp(across)), float(up.max()) - min(float(up.min()), 0.0), 1.8))
    pictures = []
    for x, y in zip(across, up, strict=True):
        at = [((a - middle) * scale + _SIZE / 2, _SIZE - 16 - b * scale) for a, b in zip(x, y, strict=True)]
        picture = Image.new("RGB", (_SIZE, _SIZE), "white")
        draw = ImageDraw.Draw(picture)
        draw.line([(0, _SIZE - 15), (_SIZE, _SIZE - 15)], fill=(210, 210, 210))
        for parent, child in BONES:
            side = NAMES[child].partition("_")[0]
            draw.line([at[parent], at[child]], fill={"right": _RIGHT, "left": _LEFT}.get(side, _TRUNK), width=4)
        cx, cy = at[NAMES.index("neck")]
        r = 0.11 * scale
        draw.ellipse([cx - r, cy - 2 * r, cx + r, cy], outline=_TRUNK, width=3)
        pictures.append(picture)
    return pictures

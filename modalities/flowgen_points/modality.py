"""The medium: points [2], of which a file shows many."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from flowgen.core.ranges import Positive
from flowgen.errors import FlowgenError, UsageError
from flowgen.files import replacing
from flowgen.media.clip import Clip


@dataclass(frozen=True)
class Points:
    """Points (x, y) of the plane; pictures show the square from -extent to extent."""

    formats: ClassVar[Mapping[str, str]] = {
        ".png": "image/png",
        ".svg": "image/svg+xml",
        ".npy": "application/octet-stream",
        ".csv": "text/csv",
    }
    clips_per_file: ClassVar[int | None] = None

    extent: Positive = 5.0

    def __post_init__(self) -> None:
        if self.extent <= 0:
            raise UsageError(f"modality.extent must be positive, got {self.extent:g}")

    def read(self, path: Path) -> Clip:
        """The one point of a file."""
        points = read_points(path)
        if len(points) != 1:
            raise FlowgenError(f"{path}: expected one point, got {len(points)}; the data set points-file takes many")
        return Clip(points[0], source=str(path))

    def read_all(self, path: Path) -> list[Clip]:
        """Every point of a file. FlowgenError: it holds something else."""
        return [Clip(point, source=f"{path}, row {row + 1}") for row, point in enumerate(read_points(path))]

    def write(self, clips: Sequence[Clip], path: Path, metadata: Mapping[str, Any]) -> None:
        """All points in one file. npy is bare numbers [N, 2], with no room for the metadata."""
        from flowgen_points.plots import save_scatter

        points, comment = stack(clips), json.dumps(dict(metadata), ensure_ascii=False, default=str)
        match path.suffix.lower():
            case ".png" | ".svg":
                save_scatter({"": points}, path, self.extent, comment)
            case ".npy":
                whole = io.BytesIO()  # numpy itself says nothing where a disk is full
                np.save(whole, points.numpy())
                with replacing(path) as temporary:
                    temporary.write_bytes(whole.getvalue())
            case ".csv":
                with replacing(path) as temporary:
                    np.savetxt(temporary, points.numpy(), delimiter=",", header=f"{comment}\nx,y", fmt="%.7g")
            case other:
                raise FlowgenError(
                    f"{path}: cannot write {other or 'no extension'!r} (known: {', '.join(self.formats)})"
                )

    def sheet(self, clips: Sequence[Clip], path: Path, captions: Sequence[str] = ()) -> None:
        """A scatter plot, coloured by caption."""
        from flowgen_points.plots import save_scatter

        points = stack(clips)
        names = list(captions) or [""] * len(points)
        groups = {name: points[[i for i, n in enumerate(names) if n == name]] for name in dict.fromkeys(names)}
        save_scatter(groups, path, self.extent)

    def animate(self, frames: Sequence[tuple[float, Sequence[Clip]]], path: Path, metadata: Mapping[str, Any]) -> None:
        """The way from noise to data, a picture for each (t, points), as mp4 or gif."""
        from flowgen_points.plots import save_animation

        comment = json.dumps(dict(metadata), ensure_ascii=False, default=str)
        save_animation([(t, stack(clips)) for t, clips in frames], path, self.extent, comment)

    def field(self, velocity: Callable[[Sequence[Clip], float], Tensor], path: Path) -> None:
        """Arrows of `velocity(points, t)` at several times, as png or svg."""
        from flowgen_points.plots import save_field

        save_field(lambda points, t: velocity([Clip(point) for point in points], t), path, self.extent)


def stack(clips: Sequence[Clip]) -> Tensor:
    """The points of clips, float32 [N, 2]."""
    return torch.stack([torch.as_tensor(clip.data, dtype=torch.float32) for clip in clips])


def read_points(path: Path) -> Tensor:
    """The points of an npy or csv file, float32 [N, 2]. FlowgenError: it holds something else."""
    try:
        values = np.load(path) if path.suffix.lower() == ".npy" else np.loadtxt(path, delimiter=",", ndmin=2)
    except (OSError, ValueError) as error:
        raise FlowgenError(f"{path}: cannot be read as points: {error}") from error
    if values.ndim != 2 or values.shape[1] != 2 or not len(values) or not np.isfinite(values).all():
        raise FlowgenError(f"{path}: expected finite numbers [N, 2], a point a row, got an array {values.shape}")
    return torch.tensor(values, dtype=torch.float32)

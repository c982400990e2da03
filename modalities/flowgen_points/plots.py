"""Pictures of points, of the velocity field, and of the flow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from flowgen.errors import FlowgenError
from flowgen.files import replacing
from flowgen.flow import Cond, Flow

_FPS = 20
_HOLD = 20  # pictures of the end


def save_scatter(panels: Mapping[str, Mapping[str, Tensor]], path: Path, extent: float, comment: str = "") -> None:
    """Plots by title side by side (samples beside data), each of points by name [N, 2] in a colour a name."""
    figure, axes = _figure(len(panels), extent)
    for axis, (title, groups) in zip(axes, panels.items(), strict=True):
        axis.set_title(title)
        for name, points in groups.items():
            axis.scatter(*points.T.numpy(), s=_size(len(points)), alpha=0.6, linewidths=0, label=name or None)
        if any(groups):
            axis.legend(loc="upper right", markerscale=3)
    _save(figure, path, comment)


def save_field(
    flow: Flow,
    path: Path,
    extent: float,
    *,
    scale: float = 1.0,
    cond: Cond | None = None,
    times: Sequence[float] = (0.0, 0.25, 0.5, 0.75, 0.95),
    arrows: int = 24,
) -> None:
    """Arrows of the velocity at several times; `scale` is the encoder's, `cond` is for arrows^2 points."""
    line = torch.linspace(-extent, extent, arrows)
    at = torch.cartesian_prod(line, line)
    figure, axes = _figure(len(times), extent)
    for axis, t in zip(axes, times, strict=True):
        with torch.no_grad():
            velocity = flow(at / scale, torch.tensor(t), cond).velocity
        assert isinstance(velocity, Tensor)
        speed = velocity.norm(dim=1)
        axis.quiver(*at.T.numpy(), *velocity.T.numpy(), speed.numpy(), cmap="viridis", angles="xy")
        axis.set_title(f"t = {t:g}")
    _save(figure, path, "")


def save_animation(frames: Sequence[tuple[float, Tensor]], path: Path, extent: float, comment: str = "") -> None:
    """(t, points [N, 2]) one after the other, then the last one for a second, as mp4 or gif."""
    if path.suffix.lower() not in (".mp4", ".gif"):
        raise FlowgenError(f"{path}: cannot animate as {path.suffix or 'no extension'!r} (known: .mp4, .gif)")
    if not frames:
        raise FlowgenError(f"{path}: there are no points to animate")
    figure, (axis,) = _figure(1, extent)
    dots = axis.scatter(*frames[0][1].T.numpy(), s=_size(len(frames[0][1])), alpha=0.6, linewidths=0)
    pictures = []
    for t, points in frames:
        dots.set_offsets(points.numpy())
        axis.set_title(f"t = {t:.2f}")
        figure.canvas.draw()
        pictures.append(np.asarray(figure.canvas.buffer_rgba())[..., :3].copy())
    pictures += pictures[-1:] * _HOLD
    with replacing(path) as temporary:
        (_save_gif if path.suffix.lower() == ".gif" else _save_mp4)(pictures, temporary, comment)


def _save_gif(pictures: list[np.ndarray], path: Path, comment: str) -> None:
    from PIL import Image

    first, *rest = (Image.fromarray(p).quantize(64) for p in pictures)
    first.save(path, "gif", save_all=True, append_images=rest, duration=1000 // _FPS, loop=0, comment=comment.encode())


def _save_mp4(pictures: list[np.ndarray], path: Path, comment: str) -> None:
    import av

    with av.open(str(path), "w", format="mp4", options={"movflags": "+faststart"}) as container:
        container.metadata["comment"] = comment
        stream: Any = container.add_stream("libx264", rate=_FPS, options={"crf": "18"})
        stream.height, stream.width, stream.pix_fmt = *pictures[0].shape[:2], "yuv420p"
        for picture in pictures:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())


def _size(n: int) -> float:
    return min(max(30000 / n, 1.0), 12.0)


def _figure(panels: int, extent: float) -> tuple[Any, list[Any]]:
    """A figure of square plots, an even number of pixels high and wide. Not pyplot's: nothing global is touched."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5 * panels, 5.2), dpi=100, layout="tight")
    FigureCanvasAgg(figure)
    axes = list(figure.subplots(1, panels, squeeze=False)[0])
    for axis in axes:
        axis.set(xlim=(-extent, extent), ylim=(-extent, extent), aspect="equal")
    return figure, axes


def _save(figure: Any, path: Path, comment: str) -> None:
    kind = path.suffix.lower().removeprefix(".")
    with replacing(path) as temporary:
        figure.savefig(temporary, format=kind, metadata={"Description": comment} if comment else None)

"""Pictures of points, of the velocity field, and of the flow."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from flowgen.files import replacing
from flowgen.media.pictures import save_moving

_FPS = 20
_TIMES = (0.0, 0.25, 0.5, 0.75, 0.95)


def save_scatter(groups: Mapping[str, Tensor], path: Path, extent: float, comment: str = "") -> None:
    """Points by name [N, 2], in a colour a name."""
    figure, (axis,) = _figure(1, extent)
    for name, points in groups.items():
        axis.scatter(*points.T.numpy(), s=_size(len(points)), alpha=0.6, linewidths=0, label=name or None)
    if any(groups):
        axis.legend(loc="upper right", markerscale=3)
    _save(figure, path, comment)


def save_field(
    velocity: Callable[[Tensor, float], Tensor], path: Path, extent: float, times: Sequence[float] = _TIMES
) -> None:
    """Arrows of velocity(points [N, 2], t) at several times."""
    line = torch.linspace(-extent, extent, 24)
    at = torch.cartesian_prod(line, line)
    figure, axes = _figure(len(times), extent)
    for axis, t in zip(axes, times, strict=True):
        arrows = velocity(at, t)
        axis.quiver(*at.T.numpy(), *arrows.T.numpy(), arrows.norm(dim=1).numpy(), cmap="viridis", angles="xy")
        axis.set_title(f"t = {t:g}")
    _save(figure, path, "")


def save_animation(frames: Sequence[tuple[float, Tensor]], path: Path, extent: float, comment: str = "") -> None:
    """(t, points [N, 2]) one after the other, then the last one for a second, as mp4 or gif."""
    figure, (axis,) = _figure(1, extent)
    dots = axis.scatter([], [], s=_size(max(len(points) for _, points in frames)), alpha=0.6, linewidths=0)
    pictures = []
    for t, points in frames:
        dots.set_offsets(points.numpy())
        axis.set_title(f"t = {t:.2f}")
        figure.canvas.draw()
        pictures.append(np.asarray(figure.canvas.buffer_rgba())[..., :3].copy())
    save_moving(pictures + pictures[-1:] * _FPS, path, _FPS, comment)


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

"""What is drawn on: the first picture of a file, and the waveform of a sound with a stretch marked."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
from PIL import Image

from flowgen.errors import FlowgenError

_SMALLEST = 384
"""Sides of a picture to draw on, in pixels: small clips are enlarged."""
_COLUMNS, _HEIGHT = 600, 80


def first_picture(path: str | Path) -> Image.Image:
    """The first frame of a film, or the picture itself, large enough to draw on. FlowgenError: it has none."""
    try:
        with av.open(str(path)) as container:
            picture = next(container.decode(video=0)).to_image()
    except (av.error.FFmpegError, StopIteration, IndexError, OSError):
        raise FlowgenError(f"{Path(path).name} has no picture that can be read") from None
    factor = -(-_SMALLEST // min(picture.size))
    return picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.NEAREST)


def drawn(layers: list[np.ndarray]) -> Image.Image | None:
    """The mask of what was drawn: white where any layer [H, W, 4] is not transparent; None where nothing was."""
    marked = np.zeros((1, 1), bool)
    for layer in layers:
        marked = marked | (layer[..., 3] > 0) if marked.shape == layer.shape[:2] else layer[..., 3] > 0
    return Image.fromarray(np.where(marked, 255, 0).astype(np.uint8)) if marked.any() else None


def length_s(path: str | Path) -> float:
    """How long a recording is. FlowgenError: it cannot be read."""
    return len(_peaks(path)[0]) * _peaks(path)[1]


def waveform(path: str | Path, start_s: float, end_s: float) -> str:
    """SVG of a sound, with the stretch between two times marked. FlowgenError: it cannot be read."""
    peaks, each_s = _peaks(path)
    width, middle = len(peaks), _HEIGHT / 2
    lines = "".join(f"M{x} {middle - middle * p:.1f}V{middle + middle * p:.1f}" for x, p in enumerate(peaks))
    left, right = (min(t / each_s, width) for t in (start_s, end_s))
    marked = (
        f'<rect x="{left:.1f}" width="{max(0.0, right - left):.1f}" height="{_HEIGHT}" fill="#f97316" opacity=".35"/>'
    )
    said = f"waveform of {width * each_s:.2f} s" + (
        f", marked from {start_s:g} to {end_s:g} s" if end_s > start_s else ""
    )
    box = f'viewBox="0 0 {width} {_HEIGHT}" width="100%" height="{_HEIGHT}" preserveAspectRatio="none"'
    return (
        f'<svg {box} role="img" aria-label="{said}"><path d="{lines}" stroke="currentColor" fill="none"/>{marked}</svg>'
    )


def _peaks(path: str | Path) -> tuple[np.ndarray, float]:
    """The largest sample of each column [<= 600], between 0 and 1, and the seconds of a column."""
    try:
        with av.open(str(path)) as container:
            rate = container.streams.audio[0].rate
            frames = [abs(f.to_ndarray().astype(np.float32)) for f in _floats(container)]
    except (av.error.FFmpegError, IndexError, OSError):
        raise FlowgenError(f"{Path(path).name} has no sound that can be read") from None
    samples = np.concatenate([f.max(0) for f in frames]) if frames else np.zeros(1)
    each = -(-len(samples) // _COLUMNS)
    padded = np.pad(samples, (0, -len(samples) % each)).reshape(-1, each)
    return padded.max(1).clip(0, 1), each / rate


def _floats(container: av.container.InputContainer) -> list[av.AudioFrame]:
    resampler = av.AudioResampler(format="fltp")
    return [out for frame in container.decode(audio=0) for out in resampler.resample(frame)]

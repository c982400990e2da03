"""Files into frames: decoded with PyAV, resampled in time by their timestamps, brought to size with antialiasing."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
import torch
from torch import Tensor

from flowgen.errors import FlowgenError

# libswscale (swscale.h); without the last three, colours come out one or two levels too dark
BICUBIC, AREA = 4, 32
EXACT = 0x40000 | 0x2000 | 0x4000  # accurate rounding, full chroma resolution on both sides


def read_frames(path: Path, fps: float, height: int, width: int, channels: int) -> Tensor:
    """All frames of a file as uint8 [T, H, W, C], one every 1/fps seconds from its first to its last.

    Each is the frame of the file that is nearest in time, turned upright, scaled to cover height x width (pixels that are
    not square become so) and cropped around the middle. Raises FlowgenError for a file that cannot be read.
    """
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise FlowgenError(f"{path}: no video in it; expected a file with frames")
            times, pictures = [], []
            for time, frame in _decoded(container):
                times.append(time)
                pictures.append(_picture(frame, height, width, channels))
    except FileNotFoundError:
        raise FlowgenError(f"{path}: no such file") from None
    except (OSError, av.FFmpegError) as error:
        reason = getattr(error, "strerror", None) or error
        raise FlowgenError(f"{path}: cannot be read as video ({reason})") from error
    if not pictures:
        raise FlowgenError(f"{path}: holds no frame that can be decoded")
    kept = resample(torch.tensor(times, dtype=torch.float64), fps)
    return torch.from_numpy(np.stack(pictures))[kept]


def _decoded(container: av.container.InputContainer) -> Iterator[tuple[float, av.VideoFrame]]:
    """Frames with their times in seconds, counted from the first; without timestamps, by the stream's mean rate."""
    stream = container.streams.video[0]
    rate = float(stream.average_rate or stream.guessed_rate or 25)
    first = None
    for index, frame in enumerate(container.decode(stream)):
        time = frame.time if frame.time is not None else index / rate
        first = time if first is None else first
        yield time - first, frame


def resample(times: Tensor, fps: float) -> Tensor:
    """Which of the frames at `times` (seconds, rising from 0) to show at 0, 1/fps, 2/fps, ...: the nearest each.

    The last frame is taken to last as long as the median one, and a fifth of a frame at the end does not make another, so
    that a clip at its own rate keeps every frame and no more, even where a format rounds its times (gif).
    """
    if len(times) == 1:
        return torch.zeros(1, dtype=torch.long)
    duration = float(times[-1] + times.diff().median())
    wanted = torch.arange(max(1, math.ceil(duration * fps - 0.2)), dtype=torch.float64) / fps
    middle = (times[1:] + times[:-1]) / 2
    return torch.searchsorted(middle, wanted)


def _picture(frame: av.VideoFrame, height: int, width: int, channels: int) -> np.ndarray:
    """A frame upright and at size, uint8 [H, W, C]."""
    turns = round(frame.rotation / 90) % 4
    if turns % 2:
        height, width = width, height  # of the picture as it is stored
    pixel = frame.sample_aspect_ratio if hasattr(frame, "sample_aspect_ratio") else None
    stored_width = frame.width * float(pixel or 1)
    scale = max(height / frame.height, width / stored_width)
    tall = max(height, round(frame.height * scale))
    wide = max(width, round(stored_width * scale))
    whole = tall < frame.height and frame.height % tall == 0 and frame.width % wide == 0
    # the mean over whole boxes undoes enlarged pixels exactly; otherwise bicubic, which widens its filter when shrinking
    scaled = frame.reformat(
        width=wide,
        height=tall,
        format="rgb24" if channels == 3 else "gray",
        interpolation=(AREA if whole else BICUBIC) | EXACT,
    ).to_ndarray()
    top, left = (tall - height) // 2, (wide - width) // 2
    cropped = scaled.reshape(tall, wide, channels)[top : top + height, left : left + width]
    return np.ascontiguousarray(np.rot90(cropped, turns))

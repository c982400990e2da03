"""Files into frames: counted by index, decoded with PyAV only where they are needed, resampled in time by their timestamps,
turned upright and brought to size with antialiasing."""

from __future__ import annotations

import contextlib
import io
import json
import math
import re
import zipfile
import zlib
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from av.video.reformatter import VideoReformatter
from PIL import Image, ImageOps
from torch import Tensor

from flowgen.data.shards import Source, readable
from flowgen.errors import FlowgenError

VIDEO_SUFFIXES = frozenset(
    (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".gif", ".mpg", ".mpeg", ".ts", ".flv", ".ogv")
)
IMAGE_SUFFIXES = frozenset((".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff"))

# libswscale (swscale.h); without the last three, colours come out one or two levels too dark
BICUBIC, AREA = 4, 32
EXACT = 0x40000 | 0x2000 | 0x4000  # accurate rounding, full chroma resolution on both sides

RATE_FILE = "clip.json"
"""Beside numbered pictures: their frames a second, as {"fps": 8}."""
_LONGEST_S = 7 * 86400.0
_MAX_PICTURE = 500_000_000
"""Bytes of a picture in a zip."""
_UNSEEKABLE = frozenset(("gif", "apng"))  # every frame builds on the one before, whatever the packets say


@dataclass(frozen=True)
class FrameIndex:
    """What a file holds, read from its packets without decoding: one entry a frame, in the order of presentation."""

    times: Tensor
    """Seconds from the first frame, float64 [N], rising."""
    keys: tuple[int, ...] = (0,)
    """Frames from which decoding can start."""
    stamps: tuple[int, ...] = ()
    """Presentation timestamps, in units of the stream; empty where frames can only be counted."""

    def __len__(self) -> int:
        return len(self.times)

    @property
    def duration(self) -> float:
        """Seconds; the last frame is taken to last as long as the median one."""
        return float(self.times[-1] + self.times.diff().median()) if len(self) > 1 else 0.0

    @property
    def rate(self) -> float:
        """Mean frames a second; 0 for a single picture."""
        return len(self) / self.duration if self.duration else 0.0


def read_frames(path: Source, fps: float, height: int, width: int, channels: int) -> Tensor:
    """All of a file as uint8 [T, H, W, C], one frame every 1/fps seconds from its first to its last.

    Each is the frame of the file that is nearest in time. A folder (or zip) of pictures is a clip of as many frames, in the
    order of the numbers in their names. Raises FlowgenError for what cannot be read.
    """
    index = index_frames(path, fps)
    return decode_frames(path, resample(index.times, fps).tolist(), height, width, channels, index)


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


def index_frames(path: Source, fps: float = 25.0, fixed: bool = False) -> FrameIndex:
    """The frames of a file, or of a folder or zip of pictures: at the rate in its clip.json, or else (or where it is `fixed`)
    at `fps`. FlowgenError: no video, or unreadable."""
    if _holds_pictures(path):
        with _pictures_of(path) as pictures:
            rate = fps if fixed else pictures.rate(path) or fps
            return FrameIndex(torch.arange(len(pictures), dtype=torch.float64) / rate)
    with _errors_of(path), _opened(path) as container:
        stream = _video_stream(container, path)
        packets = [p for p in container.demux(stream) if p.size and not p.is_discard]
        if not packets:
            raise FlowgenError(f"{path}: holds no frames; the file may be cut off")
        found = sorted((p.pts, p.is_keyframe) for p in packets if p.pts is not None)
        stamps = tuple(pts for pts, _ in found)
        if len(stamps) < len(packets):  # an avi, mostly: its frames can only be counted
            rate = float(stream.average_rate or stream.guessed_rate or 25)
            return FrameIndex(torch.arange(len(packets), dtype=torch.float64) / rate)
        times = torch.tensor(stamps, dtype=torch.float64) * float(stream.time_base or 1)
        times = times - times[0]
        if float(times[-1]) > _LONGEST_S:
            raise FlowgenError(f"{path}: its frames lie {float(times[-1]):.3g} s apart; the file may be damaged")
        if len(set(stamps)) < len(stamps) or container.format.name in _UNSEEKABLE:
            return FrameIndex(times)
        return FrameIndex(times, tuple(i for i, (_, key) in enumerate(found) if key) or (0,), stamps)


def examine(path: Source, picture_rate: float, fixed: bool = False) -> dict[str, Any]:
    """What is in a file, as JSON values: frame times, key frames, timestamps, size as shown, and whether it has sound."""
    index, size, sound = index_frames(path, picture_rate, fixed), shown_size(path), has_sound(path)
    return {
        "times": index.times.tolist(),
        "keys": list(index.keys),
        "stamps": list(index.stamps),
        "size": list(size),
        "sound": sound,
    }


def has_sound(path: Source) -> bool:
    """Whether a file has a sound track."""
    if _holds_pictures(path):
        return False
    with _errors_of(path), _opened(path) as container:
        return bool(container.streams.audio)


def shown_size(path: Source) -> tuple[int, int]:
    """Height and width of the first frame as shown: upright, with square pixels."""
    if _holds_pictures(path):
        with _pictures_of(path) as pictures:
            frame, pixel = pictures(0), 1.0
    else:
        with _errors_of(path), _opened(path) as container:
            stream = _video_stream(container, path)
            pixel = float(stream.sample_aspect_ratio or 1)
            first = next(container.decode(stream), None)
        if first is None:
            raise FlowgenError(f"{path}: holds no frame that can be decoded; the file may be damaged")
        frame = first
    height, width = frame.height, round(frame.width * pixel)
    return (width, height) if round(frame.rotation / 90) % 2 else (height, width)


def decode_frames(
    path: Source, wanted: Sequence[int], height: int, width: int, channels: int, index: FrameIndex | None = None
) -> Tensor:
    """The frames `wanted` (any order, repeats allowed) of a file as uint8 [len(wanted), H, W, C].

    Decoding starts at the key frame before the first that is wanted and skips ahead over key frames where that saves work.
    Frames are scaled to cover height x width and cropped around the middle. Raises FlowgenError for a frame that cannot
    be decoded.
    """
    index = index or index_frames(path)
    if not wanted or min(wanted) < 0 or max(wanted) >= len(index):
        raise FlowgenError(f"{path}: expected frames from 0 to {len(index) - 1}, got {list(wanted)[:8]}")
    scaler = _Scaler(height, width, channels)
    needed = sorted(set(wanted))
    if _holds_pictures(path):
        with _pictures_of(path) as pictures:
            shown = {i: scaler(pictures(i)) for i in needed}
    else:
        with _errors_of(path):
            shown = {i: scaler(*found) for i, found in zip(needed, _at(path, index, needed), strict=False)}
    if len(shown) < len(needed):
        raise FlowgenError(
            f"{path}: frame {needed[len(shown)]} of {len(index)} cannot be decoded; the file may be damaged"
        )
    return torch.from_numpy(np.stack([shown[i] for i in wanted]))


def _at(path: Source, index: FrameIndex, needed: Sequence[int]) -> Iterator[tuple[av.VideoFrame, float]]:
    """The frames `needed` (rising) with the proportions of their pixels, as far as they can be decoded.

    A seek may land after its target (MPEG program and transport streams, FLV): then from an earlier key frame, and at last
    from the beginning of the file.
    """
    at, exact = 0, True
    with _opened(path) as container:
        while exact and at < len(needed):
            before = at
            for key in _entries(index, needed[at]):
                for found in _from(container, path, index, needed[at:], key if at or key else None):
                    yield found
                    at += 1
                if at > before:
                    break
            exact = at > before
    if at < len(needed):
        with _opened(path) as container:
            yield from _from(container, path, index, needed[at:], None, jump=False)


def _entries(index: FrameIndex, target: int) -> list[int]:
    """Key frames to begin at, nearest first."""
    return [k for k in index.keys if k <= target][:-4:-1]


def _from(
    container: av.container.InputContainer,
    path: Source,
    index: FrameIndex,
    needed: Sequence[int],
    key: int | None,
    jump: bool = True,
) -> Iterator[tuple[av.VideoFrame, float]]:
    """Frames from a key frame on (None: from where the file is), until another seek is shorter; none where it landed late."""
    number = {stamp: i for i, stamp in enumerate(index.stamps)}
    stream = _video_stream(container, path)
    if not stream.codec_context.is_open:
        stream.codec_context.thread_count = 1  # loaders run one process a core
    pixel = float(stream.sample_aspect_ratio or 1)
    if key is not None:
        container.seek(index.stamps[key] if index.stamps else 0, stream=stream)
    following, position = 0, 0
    for frame in container.decode(stream):
        at = number.get(frame.pts, -1) if number and frame.pts is not None else following
        following = at + 1
        if at > needed[position]:
            return
        if at == needed[position]:
            yield frame, pixel
            position += 1
            if position == len(needed):
                return
            if jump and bisect_right(index.keys, needed[position]) > bisect_right(index.keys, following):
                return


class _Scaler:
    """Frames upright and at size, uint8 [H, W, C]. Keeps the tables of the scaler from frame to frame."""

    def __init__(self, height: int, width: int, channels: int) -> None:
        self.height, self.width, self.channels = height, width, channels
        self.reformatter = VideoReformatter()

    def __call__(self, frame: av.VideoFrame, pixel: float = 1.0) -> np.ndarray:
        """`pixel`: width of a pixel relative to its height."""
        turns = round(frame.rotation / 90) % 4
        height, width = (self.width, self.height) if turns % 2 else (self.height, self.width)  # as it is stored
        scale = max(height / frame.height, width / (frame.width * pixel))
        tall = max(height, round(frame.height * scale))
        wide = max(width, round(frame.width * pixel * scale))
        whole = tall < frame.height and frame.height % tall == 0 and frame.width % wide == 0
        # the mean over whole boxes undoes enlarged pixels exactly; otherwise bicubic, which widens its filter when shrinking
        scaled = self.reformatter.reformat(
            frame,
            width=wide,
            height=tall,
            format="rgb24" if self.channels == 3 else "gray",
            interpolation=(AREA if whole else BICUBIC) | EXACT,
        ).to_ndarray()
        top, left = (tall - height) // 2, (wide - width) // 2
        cropped = scaled.reshape(tall, wide, self.channels)[top : top + height, left : left + width]
        return np.ascontiguousarray(np.rot90(cropped, turns))


def _video_stream(container: av.container.InputContainer, path: Source) -> av.VideoStream:
    if not container.streams.video:
        raise FlowgenError(f"{path}: no video in it; expected a file with frames")
    stream = container.streams.video[0]
    if stream.codec_context is None:
        raise FlowgenError(f"{path}: its codec is unknown")
    return stream


def _holds_pictures(path: Source) -> bool:
    return path.is_dir() or path.suffix.lower() == ".zip"


class _Pictures:
    """The pictures of a folder or an open zip, in the order of the numbers in their names."""

    def __init__(self, place: Path | zipfile.ZipFile, path: Source) -> None:
        self.place = place
        names = [p.name for p in place.iterdir()] if isinstance(place, Path) else place.namelist()
        found = [n for n in names if Path(n).suffix.lower() in IMAGE_SUFFIXES and not Path(n).name.startswith(".")]
        if not found:
            known = ", ".join(sorted(IMAGE_SUFFIXES))
            raise FlowgenError(
                f"{path}: a {'folder' if isinstance(place, Path) else 'zip'} without pictures; expected frames as {known}"
            )
        self.names = sorted(found, key=lambda n: [int(s) if s.isdigit() else s for s in re.split(r"(\d+)", n)])

    def __len__(self) -> int:
        return len(self.names)

    def rate(self, path: Source) -> float | None:
        """Frames a second as the file beside the pictures says; None: it says nothing. FlowgenError: it says no rate."""
        try:
            told = json.loads(self._bytes(RATE_FILE))
        except (OSError, KeyError, ValueError, RecursionError):
            return None
        found = told.get("fps") if isinstance(told, dict) else None
        if found is None:
            return None
        if isinstance(found, bool) or not isinstance(found, (int, float)) or not 0 < found <= 1000:
            raise FlowgenError(
                f"{path}: fps is {str(found)[:40]} in {RATE_FILE}; expected frames a second in (0, 1000]"
            )
        return float(found)

    def _bytes(self, name: str) -> bytes:
        if isinstance(self.place, Path):
            return (self.place / name).read_bytes()
        if self.place.getinfo(name).file_size > _MAX_PICTURE:
            raise FlowgenError(f"{name} in it unpacks to more than {_MAX_PICTURE / 1e6:g} MB, which no picture does")
        return self.place.read(name)

    def __call__(self, i: int) -> av.VideoFrame:
        with Image.open(io.BytesIO(self._bytes(self.names[i]))) as picture:
            return av.VideoFrame.from_image(_opaque(ImageOps.exif_transpose(picture)))


def _opaque(picture: Image.Image) -> Image.Image:
    """8 bits of red, green and blue; 16-bit greys keep their upper 8 bits, and what is transparent shows black."""
    if picture.mode.startswith("I") or picture.mode == "F":
        values = np.asarray(picture, dtype=np.float64)
        scale = 1.0 if values.max(initial=0) <= 255 and picture.mode != "I;16" else 257.0
        return Image.fromarray((values / scale).round().clip(0, 255).astype(np.uint8)).convert("RGB")
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", picture.size, (0, 0, 0, 255)), picture).convert("RGB")
    return picture.convert("RGB")


@contextlib.contextmanager
def _pictures_of(path: Source) -> Iterator[_Pictures]:
    with _errors_of(path):
        if isinstance(path, Path) and path.is_dir():
            yield _Pictures(path, path)
        else:
            with readable(path) as source, zipfile.ZipFile(source) as archive:
                yield _Pictures(archive, path)


@contextlib.contextmanager
def _opened(path: Source) -> Iterator[av.container.InputContainer]:
    with readable(path) as source, av.open(source, metadata_errors="replace") as container:
        yield container


@contextlib.contextmanager
def opened(path: Source) -> Iterator[tuple[av.container.InputContainer, av.VideoStream]]:
    """A file and its first video stream, to be decoded on several threads. FlowgenError: it cannot be."""
    with _errors_of(path), _opened(path) as container:
        stream = _video_stream(container, path)
        stream.thread_type = "AUTO"
        yield container, stream


@contextlib.contextmanager
def _errors_of(path: Source) -> Iterator[None]:
    """What goes wrong with a file, as one sentence that names it."""
    try:
        yield
    except FileNotFoundError:
        raise FlowgenError(f"{path}: no such file") from None
    except (
        OSError,
        av.FFmpegError,
        zipfile.BadZipFile,
        zlib.error,
        Image.DecompressionBombError,
        SyntaxError,
        EOFError,
        RuntimeError,  # a zip with a password
        ValueError,
    ) as error:
        reason = getattr(error, "strerror", None) or error
        raise FlowgenError(f"{path}: cannot be read as video ({reason})") from error

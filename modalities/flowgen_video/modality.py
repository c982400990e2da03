"""The medium: clips of frames, how they are read, written and shown."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from flowgen.core.ranges import Count, Positive, Whole
from flowgen.data.shards import Source
from flowgen.errors import UsageError
from flowgen.media.clip import Clip

if TYPE_CHECKING:
    from torch import Tensor

_SHOWN = 256


@dataclass(frozen=True)
class Video:
    """Clips of `frames` frames of `height` x `width` pixels at `fps` a second, in grey (1 channel) or colour (3).

    A clip's data is uint8 [T, H, W, C], as files hold it, and its rate the frames per second; encoders own the way to
    numbers around zero. Files of small frames are written with every pixel enlarged by the whole number `enlarge`, so that
    a player shows something to look at (0: what brings the longer side to about 256, 1: as they are); `read` undoes it.
    """

    formats: ClassVar[Mapping[str, str]] = {
        ".mp4": "video/mp4",
        ".webm": "video/webm",
        ".gif": "image/gif",
        ".zip": "application/zip",
    }
    """The last holds numbered PNG files, which lose nothing."""
    growing: ClassVar[Mapping[str, str]] = {".mp4": "video/mp4", ".webm": "video/webm"}
    sequences: ClassVar[Mapping[str, str]] = {".png": "image/png"}
    clips_per_file: ClassVar[int | None] = 1
    shows_pictures: ClassVar[bool] = True

    fps: Positive = 8.0
    frames: Count = 16
    height: Count = 32
    width: Count = 32
    channels: Literal[1, 3] = 3
    enlarge: Whole = 0

    def __post_init__(self) -> None:
        for name in ("frames", "height", "width"):
            if getattr(self, name) < 1:
                raise UsageError(f"modality.{name} must be at least 1, got {getattr(self, name)}")
        if not 0 < self.fps <= 1000:
            raise UsageError(f"modality.fps must lie in (0, 1000], got {self.fps:g}")
        if self.channels not in (1, 3):
            raise UsageError(f"modality.channels must be 1 (grey) or 3 (colour), got {self.channels}")
        if self.enlarge < 0:
            raise UsageError(f"modality.enlarge must be 0 (automatic) or a whole number, got {self.enlarge}")

    def read(self, path: Path) -> Clip:
        """The whole file in this rate and size; a clip of it is as long as the file, not `frames` frames."""
        from flowgen_video.reading import has_sound, read_frames

        if has_sound(Path(path)):
            print(f"{path}: its sound track is not used", file=sys.stderr)
        data = read_frames(Path(path), self.fps, self.height, self.width, self.channels)
        return Clip(data=data, rate=self.fps, source=str(path))

    def seconds(self, clip: Clip) -> float:
        """How long a clip is."""
        return len(clip.data) / self.fps

    def cut(self, clip: Clip, start_s: float, end_s: float) -> Clip:
        """The part of a clip between two times, in whole frames."""
        start, end = (round(s * self.fps) for s in (start_s, end_s))
        return replace(clip, data=clip.data[start:end])  # type: ignore[index]

    def join(self, clips: Sequence[Clip]) -> Clip:
        """Clips one after the other."""
        import torch

        return replace(clips[0], data=torch.cat([clip.data for clip in clips]))  # type: ignore[misc]

    def compare_continuations(self, made: Sequence[Clip], truth: Sequence[Clip], given_s: float) -> dict[str, float]:
        """PSNR and SSIM over the frames that follow, twice as many as were given at the most; see `quality.continuation`."""
        from flowgen_video.quality import continuation

        given = round(given_s * self.fps)
        if given < 1:
            raise UsageError(
                f"{given_s:g} s are less than a frame at {self.fps:g} a second; give {1 / self.fps:g} s or more"
            )
        return continuation(made, truth, given, min(2 * given, len(truth[0].data) - given))

    def compare_reconstructions(self, made: Sequence[Clip], truth: Sequence[Clip]) -> dict[str, float]:
        """psnr_db, psnr_moving_db and ssim, see `reconstruction.fidelity`."""
        from flowgen_video.reconstruction import fidelity

        return fidelity(made, truth)

    def segments(self, path: Source, scene: float = 0.3) -> list[list[float]]:
        """From when to when each scene is; cuts score more than `scene` in ffmpeg's measure, from 0 to 1."""
        from flowgen_video.preparing import scenes

        return scenes(path, scene)

    def measure(self, path: Source, start_s: float, duration_s: float | None) -> tuple[dict[str, float], list[float]]:
        """Seconds, motion, sharpness and brightness; see `preparing.measures`."""
        from flowgen_video.preparing import measures

        return measures(path, start_s, duration_s, self.fps)

    def shown(self, path: Source, start_s: float, duration_s: float | None, count: int) -> list[Any]:
        """`count` frames as pictures."""
        from flowgen_video.preparing import seen

        return seen(path, start_s, duration_s, count)

    def write(self, clips: Sequence[Clip], path: Path, metadata: Mapping[str, Any]) -> None:
        from flowgen_video.writing import write_frames

        if len(clips) != 1:
            raise UsageError(f"{path}: a video file holds one clip, got {len(clips)}; write one file for each")
        (clip,) = clips
        assert not isinstance(clip.data, dict)
        assert isinstance(clip.rate, (int, float))
        write_frames(clip.data, clip.rate, Path(path), metadata, enlarge=self.enlargement(clip.data))

    def write_growing(self, parts: Iterator[Clip], path: Path, metadata: Mapping[str, Any]) -> None:
        """Write the parts of one clip as they come, at the modality's rate."""
        from flowgen_video.writing import write_growing

        write_growing((part.data for part in parts), self.fps, Path(path), metadata, self.enlargement)  # type: ignore[misc]

    def enlargement(self, frames: Tensor) -> int:
        """By how much each pixel of frames [T, H, W, C] is enlarged in a file."""
        automatic = max(1, round(_SHOWN / max(frames.shape[1:3]) / 2) * 2)  # even, so that chroma keeps to the pixels
        return self.enlarge or automatic

    def write_sequence(self, clip: Clip, folder: Path, suffix: str, metadata: Mapping[str, Any]) -> None:
        """A folder of numbered pictures of the modality's own size, with the rate and the metadata in its clip.json."""
        from flowgen_video.writing import write_folder

        assert not isinstance(clip.data, dict)
        assert isinstance(clip.rate, (int, float))
        write_folder(clip.data, clip.rate, Path(folder), metadata)

    def sheet(self, clips: Sequence[Clip], path: Path, captions: Sequence[str] = ()) -> None:
        from flowgen_video.sheets import write_sheet

        write_sheet(clips, Path(path), captions)

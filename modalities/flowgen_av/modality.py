"""The medium: clips of a picture and a sound that run together, either of which may be absent."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from flowgen_audio.media import SUFFIXES
from flowgen_audio.modality import Audio
from flowgen_video.modality import Video
from flowgen_video.reading import VIDEO_SUFFIXES, has_sound, read_frames
from torch import Tensor

from flowgen.core.ranges import Count, Positive, Whole
from flowgen.errors import FlowgenError, UsageError
from flowgen.files import replacing
from flowgen.media.clip import Clip
from flowgen_av.reading import sound_at, sound_offset

STREAMS = ("picture", "sound")


@dataclass(frozen=True)
class AudioVideo:
    """`frames` frames at `fps` a second as of the modality `video`, with the sound of as many seconds as of `audio`.

    A clip's data is {"picture": uint8 [T, H, W, C], "sound": float32 [sound_channels, samples]}; either may be absent.
    """

    formats: ClassVar[Mapping[str, str]] = {".mp4": "video/mp4", ".webm": "video/webm"}
    clips_per_file: ClassVar[int | None] = 1

    fps: Positive = 16.0
    frames: Count = 32
    height: Count = 32
    width: Count = 32
    channels: Literal[1, 3] = 3
    enlarge: Whole = 0
    sample_rate: Count = 16000
    sound_channels: Literal[1, 2] = 1

    def __post_init__(self) -> None:
        _ = self.picture, self.sound  # they check their own

    @cached_property
    def picture(self) -> Video:
        """The medium of the picture."""
        return Video(self.fps, self.frames, self.height, self.width, self.channels, self.enlarge)

    @cached_property
    def sound(self) -> Audio:
        """The medium of the sound."""
        return Audio(self.sample_rate, self.sound_channels, self.frames / self.fps)

    @property
    def streams(self) -> Mapping[str, Video | Audio]:
        return {"picture": self.picture, "sound": self.sound}

    def stream_of(self, clip: Clip, name: str) -> Clip | None:
        """One stream of a clip; None: the clip lacks it."""
        assert isinstance(clip.data, Mapping)
        if name not in clip.data:
            return None
        return Clip(clip.data[name], self._rates[name], clip.conditions, clip.source)

    def combined(self, parts: Mapping[str, Clip]) -> Clip:
        """The clip of some or all streams."""
        data: Any = {name: parts[name].data for name in STREAMS if name in parts}
        return Clip(data, {name: self._rates[name] for name in data})

    def seconds(self, clip: Clip) -> float:
        """How long a clip is: as its picture, where it has one."""
        name = next(name for name in STREAMS if name in clip.data)
        own = self.stream_of(clip, name)
        assert own is not None
        return self.streams[name].seconds(own)

    def cut(self, clip: Clip, start_s: float, end_s: float) -> Clip:
        """The part of a clip between two times."""
        return self._each([clip], lambda medium, parts: medium.cut(parts[0], start_s, end_s))

    def join(self, clips: Sequence[Clip]) -> Clip:
        """Clips one after the other; of the streams that all of them have."""
        return self._each(clips, lambda medium, parts: medium.join(parts))

    def normalise(self, clip: Clip) -> Clip:
        """The clip with its sound scaled to a peak of -1 dB of full scale."""
        sound = self.stream_of(clip, "sound")
        if sound is None:
            return clip
        return replace(clip, data={**clip.data, "sound": self.sound.normalise(sound).data})  # type: ignore[dict-item]

    def at_full_scale(self, clip: Clip) -> float:
        """The share of its samples of sound that are at full scale."""
        sound = self.stream_of(clip, "sound")
        return 0.0 if sound is None else self.sound.at_full_scale(sound)

    def level(self, clip: Clip) -> float:
        """Root mean square of the sound in dB of full scale; minus infinity for silence, or none."""
        sound = self.stream_of(clip, "sound")
        return -math.inf if sound is None else self.sound.level(sound)

    def read(self, path: Path) -> Clip:
        """A file in this format: a video with its sound track, or one of the two where the file has no other.

        The sound is cut or filled with silence to the length of the picture. FlowgenError: it cannot be read.
        """
        path = Path(path)
        seen = path.is_dir() or path.suffix.lower() in VIDEO_SUFFIXES or path.suffix.lower() == ".zip"
        if not seen and path.suffix.lower() not in SUFFIXES:
            raise FlowgenError(f"{path}: {path.suffix or 'no extension'!r} is no video and no sound that is known")
        if not seen:
            return self._named(self.combined({"sound": self.sound.read(path)}), path)
        frames = read_frames(path, self.fps, self.height, self.width, self.channels)
        parts = {"picture": Clip(frames, self.fps)}
        if has_sound(path):
            samples = round(len(frames) / self.fps * self.sample_rate)
            parts["sound"] = Clip(sound_at(path, self.sound, 0.0, samples, sound_offset(path)), self.sample_rate)
        return self._named(self.combined(parts), path)

    def write(self, clips: Sequence[Clip], path: Path, metadata: Mapping[str, Any]) -> None:
        """Write one clip: H.264 with AAC in mp4, VP9 with Opus in webm. UsageError: it has no picture."""
        from flowgen_video.writing import write_frames

        if len(clips) != 1:
            raise UsageError(f"{path}: a video file holds one clip, got {len(clips)}; write one file for each")
        (clip,) = clips
        assert isinstance(clip.data, Mapping)
        if "picture" not in clip.data:
            raise UsageError(f"{path}: the clip has no picture; a video file wants one")
        sound = (clip.data["sound"].float().cpu(), self.sample_rate) if "sound" in clip.data else None
        enlarge = self.picture.enlargement(clip.data["picture"])
        write_frames(clip.data["picture"].cpu(), self.fps, Path(path), metadata, enlarge=enlarge, sound=sound)

    def sheet(
        self,
        clips: Sequence[Clip],
        path: Path,
        captions: Sequence[str] = (),
        *,
        events: Sequence[Mapping[str, Sequence[float]]] = (),
    ) -> None:
        """One PNG: of every clip a strip of frames above the wave of its sound, on one axis of seconds.

        events: of each clip, the seconds of events to mark, by stream.
        """
        from matplotlib.figure import Figure

        figure = Figure(figsize=(8, 1.7 * len(clips) + 0.2), layout="constrained", dpi=100)
        for i, (clip, axes) in enumerate(
            zip(clips, figure.subplots(2 * len(clips), 1, squeeze=False)[::2], strict=True)
        ):
            picture, sound = (self.stream_of(clip, name) for name in STREAMS)
            above, below = axes[0], figure.axes[2 * i + 1]
            seconds = self.seconds(clip)
            if picture is not None:
                above.imshow(_strip(picture.data), extent=(0, seconds, 0, 1), aspect="auto", cmap="gray")  # type: ignore[arg-type]
            if sound is not None:
                wave: Any = sound.data
                time = torch.arange(wave.shape[-1]) / self.sample_rate
                below.plot(time.numpy(), wave.mean(0).numpy(), linewidth=0.5)
            for name, axis, colour in (("picture", above, "tab:orange"), ("sound", below, "tab:red")):
                for at in events[i].get(name, ()) if i < len(events) else ():
                    axis.axvline(at, color=colour, linewidth=1.2)
            above.set(xlim=(0, seconds))
            above.set_axis_off()
            below.set(xlim=(0, seconds), ylim=(-1, 1))
            below.tick_params(labelsize=6)
            if i < len(captions):
                above.set_title(captions[i], fontsize=8, loc="left")
        with replacing(Path(path)) as temporary:
            figure.savefig(temporary, format="png")

    @property
    def _rates(self) -> dict[str, float]:
        return {"picture": self.fps, "sound": self.sample_rate}

    def _each(self, clips: Sequence[Clip], make: Callable[[Any, list[Clip]], Clip]) -> Clip:
        """The same of each stream that all clips have."""
        made = {}
        for name, medium in self.streams.items():
            own = [self.stream_of(clip, name) for clip in clips]
            present = [clip for clip in own if clip is not None]
            if len(present) == len(own):
                made[name] = make(medium, present)
        return replace(self.combined(made), conditions=clips[0].conditions, source=clips[0].source)

    def _named(self, clip: Clip, path: Path) -> Clip:
        return replace(clip, source=str(path))


def _strip(frames: Tensor) -> Any:
    """Up to 16 frames side by side."""
    shown = frames[torch.linspace(0, len(frames) - 1, min(16, len(frames))).round().long()]
    strip = torch.cat(list(shown), 1).numpy()
    return strip[..., 0] if strip.shape[-1] == 1 else strip

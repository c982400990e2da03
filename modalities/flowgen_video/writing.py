"""Frames into files that play: H.264 in mp4, VP9 in webm, and gif; and into numbered PNG files, which lose nothing."""

from __future__ import annotations

import io
import json
import struct
import zipfile
from collections.abc import Callable, Iterator, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import torch
from PIL import Image
from torch import Tensor

from flowgen.errors import FlowgenError
from flowgen.files import replacing, replacing_folder
from flowgen_video.reading import BICUBIC, EXACT, RATE_FILE

FORMATS: Mapping[str, str] = {
    ".mp4": "video/mp4",
    ".webm": "video/webm",
    ".gif": "image/gif",
    ".zip": "application/zip",
}
_BT709 = 1
_STUDIO_RANGE = 1


def write_frames(
    frames: Tensor,
    fps: float,
    path: Path,
    metadata: Mapping[str, Any],
    enlarge: int = 1,
    sound: tuple[Tensor, int] | None = None,
) -> None:
    """Write uint8 frames [T, H, W, 1 or 3] at `fps` as `path`'s extension says, with `metadata` as JSON in its comment.

    Each pixel becomes `enlarge` x `enlarge` pixels, but not in a zip of pictures, which is for programs. mp4 and webm are
    yuv420p (BT.709), which has even sizes only: an odd one gains a copy of its last row or column. `sound`, samples
    [1 or 2, n] in [-1, 1] and their rate, becomes the sound track of an mp4 (AAC) or webm (Opus). Raises FlowgenError where
    the file cannot be written.
    """
    suffix = path.suffix.lower()
    if suffix not in FORMATS:
        raise FlowgenError(f"{path}: cannot write {path.suffix or 'no extension'!r} (known: {', '.join(FORMATS)})")
    if frames.dtype != torch.uint8 or frames.ndim != 4 or frames.shape[-1] not in (1, 3) or not len(frames):
        raise FlowgenError(
            f"{path}: expected bytes [T, H, W, 1 or 3] to write, got {frames.dtype} {tuple(frames.shape)}"
        )
    if sound is not None and suffix not in (".mp4", ".webm"):
        raise FlowgenError(f"{path}: {suffix} has no sound; write .mp4 or .webm")
    comment = json.dumps(dict(metadata), ensure_ascii=False, default=str)
    if suffix == ".zip":
        with replacing(path) as temporary:
            _write_pictures(frames, fps, temporary, comment)
        return
    frames = frames.repeat_interleave(enlarge, 1).repeat_interleave(enlarge, 2).expand(-1, -1, -1, 3)
    with replacing(path) as temporary:
        if suffix == ".gif":
            _write_gif(frames, fps, temporary, comment)
        else:
            _write_video(_even(frames), fps, temporary, comment, sound)


def write_folder(frames: Tensor, fps: float, folder: Path, metadata: Mapping[str, Any]) -> None:
    """Write uint8 frames [T, H, W, 1 or 3] as a folder of what a zip holds: numbered PNG files and clip.json.

    A folder of such files is replaced. Raises FlowgenError where there is something else, or it cannot be written.
    """
    with replacing_folder(folder, own=r"\d+\.png|clip\.json") as temporary:
        for name, content in _files(frames, fps, dict(metadata)):
            (temporary / name).write_bytes(content)


def _write_pictures(frames: Tensor, fps: float, path: Path, comment: str) -> None:
    with zipfile.ZipFile(path, "w") as archive:  # stored: PNG is compressed already
        for name, content in _files(frames, fps, json.loads(comment)):
            archive.writestr(name, content)


def _files(frames: Tensor, fps: float, metadata: Any) -> Iterator[tuple[str, bytes]]:
    told = json.dumps({"fps": fps, "frames": len(frames), "comment": metadata}, ensure_ascii=False, default=str)
    yield RATE_FILE, told.encode()
    for i, frame in enumerate(frames.numpy()):
        png = io.BytesIO()
        Image.fromarray(frame[..., 0] if frame.shape[-1] == 1 else frame).save(png, format="PNG")
        yield f"{i:05d}.png", png.getvalue()


def _even(frames: Tensor) -> Tensor:
    _, height, width, _ = frames.shape
    if height % 2:
        frames = torch.cat([frames, frames[:, -1:]], 1)
    return torch.cat([frames, frames[:, :, -1:]], 2) if width % 2 else frames


def _write_video(frames: Tensor, fps: float, path: Path, comment: str, sound: tuple[Tensor, int] | None) -> None:
    kind, muxing = path.suffix.lower()[1:], {"movflags": "+faststart"} if path.suffix.lower() == ".mp4" else {}
    with av.open(str(path.absolute()), "w", format=kind, options=muxing) as container:
        container.metadata["comment"] = comment
        stream = _picture_track(container, kind, frames, fps)
        track = None if sound is None else _sound_track(container, kind, *sound)
        for packet in _encoded(stream, frames, 0):
            container.mux(packet)
        for packet in stream.encode(None):
            container.mux(packet)
        if track is not None and sound is not None:
            _write_sound(container, track, *sound)


def write_growing(
    parts: Iterator[Tensor], fps: float, path: Path, metadata: Mapping[str, Any], enlargement: Callable[[Tensor], int]
) -> None:
    """Write the parts, uint8 frames [T, H, W, 1 or 3], of one clip as they come; each is in the file, but for a frame, before
    the next is asked for: fragments in mp4, clusters in webm, which players take one by one.
    """
    kind = path.suffix.lower()[1:]
    muxing = {"flush_packets": "1", "movflags": "+frag_every_frame+empty_moov+default_base_moof"}
    if kind != "mp4":
        muxing = {"flush_packets": "1", "live": "1", "cluster_time_limit": "250"}
    with open(path, "wb", buffering=0) as file, av.open(_Forward(file), "w", format=kind, options=muxing) as container:
        container.metadata["comment"] = json.dumps(dict(metadata), ensure_ascii=False, default=str)
        stream, written = None, 0
        for part in parts:
            size = enlargement(part)
            frames = _even(part.repeat_interleave(size, 1).repeat_interleave(size, 2).expand(-1, -1, -1, 3))
            if stream is None:
                prompt = {"tune": "zerolatency"} if kind == "mp4" else {"lag-in-frames": "0", "deadline": "realtime"}
                stream = _picture_track(container, kind, frames, fps, prompt)
            for packet in _encoded(stream, frames, written):
                container.mux(packet)
            written += len(frames)
        for packet in [] if stream is None else stream.encode(None):
            container.mux(packet)


class _Forward(io.RawIOBase):
    """A file that is only written to its end: who reads along must not see what is there change."""

    def __init__(self, file: io.RawIOBase) -> None:
        self.file = file

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        return self.file.write(data) or 0


def _picture_track(
    container: Any, kind: str, frames: Tensor, fps: float, options: Mapping[str, str] | None = None
) -> Any:
    codec, own = "libx264", {"crf": "14", "preset": "medium"}
    if kind != "mp4":
        codec, own = "libvpx-vp9", {"crf": "18", "b": "0", "deadline": "good", "cpu-used": "4"}
    stream = container.add_stream(codec, rate=Fraction(fps).limit_denominator(1001), options={**own, **(options or {})})
    stream.height, stream.width, stream.pix_fmt = frames.shape[1], frames.shape[2], "yuv420p"
    context = stream.codec_context
    context.colorspace = context.color_primaries = context.color_trc = _BT709
    context.color_range = _STUDIO_RANGE
    return stream


def _encoded(stream: Any, frames: Tensor, start: int) -> Iterator[Any]:
    """Packets of frames [T, H, W, 3], the first of which is frame number `start`."""
    for frame in _pictures(frames, 1 / Fraction(stream.average_rate or stream.codec_context.framerate), start):
        studio = frame.reformat(
            format="yuv420p", dst_colorspace=_BT709, dst_color_range=_STUDIO_RANGE, interpolation=BICUBIC | EXACT
        )
        yield from stream.encode(studio)


_SOUND_RATE = 48000
"""Both codecs have it; their delay, which players skip, is shortest there."""


def _sound_track(container: Any, kind: str, samples: Tensor, rate: int) -> Any:
    layout = "mono" if len(samples) == 1 else "stereo"
    track = container.add_stream("aac" if kind == "mp4" else "libopus", rate=_SOUND_RATE, layout=layout)
    track.bit_rate = 96_000 * len(samples)
    return track


def _write_sound(container: Any, track: Any, samples: Tensor, rate: int) -> None:
    import torchaudio.functional

    samples = torchaudio.functional.resample(samples, rate, _SOUND_RATE).clamp(-1, 1)
    layout = "mono" if len(samples) == 1 else "stereo"
    frame = av.AudioFrame.from_ndarray(samples.contiguous().numpy(), format="fltp", layout=layout)
    frame.sample_rate, frame.time_base, frame.pts = _SOUND_RATE, Fraction(1, _SOUND_RATE), 0
    for packet in (*track.encode(frame), *track.encode(None)):
        container.mux(packet)


def _write_gif(frames: Tensor, fps: float, path: Path, comment: str) -> None:
    """One palette of up to 256 colours from all frames, exact where they have no more; delays in hundredths of a second."""
    hundredth = Fraction(1, 100)
    graph = av.filter.Graph()
    source = graph.add_buffer(
        width=frames.shape[2], height=frames.shape[1], format=av.VideoFormat("rgb24"), time_base=hundredth
    )
    split, sink = graph.add("split"), graph.add("buffersink")
    palette = graph.add("palettegen", "reserve_transparent=0:stats_mode=full")
    use = graph.add("paletteuse", "dither=sierra2_4a")
    source.link_to(split)
    split.link_to(palette, 0, 0)
    split.link_to(use, 1, 0)
    palette.link_to(use, 0, 1)
    use.link_to(sink)
    graph.configure()
    for i, frame in enumerate(_pictures(frames, hundredth)):
        frame.pts = round(100 * i / fps)
        source.push(frame)
    source.push(None)
    with av.open(
        str(path.absolute()), "w", format="gif", options={"loop": "0", "final_delay": str(round(100 / fps))}
    ) as container:
        # no transparency between frames: some viewers leave trails of it
        stream = container.add_stream(
            "gif", rate=Fraction(fps).limit_denominator(1001), options={"gifflags": "-transdiff"}
        )
        stream.height, stream.width, stream.pix_fmt = frames.shape[1], frames.shape[2], "pal8"
        stream.codec_context.time_base = hundredth
        for _ in range(len(frames)):
            for packet in stream.encode(sink.pull()):
                container.mux(packet)
        for packet in stream.encode(None):
            container.mux(packet)
    path.write_bytes(_with_comment(path.read_bytes(), comment.encode()))


def _with_comment(gif: bytes, comment: bytes) -> bytes:
    """A comment extension after the global colour table (GIF89a, 24); FFmpeg reads it and does not write it."""
    (flags,) = struct.unpack_from("<B", gif, 10)
    at = 13 + (3 * 2 ** ((flags & 7) + 1) if flags & 0x80 else 0)
    blocks = b"".join(bytes([len(part)]) + part for part in (comment[i : i + 255] for i in range(0, len(comment), 255)))
    return gif[:at] + b"\x21\xfe" + blocks + b"\x00" + gif[at:]


def _pictures(frames: Tensor, time_base: Fraction, start: int = 0) -> Iterator[av.VideoFrame]:
    for i, frame in enumerate(frames, start):
        picture = av.VideoFrame.from_ndarray(frame.contiguous().numpy(), format="rgb24")
        picture.pts, picture.time_base = i, time_base
        yield picture

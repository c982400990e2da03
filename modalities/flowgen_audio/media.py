"""Sound files in and out: soundfile where it knows the format, PyAV for the rest (m4a, opus, the sound of videos)."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from flowgen.data.shards import Source, readable
from flowgen.errors import FlowgenError
from flowgen.files import replacing

CODECS = {".wav": "pcm_s16le", ".flac": "flac", ".mp3": "libmp3lame", ".ogg": "libopus", ".opus": "libopus"}
MEDIA_TYPES = {
    ".wav": "audio/wav",
    ".flac": "audio/flac",
    ".mp3": "audio/mpeg",
    ".ogg": "audio/ogg",
    ".opus": "audio/ogg",
}
_OPUS = {".ogg", ".opus"}
_SOUNDFILE = {".wav", ".flac", ".ogg", ".mp3", ".aiff", ".aif", ".au", ".w64", ".caf"}


def read_samples(path: Source, start_s: float = 0.0, duration_s: float | None = None) -> tuple[Tensor, int]:
    """Samples float32 [channels, n] of a file or of a segment of it, and their rate.

    Seeks to the segment instead of decoding what lies before. Raises FlowgenError for what is missing, holds no sound,
    cannot be decoded, or ends before the segment begins.
    """
    if not path.is_file():
        raise FlowgenError(f"{path}: there is no such file")
    if path.stat().st_size == 0:
        raise FlowgenError(f"{path}: the file is empty")
    read = _read_soundfile if path.suffix.lower() in _SOUNDFILE else _read_av
    data, rate = read(path, start_s, duration_s)
    if data.shape[1] == 0:
        raise FlowgenError(f"{path}: no sound at {start_s:g} s; expected at least one sample")
    if not np.isfinite(data).all():
        raise FlowgenError(f"{path}: holds samples that are not finite numbers")
    return torch.from_numpy(np.ascontiguousarray(data)), rate


def _read_soundfile(path: Source, start_s: float, duration_s: float | None) -> tuple[np.ndarray, int]:
    import soundfile

    try:
        with readable(path) as source, soundfile.SoundFile(source) as file:
            start = min(round(start_s * file.samplerate), file.frames)
            file.seek(start)
            frames = -1 if duration_s is None else round(duration_s * file.samplerate)
            return file.read(frames, dtype="float32", always_2d=True).T, file.samplerate
    except (soundfile.LibsndfileError, RuntimeError) as error:
        if path.suffix.lower() == ".ogg":  # libsndfile refuses Opus of a single page (under a second)
            return _read_av(path, start_s, duration_s)
        raise FlowgenError(f"{path}: cannot be read as sound ({_reason(error)})") from error


def _read_av(path: Source, start_s: float, duration_s: float | None) -> tuple[np.ndarray, int]:
    import av

    try:
        with readable(path) as source, av.open(source) as container:
            if not container.streams.audio:
                raise FlowgenError(f"{path}: holds no sound stream")
            stream = container.streams.audio[0]
            rate = stream.rate
            begin = stream.start_time or 0  # a Matroska stream may start at 3 ms
            base = float(stream.time_base or 1)
            if start_s > 0:
                container.seek(begin + int(start_s / base), stream=stream)  # to the packet at or before start_s
            first = round(start_s * rate)
            last = None if duration_s is None else first + round(duration_s * rate)
            to_planar = av.AudioResampler(format="fltp")
            parts, position = [], None
            for frame in container.decode(stream):
                if position is None and start_s == 0:
                    position = 0  # whatever the first timestamp says: decoders drop a few milliseconds of priming
                elif position is None:
                    position = round(((begin if frame.pts is None else frame.pts) - begin) * base * rate)
                for block in (out.to_ndarray() for out in to_planar.resample(frame)):
                    low = max(first - position, 0)
                    high = block.shape[1] if last is None else min(last - position, block.shape[1])
                    if high > low:
                        parts.append(block[:, low:high])
                    position += block.shape[1]
                if last is not None and position >= last:
                    break
            channels = stream.channels
            return np.concatenate(parts, 1) if parts else np.zeros((channels, 0), np.float32), rate
    except av.error.FFmpegError as error:
        raise FlowgenError(f"{path}: cannot be read as sound ({_reason(error)})") from error


def write_samples(samples: Tensor, rate: int, path: Path, metadata: Mapping[str, Any]) -> None:
    """Write samples [channels, n] in [-1, 1]; `metadata` becomes JSON in the file's comment tag.

    The file appears whole or not at all. Raises FlowgenError for an unknown extension or an output that cannot be written.
    """
    if path.suffix.lower() not in CODECS:
        raise FlowgenError(f"{path}: cannot write {path.suffix or 'no extension'!r} (known: {', '.join(CODECS)})")
    data = _encode(samples, rate, path.suffix.lower(), metadata)
    with replacing(path) as temporary:
        temporary.write_bytes(data)


def _encode(samples: Tensor, rate: int, suffix: str, metadata: Mapping[str, Any]) -> bytes:
    import av

    layout = "mono" if samples.shape[0] == 1 else "stereo"
    pcm = (samples.clamp(-1, 1) * 32767).round().to(torch.int16).T.contiguous().numpy()
    frame = av.AudioFrame.from_ndarray(pcm.reshape(1, -1), format="s16", layout=layout)
    frame.sample_rate = rate
    out = io.BytesIO()
    with av.open(out, "w", format="ogg" if suffix in _OPUS else suffix[1:]) as container:
        container.metadata["comment"] = json.dumps(dict(metadata), ensure_ascii=False, default=str)
        container.metadata["encoder"] = "flowgen"
        # opus knows five rates only; the resampler takes care of it
        stream = container.add_stream(CODECS[suffix], rate=48000 if suffix in _OPUS else rate, layout=layout)
        for packet in stream.encode(frame):
            container.mux(packet)
        for packet in stream.encode(None):
            container.mux(packet)
    return out.getvalue()


def _reason(error: Exception) -> str:
    return str(error).splitlines()[0].rstrip(".") if str(error) else type(error).__name__


def header_frames(path: Source) -> int | None:
    """Frames that a file announces, None where it announces none: what a truncated file no longer holds."""
    if path.suffix.lower() == ".wav":
        return _wav_frames(path)
    if path.suffix.lower() in _SOUNDFILE:
        import soundfile

        try:
            with readable(path) as source:
                return soundfile.info(source).frames
        except soundfile.LibsndfileError:
            if path.suffix.lower() != ".ogg":  # see _read_soundfile
                raise FlowgenError(f"{path}: cannot be read as sound") from None
    import av

    with readable(path) as source, av.open(source) as container:
        stream = container.streams.audio[0]
        if stream.duration is None or stream.time_base is None:
            return None
        return round(float(stream.duration * stream.time_base) * stream.rate)


def _wav_frames(path: Source) -> int | None:
    """From the size of the data chunk: libsndfile silently reads a truncated file as a short one."""
    with path.open("rb") as file:
        if file.read(4) != b"RIFF":
            return None
        file.seek(12)
        align = 0
        while len(header := file.read(8)) == 8:
            name, size = header[:4], int.from_bytes(header[4:], "little")
            if name == b"data":
                # a writer to a pipe leaves the size open
                return size // align if align and size < 2**31 else None
            content = file.read(size + size % 2) if name == b"fmt " else file.seek(size + size % 2, 1)
            if isinstance(content, bytes):
                align = int.from_bytes(content[12:14], "little")
    return None

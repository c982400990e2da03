"""Sound files in and out: soundfile where it knows the format, PyAV for the rest (m4a, opus, the sound of videos)."""

from __future__ import annotations

import io
import itertools
import json
import math
import sys
from collections.abc import Iterator, Mapping
from fractions import Fraction
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
GROWING = {suffix: kind for suffix, kind in MEDIA_TYPES.items() if suffix != ".flac"}
"""What plays before its end is written; the header of FLAC holds its length and checksum."""
_OPUS = {".ogg", ".opus"}
_MP3_RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000)
_SOUNDFILE = {".wav", ".flac", ".ogg", ".aiff", ".aif", ".aifc", ".au", ".snd", ".w64", ".caf"}
SUFFIXES = (
    *sorted(_SOUNDFILE), ".mp3", ".opus", ".oga", ".m4a", ".aac", ".ac3", ".mka", ".wma", ".amr", ".wv", ".mp4", ".mkv", ".webm", ".mov"
)  # fmt: skip
_EXACT = ("mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm", "ogg", "flac", "wav")
"""Containers (by ffmpeg's names) whose seeks and timestamps are exact. The others are read from their beginning."""
_WARM_UP_S = 1.0  # decoded and dropped before a segment: frames of MP3 and AAC build on those before
_JUNK = 3
"""Packets of an MP3 file that may hold no sound."""
_BLOCK = 1 << 16
_HIGHEST_RATE = 4_000_000
"""More than any recorder's: a damaged header may say gigahertz, for which resampling takes all memory."""


def read_samples(path: Source, start_s: float = 0.0, duration_s: float | None = None) -> tuple[Tensor, int]:
    """Samples float32 [channels, n] of a file or of a segment of it, and their rate.

    Raises FlowgenError for what is missing, holds no sound, cannot be decoded, or ends before the segment begins.
    """
    found = list(blocks(path, start_s, duration_s))
    if not found:
        raise FlowgenError(f"{path}: no sound at {start_s:g} s; expected at least one sample")
    return torch.from_numpy(np.concatenate([block for block, _ in found], 1)), found[0][1]


def blocks(path: Source, start_s: float = 0.0, duration_s: float | None = None) -> Iterator[tuple[np.ndarray, int]]:
    """The same, a block after the other: (float32 [channels, n], rate). All have the channels and the rate of the first."""
    import av

    try:
        if not path.is_file():
            raise FlowgenError(f"{path}: there is no such file")
        if path.stat().st_size == 0:
            raise FlowgenError(f"{path}: the file is empty")
        known = path.suffix.lower() in _SOUNDFILE and not _is_chained(path)
        read = _soundfile_blocks if known else _av_blocks
        for block, rate in read(path, start_s, duration_s):
            if rate > _HIGHEST_RATE:
                raise FlowgenError(f"{path}: its header says {rate} samples a second (up to {_HIGHEST_RATE} are read)")
            if not np.isfinite(block).all():
                raise FlowgenError(f"{path}: holds samples that are not finite numbers")
            if block.shape[1]:
                yield block, rate
    except (OSError, av.error.FFmpegError) as error:
        raise FlowgenError(f"{path}: cannot be read as sound ({_reason(error)})") from error


def _soundfile_blocks(path: Source, start_s: float, duration_s: float | None) -> Iterator[tuple[np.ndarray, int]]:
    import soundfile

    begun = False
    try:
        with readable(path) as source, soundfile.SoundFile(source) as file:
            rate = file.samplerate
            start = min(round(start_s * rate), file.frames)
            left = math.inf if duration_s is None else round(duration_s * rate)
            if start and file.seekable():
                file.seek(start)
            elif start:  # compressed for the telephone
                file.read(start, dtype="float32")
            while left > 0:
                block = file.read(int(min(left, _BLOCK)), dtype="float32", always_2d=True).T
                if not block.shape[1]:
                    return
                left -= block.shape[1]
                begun = True
                yield block, rate
    except (soundfile.LibsndfileError, RuntimeError) as error:
        if begun:
            raise FlowgenError(f"{path}: cannot be read as sound ({_reason(error)})") from error
        # libsndfile refuses Opus of a single page, some codecs in WAV, and what has the extension of another format
        yield from _av_blocks(path, start_s, duration_s)


def _av_blocks(path: Source, start_s: float, duration_s: float | None) -> Iterator[tuple[np.ndarray, int]]:
    import av

    with readable(path) as source, av.open(source, metadata_errors="replace") as container:
        if not container.streams.audio:
            raise FlowgenError(f"{path}: holds no sound stream")
        stream = container.streams.audio[0]
        frames = _frames(container, stream, start_s, path)
        rate, first, last, position = 0, 0, math.inf, None
        for frame in _alike(frames):
            if not rate:
                rate = frame.sample_rate
                first = round(start_s * rate)
                last = math.inf if duration_s is None else first + round(duration_s * rate)
            if position is None:
                # at the beginning whatever the timestamp says: decoders drop a few milliseconds of priming
                position = 0 if frame.pts is None else frame.pts
            block = frame.to_ndarray()
            low, high = max(first - position, 0), min(last - position, block.shape[1])
            if high > low:
                yield np.ascontiguousarray(block[:, low : int(high)]), rate
            position += block.shape[1]
            if position >= last:
                return


def _frames(container: Any, stream: Any, start_s: float, path: Source) -> Iterator[Any]:
    """Decoded frames from before `start_s`; the timestamp of the first is in samples from the beginning of the sound."""
    import av

    begin, base = stream.start_time or 0, float(stream.time_base or 1)
    warm, exact = max(start_s - _WARM_UP_S, 0.0), container.format.name in _EXACT and not _is_chained(path)
    if warm > 0 and exact:
        container.seek(begin + int(warm / base), stream=stream)  # to the packet at or before
    # a chain begins its timestamps at 0 again, and packets of WMA have none of their frames'
    counted = warm == 0 or (not exact and container.format.name in ("ogg", "asf"))
    started, junk = False, 0
    for packet in container.demux(stream):
        if not started and not counted and packet.pts is not None and (packet.pts - begin) * base < warm - 1e-9:
            continue
        try:
            decoded = packet.decode()
        except av.error.InvalidDataError:
            junk += container.format.name == "mp3"  # a tag in the middle, where files are one after the other
            if (started or counted) and not 0 < junk <= _JUNK:
                raise
            continue  # or it builds on frames that were not decoded
        for frame in decoded:
            if not started:
                at = 0 if counted or frame.pts is None else (frame.pts - begin) * base
                if at > start_s + 1e-3:  # the seek landed late
                    raise FlowgenError(f"{path}: cannot be read from {start_s:g} s on; the file may be damaged")
                frame.pts, started = round(at * frame.sample_rate), True
            yield frame


def _alike(frames: Iterator[Any]) -> Iterator[Any]:
    """Frames as planar floats, all with the channels and the rate of the first."""
    import av

    convert, first, key = None, None, None
    for frame in frames:
        found = (frame.format.name, frame.layout.name, frame.sample_rate)
        first = first or (frame.layout.name, frame.sample_rate)
        if convert is None or found != key:
            if convert is not None:
                yield from convert.resample(None)
            convert, key = av.AudioResampler(format="fltp", layout=first[0], rate=first[1]), found
        start = frame.pts
        for i, out in enumerate(convert.resample(frame)):
            out.pts = start if i == 0 else None
            yield out
    if convert is not None:
        yield from convert.resample(None)


def _is_chained(path: Source) -> bool:
    """Whether an Ogg file is several, one after the other: its last page is of a stream that does not begin at its start."""
    if path.suffix.lower() not in (".ogg", ".opus", ".oga"):
        return False
    with path.open("rb") as file:
        head = file.read(_BLOCK)
        file.seek(max(0, path.stat().st_size - _BLOCK))
        tail = file.read(_BLOCK)
    serials, at = set(), 0
    while head[at : at + 4] == b"OggS" and len(head) > at + 27 and head[at + 5] & 2:  # pages that begin a stream
        serials.add(head[at + 14 : at + 18])
        segments = head[at + 26]
        at += 27 + segments + sum(head[at + 27 : at + 27 + segments])
    last = tail.rfind(b"OggS")
    return bool(serials) and last >= 0 and tail[last + 14 : last + 18] not in serials


def write_samples(samples: Tensor, rate: int, path: Path, metadata: Mapping[str, Any]) -> None:
    """Write samples [channels, n] in [-1, 1]; `metadata` becomes JSON in the file's comment tag.

    The file appears whole or not at all. Raises FlowgenError for an unknown extension or an output that cannot be written.
    """
    if path.suffix.lower() not in CODECS:
        raise FlowgenError(f"{path}: cannot write {path.suffix or 'no extension'!r} (known: {', '.join(CODECS)})")
    if beyond := int((samples.abs() > 1 + 1e-4).sum()):
        over = 20 * math.log10(float(samples.abs().max()))
        print(f"{path}: {beyond} samples lie up to {over:.1f} dB beyond full scale and are cut off", file=sys.stderr)
    if path.suffix.lower() == ".mp3" and rate not in _MP3_RATES:
        raise FlowgenError(
            f"{path}: MP3 has no {rate} samples a second (it has {', '.join(map(str, _MP3_RATES))}); write .wav or .flac"
        )
    data = _encode(samples, rate, path.suffix.lower(), metadata)
    with replacing(path) as temporary:
        temporary.write_bytes(data)


def _encode(samples: Tensor, rate: int, suffix: str, metadata: Mapping[str, Any]) -> bytes:
    out = io.BytesIO()
    _mux(iter([samples]), rate, out, suffix, metadata)
    return out.getvalue()


def write_growing(parts: Iterator[Tensor], rate: int, path: Path, metadata: Mapping[str, Any]) -> None:
    """Write the parts [channels, n] of one sound as they come; each is in the file before the next is asked for."""
    with open(path, "wb", buffering=0) as file:
        _mux(
            parts,
            rate,
            file,
            path.suffix.lower(),
            metadata,
            _prompt(path.suffix.lower()),
        )


def _prompt(suffix: str) -> dict[str, str]:
    """Muxing that keeps nothing back: Ogg in pages of 0.1 s in place of one second."""
    return {"flush_packets": "1", **({"page_duration": "100000"} if suffix in _OPUS else {})}


def _mux(
    parts: Iterator[Tensor],
    rate: int,
    out: Any,
    suffix: str,
    metadata: Mapping[str, Any],
    options: Mapping[str, str] | None = None,
) -> None:
    import av

    first = next(parts)
    layout = "mono" if first.shape[0] == 1 else "stereo"
    kind = "ogg" if suffix in _OPUS else suffix[1:]
    with av.open(out, "w", format=kind, options=dict(options or {})) as container:
        container.metadata["comment"] = json.dumps(dict(metadata), ensure_ascii=False, default=str)
        container.metadata["encoder"] = "flowgen"
        # opus knows five rates only; the resampler takes care of it
        stream = container.add_stream(CODECS[suffix], rate=48000 if suffix in _OPUS else rate, layout=layout)
        written = 0
        for samples in itertools.chain([first], parts):
            pcm = (samples.clamp(-1, 1) * 32767).round().to(torch.int16).T.contiguous().numpy()
            frame = av.AudioFrame.from_ndarray(pcm.reshape(1, -1), format="s16", layout=layout)
            frame.sample_rate, frame.pts, frame.time_base = rate, written, Fraction(1, rate)
            written += len(pcm)
            for packet in stream.encode(frame):
                container.mux(packet)
        for packet in stream.encode(None):
            container.mux(packet)


def _reason(error: Exception) -> str:
    import av

    if isinstance(error, (OSError, av.error.FFmpegError)) and error.strerror:
        return error.strerror
    return str(error).splitlines()[0].rstrip(".") if str(error) else type(error).__name__


def header_frames(path: Source) -> int | None:
    """Frames that a file announces, None where it announces none or guesses: what a truncated file no longer holds."""
    suffix = path.suffix.lower()
    if suffix == ".wav":
        return _wav_frames(path)
    if suffix in _SOUNDFILE - {".ogg"}:
        import soundfile

        try:
            with readable(path) as source:
                return soundfile.info(source).frames or None
        except soundfile.LibsndfileError:
            return None
    import av

    try:
        with readable(path) as source, av.open(source, metadata_errors="replace") as container:
            stream = next(iter(container.streams.audio), None)
            known = container.format.name == _EXACT[0] or (container.format.name == "mp3" and _has_length(path))
            if not known or stream is None or stream.duration is None or stream.time_base is None:
                return None
            return round(float(stream.duration * stream.time_base) * stream.rate)
    except (OSError, av.error.FFmpegError):  # what another library has read
        return None


def _has_length(path: Source) -> bool:
    """Whether an MP3 file says how long it is; otherwise ffmpeg guesses by its first bit rate."""
    with path.open("rb") as file:
        head = file.read(10)
        tag = (
            10 + sum(byte << shift for byte, shift in zip(head[6:10], (21, 14, 7, 0), strict=True))
            if head[:3] == b"ID3"
            else 0
        )
        file.seek(tag)
        first = file.read(4096)
    return any(mark in first for mark in (b"Xing", b"Info", b"VBRI"))


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
                return size // align if align and size < 2**31 - 1 else None
            content = file.read(size + size % 2) if name == b"fmt " else file.seek(size + size % 2, 1)
            if isinstance(content, bytes) and int.from_bytes(content[:2], "little") in _PLAIN_WAV:
                align = int.from_bytes(content[12:14], "little")
    return None


_PLAIN_WAV = (1, 3, 6, 7, 0xFFFE)
"""Format tags of WAV in which a block is one sample of each channel: PCM, float, A-law, mu-law, extensible."""

"""Sound files: written ones are judged by ffprobe and ffmpeg, read ones by what ffmpeg and sox made."""

from __future__ import annotations

import json
import math
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from flowgen_audio.media import CODECS
from flowgen_audio.modality import Audio

from flowgen.errors import FlowgenError, UsageError
from flowgen.media.clip import Clip

METADATA = {"seed": 3, "conditions": {"pitch": "C#4"}, "solver": "heun", "text": "Ü, \"quoted\" = ; 'x'"}


def tone(rate: int, seconds: float, hz: float = 440.0, channels: int = 1, level: float = 0.5) -> torch.Tensor:
    time = torch.arange(round(seconds * rate)) / rate
    return torch.stack([level * torch.sin(2 * math.pi * hz * (i + 1) * time) for i in range(channels)])


def probe(path: Path) -> dict:
    command = ["ffprobe", "-v", "error", "-of", "json", "-show_format", "-show_streams", str(path)]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def ffmpeg(*arguments: object) -> bytes:
    command = ["ffmpeg", "-v", "error", "-y", *map(str, arguments)]
    return subprocess.run(command, check=True, capture_output=True).stdout


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("suffix", sorted(CODECS))
def test_a_written_file_is_what_ffmpeg_hears_and_carries_the_settings(
    tmp_path: Path, suffix: str, channels: int
) -> None:
    audio = Audio(16000, channels)
    data, path = tone(16000, 0.7, channels=channels), tmp_path / f"out{suffix}"
    audio.write([Clip(data, 16000)], path, METADATA)
    found = probe(path)
    tags = {**found["format"].get("tags", {}), **found["streams"][0].get("tags", {})}
    comment = next(value for key, value in tags.items() if key.lower() == "comment")
    assert json.loads(comment) == METADATA
    assert found["streams"][0]["channels"] == channels
    heard = np.frombuffer(ffmpeg("-i", path, "-f", "f32le", "-ar", 16000, "-"), np.float32).reshape(-1, channels).T
    lossless = suffix in (".wav", ".flac")
    n = data.shape[1]
    if lossless:
        assert heard.shape == data.shape
    assert abs(heard.shape[1] - n) < 0.1 * 16000
    middle = slice(n // 4, n // 2)
    # levels: a lossy codec may move the phase, not the loudness
    for got, want in zip(heard, data.numpy(), strict=True):
        assert np.sqrt((got[middle] ** 2).mean()) == pytest.approx(np.sqrt((want[middle] ** 2).mean()), rel=0.1)
    if lossless:
        assert np.abs(heard - data.numpy()).max() < 1 / 32000


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".mp3", ".ogg", ".opus", ".m4a", ".mp4", ".mkv", ".webm"])
def test_reads_what_ffmpeg_wrote_at_another_rate_and_seeks(tmp_path: Path, suffix: str) -> None:
    """1 s of 300 Hz, then 1 s of 500 Hz, then 1 s of 800 Hz, in stereo at 48 kHz; video formats get a picture too."""
    path = tmp_path / f"three{suffix}"
    source = "sine=300:d=1:r=48000[a];sine=500:d=1:r=48000[b];sine=800:d=1:r=48000[c];[a][b][c]concat=n=3:v=0:a=1"
    inputs = ["-f", "lavfi", "-i", source]
    if suffix in (".mp4", ".mkv"):
        inputs += ["-f", "lavfi", "-i", "color=d=3:s=64x64:r=10", "-map", "0:a", "-map", "1:v"]
    ffmpeg(*inputs, "-ac", "2", path)
    audio = Audio(16000, 1)
    whole = audio.read(path)
    assert whole.data.shape[1] / 16000 == pytest.approx(3.0, abs=0.08)
    assert whole.rate == 16000
    for second, hz in enumerate((300, 500, 800)):
        part = audio.read(path, start_s=second + 0.25, duration_s=0.5)
        assert part.data.shape == (1, 8000)
        spectrum = torch.fft.rfft(part.data[0] * torch.hann_window(8000)).abs()
        assert int(spectrum.argmax()) * 2 == pytest.approx(hz, abs=4)
    stereo = Audio(48000, 2).read(path, duration_s=0.5)
    assert stereo.data.shape == (2, 24000)


def test_resampling_keeps_frequency_and_level(tmp_path: Path) -> None:
    Audio(44100, 1).write([Clip(tone(44100, 1.0, 1000.0), 44100)], tmp_path / "t.wav", {})
    data = Audio(16000, 1).read(tmp_path / "t.wav").data
    want = tone(16000, 1.0, 1000.0)
    assert data.shape == want.shape
    assert (data - want)[:, 100:-100].abs().max() < 0.01


def test_mono_is_the_mean_of_stereo_and_stereo_of_mono_is_twice_the_same(tmp_path: Path) -> None:
    data = torch.stack([tone(16000, 0.2)[0], torch.zeros(3200)])
    Audio(16000, 2).write([Clip(data, 16000)], tmp_path / "s.wav", {})
    mono = Audio(16000, 1).read(tmp_path / "s.wav").data
    assert torch.allclose(mono[0], data[0] / 2, atol=1e-4)
    Audio(16000, 1).write([Clip(data[:1], 16000)], tmp_path / "m.wav", {})
    both = Audio(16000, 2).read(tmp_path / "m.wav").data
    assert torch.equal(both[0], both[1])


def test_what_overshoots_is_clipped_not_wrapped(tmp_path: Path) -> None:
    Audio(16000, 1).write([Clip(torch.tensor([[3.0, -3.0, 0.0, 1.0]]), 16000)], tmp_path / "c.wav", {})
    assert Audio(16000, 1).read(tmp_path / "c.wav").data[0].tolist() == pytest.approx([1, -1, 0, 1], abs=1e-4)


@pytest.mark.parametrize("suffix", [".wav", ".mp3", ".m4a", ".flac"])
@pytest.mark.parametrize("content", [b"", b"this is no sound" * 50])
def test_a_file_that_is_no_sound_is_one_sentence_that_names_it(tmp_path: Path, suffix: str, content: bytes) -> None:
    path = tmp_path / f"bad{suffix}"
    path.write_bytes(content)
    with pytest.raises(FlowgenError, match="bad") as caught:
        Audio().read(path)
    assert "\n" not in str(caught.value)


def test_a_header_that_says_gigahertz_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.wav"
    soundfile.write(path, np.zeros(100), 8000)
    data = bytearray(path.read_bytes())
    data[24:28] = (1_986_628_945).to_bytes(4, "little")
    path.write_bytes(data)
    with pytest.raises(FlowgenError, match=r"x\.wav: its header says 1986628945 samples a second"):
        Audio(8000, 1, 0.2).read(path)


def test_a_video_without_sound_and_a_segment_past_the_end_are_refused(tmp_path: Path) -> None:
    ffmpeg("-f", "lavfi", "-i", "color=d=1:s=64x64:r=10", tmp_path / "mute.mp4")
    with pytest.raises(FlowgenError, match="no sound stream"):
        Audio().read(tmp_path / "mute.mp4")
    Audio().write([Clip(tone(16000, 0.5), 16000)], tmp_path / "t.wav", {})
    with pytest.raises(FlowgenError, match=r"no sound at 0\.5 s"):
        Audio().read(tmp_path / "t.wav", start_s=0.5)
    with pytest.raises(FlowgenError, match="no such file"):
        Audio().read(tmp_path / "absent.wav")


def test_an_unknown_extension_and_several_clips_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FlowgenError, match=r"MP3 has no 10000 samples a second .*write .wav or .flac"):
        Audio(10000).write([Clip(tone(10000, 0.1), 10000)], tmp_path / "x.mp3", {})
    clip = Clip(tone(16000, 0.1), 16000)
    with pytest.raises(FlowgenError, match=r"\.xyz"):
        Audio().write([clip], tmp_path / "o.xyz", {})
    with pytest.raises(UsageError, match="1 clip, got 2"):
        Audio().write([clip, clip], tmp_path / "o.wav", {})
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Path, data: bytes) -> int:
        with open(self, "wb") as file:
            file.write(data[:100])
        raise OSError(28, os.strerror(28))

    target = tmp_path / "o.wav"
    target.write_bytes(b"what was there")
    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(FlowgenError, match=r"o\.wav.*No space left on device"):
        Audio().write([Clip(tone(16000, 0.1), 16000)], target, {})
    assert [p.read_bytes() for p in tmp_path.iterdir()] == [b"what was there"]


def test_an_output_below_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(FlowgenError, match="cannot write"):
        Audio().write([Clip(tone(16000, 0.1), 16000)], tmp_path / "file" / "o.wav", {})


def test_a_sheet_shows_every_clip_where_its_energy_is(tmp_path: Path) -> None:
    from PIL import Image

    clips = [Clip(tone(16000, 0.5, hz), 16000) for hz in (1000.0, 6000.0)]
    Audio().sheet(clips, tmp_path / "s.png", ["low", "high"])
    picture = np.asarray(Image.open(tmp_path / "s.png").convert("RGB")).astype(float)
    width = picture.shape[1] // 2
    dark = picture.sum(2) < 60  # the magma colours of -80 dB
    for half, bright_is_low in ((picture[:, :width], True), (picture[:, width:], False)):
        colour = half[..., 0] - half[..., 2]
        rows = np.where((colour > 60).sum(1) > width / 3)[0]
        inside = np.where(dark.sum(1) > width / 3)[0]
        assert (rows.mean() > inside.mean()) == bright_is_low


@pytest.mark.parametrize("options", [{"sample_rate": 0}, {"channels": 3}, {"duration_s": 0.0}])
def test_impossible_formats_are_refused(options: dict) -> None:
    with pytest.raises(UsageError, match=f"modality.{next(iter(options))}"):
        Audio(**options)

"""Sound files of strangers: made by ffmpeg, compared with what ffmpeg decodes of them."""

import math
import struct
import subprocess
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from flowgen_audio.conversion import mixed, resampled
from flowgen_audio.folder import AudioFolder
from flowgen_audio.media import read_samples
from flowgen_audio.modality import Audio
from flowgen_audio.survey import examine

from flowgen.errors import FlowgenError
from flowgen.media.clip import Clip

RATE = 44100


def ffmpeg(*arguments):
    command = ["ffmpeg", "-v", "error", "-y", *map(str, arguments)]
    return subprocess.run(command, check=True, capture_output=True).stdout


def decoded(path, channels):
    """What ffmpeg hears, [channels, n]."""
    return np.frombuffer(ffmpeg("-i", path, "-f", "f32le", "-"), np.float32).reshape(-1, channels).T


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """Four seconds of stereo whose every part is unlike the others: a sweep, and noise that grows."""
    t = np.arange(4 * RATE) / RATE
    sweep = 0.4 * np.sin(2 * np.pi * (200 * t + 300 * t**2))
    noise = 0.05 * t * np.random.default_rng(0).standard_normal(len(t))
    path = tmp_path_factory.mktemp("sound") / "source.wav"
    soundfile.write(path, np.stack([sweep + noise, sweep - noise], 1), RATE)
    return path


def alike(whole, part, first):
    there, part = whole[:, first : first + part.shape[1]].double(), part.double()
    return (
        float((there * part).sum() / (there.norm() * part.norm())) if first >= 0 and there.shape == part.shape else 0.0
    )


def shifts(rate, exact):
    """Samples that a segment may be off: none, or 3 ms where timestamps are coarse."""
    return range(1) if exact else range(-round(0.003 * rate), round(0.003 * rate) + 1)


FORMATS = {
    "wav": [], "flac": [], "aiff": [], "au": [], "w64": [], "caf": ["-c:a", "pcm_s16le"],
    "mp3": [], "ogg": ["-c:a", "libvorbis"], "opus": [], "m4a": [], "aac": [], "ac3": [], "wma": [], "mka": [], "mkv": [],
    "webm": [], "mov": [], "wv": [], "ts.mp3": ["-write_xing", 0, "-q:a", 4, "-f", "mp3"],
}  # fmt: skip


@pytest.mark.parametrize("suffix", FORMATS)
def test_any_segment_is_that_part_of_the_whole(source, tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    ffmpeg("-i", source, *FORMATS[suffix], path)
    whole, rate = read_samples(path)
    theirs = decoded(path, 2)
    assert abs(whole.shape[1] - theirs.shape[1]) <= 0.05 * rate
    assert examine(path).problem == ""
    assert examine(path).duration_s == pytest.approx(whole.shape[1] / rate)
    for start_s in (0.0, 0.3, 1.234, 2.5, 3.1):
        part, _ = read_samples(path, start_s, 0.4)
        assert part.shape == (2, round(0.4 * rate))
        exact = suffix in ("wav", "flac", "aiff", "au", "w64", "caf", "mp3", "opus", "wv", "ts.mp3")
        likeness = max(alike(whole, part, round(start_s * rate) + shift) for shift in shifts(rate, exact))
        assert likeness > (0.99999 if exact else 0.96), (suffix, start_s)  # AAC and AC-3 fill in noise of their own


def test_what_a_header_does_not_say_is_read_to_the_end(source, tmp_path):
    """A pipe's WAV, files one after the other, and a chain of Ogg: ffmpeg hears as much."""
    (tmp_path / "pipe.wav").write_bytes(ffmpeg("-i", source, "-f", "wav", "-"))
    for suffix, options in (("mp3", []), ("aac", []), ("ogg", ["-c:a", "libvorbis"]), ("opus", [])):
        ffmpeg("-i", source, *options, tmp_path / f"one.{suffix}")
        one = (tmp_path / f"one.{suffix}").read_bytes()
        ffmpeg("-i", source, "-af", "volume=0.5", "-serial_offset" if suffix in ("ogg", "opus") else "-t",
               7 if suffix in ("ogg", "opus") else 4, *options, tmp_path / f"two.{suffix}")  # fmt: skip
        (tmp_path / f"both.{suffix}").write_bytes(one + (tmp_path / f"two.{suffix}").read_bytes())
    assert examine(tmp_path / "pipe.wav").duration_s == pytest.approx(4.0, abs=1e-3)
    for suffix in ("mp3", "aac", "ogg", "opus"):
        facts = examine(tmp_path / f"both.{suffix}")
        assert facts.problem == ""
        assert facts.duration_s == pytest.approx(8.0, abs=0.15), suffix
        whole, rate = read_samples(tmp_path / f"both.{suffix}")
        part, _ = read_samples(tmp_path / f"both.{suffix}", 5.0, 0.5)
        off = (
            range(-2 * 1152, 2 * 1152 + 1, 1) if suffix == "mp3" else (0,)
        )  # a tag between the files counts as a frame
        assert max(alike(whole[:1], part[:1, :4000], 5 * rate + shift) for shift in off) > 0.96, suffix


@pytest.mark.parametrize("suffix", ["wav", "flac", "m4a", "mp3"])
def test_what_is_cut_off_is_truncated_or_corrupt(source, tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    ffmpeg("-i", source, *(["-movflags", "+faststart"] if suffix == "m4a" else []), path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert examine(path).problem.split(":")[0] in ("truncated", "corrupt")


def test_surround_goes_to_two_channels_as_the_standard_says(tmp_path):
    rng = np.random.default_rng(1)
    for count, layout in ((5, "5.0"), (6, "5.1"), (8, "7.1")):
        soundfile.write(tmp_path / "s.wav", 0.1 * rng.standard_normal((4000, count)), 8000, subtype="FLOAT")
        raw = ffmpeg("-i", tmp_path / "s.wav", "-af", f"aformat=channel_layouts={layout}", "-ac", 2, "-f", "f32le", "-")
        theirs = np.frombuffer(raw, np.float32).reshape(-1, 2).T
        ours = mixed(read_samples(tmp_path / "s.wav")[0], 2).numpy()
        scale = float((ours * theirs).sum() / (theirs**2).sum())  # ffmpeg may turn all of it down
        assert np.abs(ours - scale * theirs).max() < 1e-3, layout
        assert scale >= 0.99
    with pytest.raises(FlowgenError, match="16 channels"):
        mixed(torch.zeros(16, 10), 2)
    soundfile.write(tmp_path / "many.wav", 0.1 * rng.standard_normal((4000, 16)), 8000)
    assert examine(tmp_path / "many.wav").problem.startswith("channels: 16")


def test_a_centre_is_heard_in_mono_and_stereo():
    centre = torch.zeros(6, 100)
    centre[2] = 0.5
    assert torch.allclose(mixed(centre, 2), torch.full((2, 100), 0.5 * math.sqrt(0.5)))
    assert torch.allclose(mixed(centre, 1), torch.full((1, 100), 0.5 * math.sqrt(0.5)))


@pytest.mark.parametrize(("rate", "target"), [(44099, 16000), (22254, 16000), (16000, 44101), (48000, 44100)])
def test_rates_of_large_ratios_keep_tone_level_and_length(rate, target):
    n, hz = rate, 1000.0
    wave = (0.5 * torch.sin(2 * math.pi * hz * torch.arange(n) / rate)).expand(2, -1)
    out = resampled(wave, rate, target)
    assert out.shape == (2, target)
    want = 0.5 * torch.sin(2 * math.pi * hz * torch.arange(target) / target)
    assert (out - want)[:, 200:-200].abs().max() < 5e-3


def folder_of(tmp_path, wave, rate=16000, subtype="FLOAT"):
    (tmp_path / "s").mkdir(exist_ok=True)
    soundfile.write(tmp_path / "s" / "a.wav", wave, rate, subtype=subtype)
    return str(tmp_path / "s")


@pytest.mark.parametrize("scale", [3.0, 2.0**15, 2.0**23])
@pytest.mark.parametrize("loudness", [None, -23])
def test_nothing_is_cut_off_and_floats_of_integers_are_known(tmp_path, scale, loudness):
    t = np.arange(16000) / 16000
    where = folder_of(tmp_path, scale * np.sin(2 * np.pi * 440 * t))
    data = AudioFolder(Audio(16000, 1, 1.0), where, held_out=0, loudness=loudness)
    x = data.clip(0, 0).data[0]
    spectrum = torch.fft.rfft(x * torch.hann_window(len(x))).abs()
    assert float(spectrum[1317:1324].norm() / spectrum[437:444].norm()) < 1e-3
    level = 0.7071 if loudness is None else 10 ** ((-23 + 0.69) / 20)
    assert float(x.square().mean().sqrt()) == pytest.approx(level, rel=0.05)
    if loudness is None or scale > 64:
        assert ("range of integers" if scale > 64 else "beyond full scale") in data.report()[0]["why"]
    read = Audio(16000, 1).read(Path(where) / "a.wav").data
    assert float(read.abs().max()) == pytest.approx(1.0, abs=1e-3)


def test_channels_that_cancel_in_mono_are_named(tmp_path):
    wave = 0.1 * np.random.default_rng(0).standard_normal(16000)
    where = folder_of(tmp_path, np.stack([wave, -wave], 1))
    assert "cancel" in AudioFolder(Audio(16000, 1, 1.0), where, held_out=0).report()[0]["why"]
    assert AudioFolder(Audio(16000, 2, 1.0), where, held_out=0).report()[0]["why"] == ""


def test_crop_says_which_part_is_heard(tmp_path):
    wave = np.concatenate([0.001 * np.ones(12000), 0.5 * np.ones(4000), 0.1 * np.ones(16000)])
    where = folder_of(tmp_path, wave)

    def starts(crop):
        data = AudioFolder(Audio(16000, 1, 0.5), where, held_out=0, crop=crop)
        return {tuple(data.clip(0, seed).data[0, ::2000].tolist()) for seed in range(8)}

    assert starts("start") == {tuple(torch.tensor([0.001] * 4).tolist())}
    assert starts("centre") == {tuple(torch.tensor([0.5, 0.5, 0.1, 0.1]).tolist())}
    assert starts("onset") == {tuple(torch.tensor([0.001, 0.5, 0.5, 0.1]).tolist())}
    assert len(starts("random")) > 4


def test_tags_in_another_encoding_do_not_matter(source, tmp_path):
    ffmpeg("-i", source, "-metadata", "title=XXXXX", tmp_path / "a.mp3")
    content = (tmp_path / "a.mp3").read_bytes()
    assert b"XXXXX" in content
    (tmp_path / "a.mp3").write_bytes(content.replace(b"XXXXX", "äöüßé".encode("latin-1")))
    assert examine(tmp_path / "a.mp3").problem == ""


def test_a_file_by_the_name_of_another_format_is_read(tmp_path):
    soundfile.write(tmp_path / "a.flac", 0.1 * np.ones(8000), 8000)
    (tmp_path / "a.flac").rename(tmp_path / "a.wav")
    assert examine(tmp_path / "a.wav").duration_s == 1.0
    soundfile.write(tmp_path / "g.wav", 0.3 * np.sin(np.arange(8000) * 0.3), 8000, subtype="GSM610")
    assert examine(tmp_path / "g.wav").duration_s == pytest.approx(1.0, abs=0.05)
    part, _ = read_samples(tmp_path / "g.wav", 0.5, 0.25)
    whole, _ = read_samples(tmp_path / "g.wav")
    assert torch.equal(part, whole[:, 4000:6000])


def test_what_does_not_fit_a_written_file_is_said(tmp_path, capsys):
    Audio(8000).write([Clip(torch.tensor([[2.0, 0.5, -1.5]]), 8000)], tmp_path / "a.wav", {})
    assert "2 samples lie up to 6.0 dB beyond full scale and are cut off" in capsys.readouterr().err
    Audio(8000).write([Clip(torch.tensor([[1.0, 0.5, -1.0]]), 8000)], tmp_path / "a.wav", {})
    assert capsys.readouterr().err == ""


def test_a_header_that_promises_more_than_there_is_is_named(tmp_path):
    soundfile.write(tmp_path / "a.wav", 0.1 * np.ones(8000), 8000)
    content = bytearray((tmp_path / "a.wav").read_bytes())
    at = content.index(b"data") + 4
    content[at : at + 4] = struct.pack("<I", 32000)
    (tmp_path / "a.wav").write_bytes(content)
    assert examine(tmp_path / "a.wav").problem.startswith("truncated: 1.00 s of the 2.00 s")

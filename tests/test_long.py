"""Clips of any length: window by window, nothing held but the last, files that play while they grow."""

import gc
import subprocess
import weakref

import pytest
import soundfile
import torch
from click.testing import CliRunner
from flowgen_audio.modality import Audio
from flowgen_video.modality import Video

from flowgen.cli import cli
from flowgen.errors import UsageError
from flowgen.runs.generator import Generator
from flowgen.runs.requests import Continue, FromNoise, Long
from tests.untrained import untrained_runs  # noqa: F401

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module", params=["notes", "moving-digits"])
def generator(request, untrained_runs):  # noqa: F811
    return Generator.load(untrained_runs / "runs" / request.param, device="cpu")


def joined(generator, parts):
    return [generator.modality.join(clips) for clips in zip(*parts, strict=True)]


def same(one, other):
    return all(torch.equal(a.data, b.data) for a, b in zip(one, other, strict=True))


def test_the_parts_of_a_stream_are_the_sample(generator):
    request = Long(3.3, conditions=[{}, {}], seed=4)
    whole = generator.sample(request)
    parts = list(generator.stream(request))
    assert len(parts) > 3
    assert same(joined(generator, parts), whole)
    assert all(generator.modality.seconds(clip) == pytest.approx(3.3, abs=0.13) for clip in whole)
    assert not same(generator.sample(Long(3.3, conditions=[{}, {}], seed=5)), whole)


def test_it_begins_as_a_plain_sample_and_goes_on_as_a_continuation(generator):
    first = generator.sample(FromNoise(seed=4))
    length = generator.modality.seconds(first[0])
    whole = generator.sample(Long(2.5 * length, seed=4))
    assert same([generator.modality.cut(whole[0], 0, length)], first)
    assert same(whole, generator.sample(Continue(first[0], seconds=1.5 * length, seed=5)))
    assert same(generator.sample(Long(0.5 * length, seed=4)), generator.sample(FromNoise(seconds=0.5 * length, seed=4)))


def test_a_condition_that_asks_for_another_length_is_refused(generator, monkeypatch):
    window = generator.lengths.window_s
    monkeypatch.setattr("flowgen.runs.ways.asked_lengths", lambda *_: [3 * window])  # as a condition of length asks
    with pytest.raises(UsageError, match="leave out the condition"):
        list(generator.stream(Long(2 * window, seed=4)))


def test_a_continuation_streams_what_it_samples(generator):
    begun = generator.sample(FromNoise(seed=1))[0]
    request = Continue(begun, seconds=2.0, conditions=[{}, {}], seed=3)
    assert same(joined(generator, generator.stream(request)), generator.sample(request))


def test_no_more_is_held_than_the_last_window(generator):
    seen = []
    for part in generator.stream(Long(8.0)):
        seen.append(weakref.ref(part[0].data.untyped_storage()))
        del part
        gc.collect()
        assert sum(ref() is not None for ref in seen) <= 2
    assert len(seen) > 8


@pytest.mark.parametrize("seconds", [0.0, -1.0, float("inf"), float("nan")])
def test_a_length_is_a_length(seconds):
    with pytest.raises(UsageError, match="long clip"):
        Long(seconds)


def decoded(path):
    """Samples or frames that another program finds, which may complain of the missing end."""
    entries = ["-count_frames", "-show_entries", "stream=nb_read_frames,duration_ts"]
    done = subprocess.run(["ffprobe", "-v", "quiet", *entries, "-of", "csv=p=0", path], capture_output=True, text=True)
    return [int(v) for v in done.stdout.strip().split(",") if v.isdigit()]


@pytest.mark.parametrize("suffix", Audio.growing)
def test_a_sound_plays_while_it_grows(tmp_path, suffix):
    sound = 0.5 * torch.sin(2 * torch.pi * 440 * torch.arange(48000) / 16000)[None]
    audio, path, seen = Audio(16000), tmp_path / f"a{suffix}", []

    def parts():
        for i in range(3):
            if i:
                copy = tmp_path / f"copy-{i}{suffix}"
                copy.write_bytes(path.read_bytes())
                done = ["ffmpeg", "-v", "quiet", "-i", copy, "-ar", "16000", "-f", "s16le", "-"]
                heard = torch.frombuffer(bytearray(subprocess.run(done, capture_output=True).stdout), dtype=torch.int16)
                seen.append(len(heard) / 16000)
                assert float(heard[4000:8000].float().std() / 32767) == pytest.approx(0.354, abs=0.05)
            yield audio.cut(audio_clip(sound), i, i + 1)

    audio.write_growing(parts(), path, {"way": "long"})
    assert seen == [pytest.approx(i, abs=0.25) for i in (1, 2)]
    whole = audio.read(path).data[0, :48000]
    assert float((whole - sound[0]).square().mean().sqrt()) < (1e-4 if suffix == ".wav" else 0.1)
    if suffix == ".wav":
        assert soundfile.info(path).frames == 48000


def audio_clip(samples):
    from flowgen.media.clip import Clip

    return Clip(samples, 16000)


@pytest.mark.parametrize("suffix", Video.growing)
def test_a_film_plays_while_it_grows(tmp_path, suffix):
    from flowgen.media.clip import Clip

    frames = torch.arange(0, 240, 8, dtype=torch.uint8)[:, None, None, None].expand(30, 16, 16, 1)
    video, path, seen = Video(fps=10, frames=10, height=16, width=16, channels=1), tmp_path / f"a{suffix}", []

    def parts():
        for i in range(3):
            if i:
                seen.append(decoded(path)[-1])
            yield Clip(frames[10 * i : 10 * i + 10], 10)

    video.write_growing(parts(), path, {"way": "long"})
    assert seen == [pytest.approx(10, abs=2), pytest.approx(20, abs=2)]
    clip = video.read(path)
    assert clip.data.shape[0] == 30
    assert float((clip.data.float() - frames.float()).abs().mean()) < 4


def test_the_command_line_makes_a_long_clip(untrained_runs, tmp_path):  # noqa: F811
    asked = [
        "sample",
        str(untrained_runs / "runs" / "notes"),
        "--long",
        "2.2",
        "-c",
        "pitch=C4",
        "-o",
        str(tmp_path / "a.wav"),
    ]
    done = CliRunner().invoke(cli, asked, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert soundfile.info(tmp_path / "a.wav").duration == pytest.approx(2.2, abs=0.05)
    refused = CliRunner().invoke(cli, [*asked, "--seconds", "3", "--force"])
    assert "leave out --seconds" in str(refused.exception)

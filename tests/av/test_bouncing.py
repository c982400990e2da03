"""Bouncing sounds: the truth is known in closed form; detectors and measures are held against it, and against false pairs."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
from dataclasses import replace

import numpy as np
import pytest
import torch
from flowgen_av.bouncing import BALLS, MATERIALS, Bounce, BouncingSounds
from flowgen_av.events import impacts, onsets
from flowgen_av.modality import AudioVideo
from flowgen_av.synchrony import BounceAgreement, EventSynchrony

from flowgen.errors import FlowgenError, UsageError
from flowgen.media.clip import Clip

MEDIUM = AudioVideo(fps=16, frames=32, height=20, width=20, sample_rate=8000)
DATA = BouncingSounds(MEDIUM)
N = 100


@pytest.fixture(scope="module")
def clips():
    return [DATA.clip(i, 0) for i in range(N)]


def truth(index):
    return [t for t, _ in DATA.bounce(index, 0).impacts(2.0)]


def test_impacts_are_where_the_way_turns():
    """Against a fine simulation: the turns of the position, and the speed across the wall."""
    bounce = Bounce((15.0, 12.0), (3.0, 11.0), (-17.0, 9.0), "red", "bell")
    time = np.arange(0, 2, 1e-4)
    found = []
    for axis in range(2):
        speed = np.diff(bounce.position(time)[:, axis])
        found += [time[i + 1] for i in np.flatnonzero(speed[1:] * speed[:-1] < 0)]
    assert np.allclose(sorted(found), [t for t, _ in bounce.impacts(2.0)], atol=2e-4)
    assert {speed for _, speed in bounce.impacts(2.0)} == {17.0, 9.0}
    assert (bounce.position(time) >= -1e-9).all()
    assert (bounce.position(time) <= np.asarray(bounce.room) + 1e-9).all()


@pytest.mark.parametrize(
    ("find", "error_s"),
    [
        (lambda clip: impacts(clip.data["picture"], 16, 2.5), 0.012),
        (lambda clip: onsets(clip.data["sound"], 8000), 0.012),
    ],
    ids=["seen", "heard"],
)
def test_events_are_found_where_they_are(clips, find, error_s):
    missed = false = count = 0
    errors = []
    for i, clip in enumerate(clips):
        inside = [t for t in truth(i) if 0.15 < t < 1.85]
        found = find(clip)
        for t in inside:
            nearest = min((abs(t - f) for f in found), default=math.inf)
            missed += nearest > 0.04
            errors.append(nearest)
        false += sum(min((abs(f - t) for t in truth(i)), default=math.inf) > 0.04 for f in found)
        count += len(inside)
    assert count > 200
    assert missed <= 0.02 * count
    assert false <= 0.02 * count
    assert float(np.quantile(errors, 0.9)) < error_s


def test_synchrony_is_whole_for_real_clips_and_chance_for_false_pairs(clips):
    metric = EventSynchrony(MEDIUM, DATA)
    real = metric.measure(clips)
    assert min(real["impacts_heard"], real["onsets_seen"]) > 0.98
    assert real["error_ms"] < 8
    others = clips[1:] + clips[:1]
    pairs = zip(clips, others, strict=True)
    false = [replace(a, data={"picture": a.data["picture"], "sound": b.data["sound"]}) for a, b in pairs]
    found = metric.measure(false)
    assert max(found["impacts_heard"], found["onsets_seen"]) < 0.4
    assert found["impacts_heard"] == pytest.approx(real["shuffled"], abs=0.1)


@pytest.mark.parametrize("shift_ms", [-150, -40, 40, 150])
def test_a_sound_that_lags_is_found_out(clips, shift_ms):
    moved = []
    for clip in clips:
        sound = torch.roll(clip.data["sound"], round(8 * shift_ms), 1)
        moved.append(replace(clip, data={**clip.data, "sound": sound}))
    found = EventSynchrony(MEDIUM, DATA).measure(moved)
    if abs(shift_ms) < 62:
        assert found["lead_ms"] == pytest.approx(shift_ms, abs=6)
    else:
        assert found["impacts_heard"] < 0.6


def test_silence_and_stillness_count_against_a_clip(clips):
    metric = EventSynchrony(MEDIUM, DATA)
    silent = [replace(c, data={**c.data, "sound": torch.zeros_like(c.data["sound"])}) for c in clips]
    still = [replace(c, data={**c.data, "picture": c.data["picture"][:1].expand(32, -1, -1, -1)}) for c in clips]
    assert metric.measure(silent)["impacts_heard"] == 0
    assert metric.measure(still)["onsets_seen"] == 0


def test_ball_and_material_are_seen_and_heard(clips):
    metric = BounceAgreement(MEDIUM, DATA)
    assert min(metric.measure(clips).values()) > 0.97
    names = {"ball": list(BALLS), "material": list(MATERIALS)}

    def other(clip):
        return {k: names[k][names[k].index(v) - 1] for k, v in clip.conditions.items()}

    assert max(metric.measure([replace(c, conditions=other(c)) for c in clips]).values()) < 0.03
    dark = [replace(c, data={k: torch.zeros_like(v) for k, v in c.data.items()}) for c in clips]
    assert max(metric.measure(dark).values()) == 0


def test_a_clip_is_a_function_of_index_and_seed_and_the_held_out_are_others():
    assert all(torch.equal(a, b) for a, b in zip(*(DATA.clip(3, 5).data.values() for _ in range(2)), strict=True))
    assert not torch.equal(DATA.clip(3, 5).data["picture"], DATA.clip(3, 6).data["picture"])
    assert not torch.equal(DATA.clip(3, 5).data["picture"], DATA.validation().clip(3, 5).data["picture"])


def test_shares_of_clips_lack_a_stream_and_held_out_ones_do_not():
    data = BouncingSounds(MEDIUM, no_picture=0.3, no_sound=0.2)
    found = [set(data.clip(i, 0).data) for i in range(300)]
    assert sum(f == {"sound"} for f in found) == pytest.approx(90, abs=30)
    assert sum(f == {"picture"} for f in found) == pytest.approx(60, abs=30)
    assert all(len(data.validation().clip(i, 0).data) == 2 for i in range(50))


@pytest.mark.parametrize("suffix", [".mp4", ".webm"])
def test_a_written_clip_plays_with_its_sound_in_time(clips, suffix, tmp_path):
    path = tmp_path / f"clip{suffix}"
    MEDIUM.write(clips[:1], path, {"seed": 3})
    again = MEDIUM.read(path)
    assert again.data["picture"].shape == clips[0].data["picture"].shape
    assert again.data["sound"].shape == clips[0].data["sound"].shape
    heard, before = (onsets(c.data["sound"], 8000) for c in (again, clips[0]))
    assert heard == pytest.approx(before, abs=0.01)  # the delay of the codec is taken back
    difference = again.data["picture"].float() - clips[0].data["picture"].float()
    assert float(difference.square().mean().sqrt()) < 12  # chroma at half the size
    if ffprobe := shutil.which("ffprobe"):
        told = subprocess.run(
            [ffprobe, "-v", "error", "-show_streams", "-show_format", "-of", "json", str(path)],
            capture_output=True,
            check=True,
        )
        found = json.loads(told.stdout)
        codecs = {stream["codec_name"] for stream in found["streams"]}
        assert codecs == ({"h264", "aac"} if suffix == ".mp4" else {"vp9", "opus"})
        assert float(found["format"]["duration"]) == pytest.approx(2.0, abs=0.05)


def test_a_file_of_one_stream_is_a_clip_that_lacks_the_other(clips, tmp_path):
    MEDIUM.picture.write([MEDIUM.stream_of(clips[0], "picture")], tmp_path / "mute.mp4", {})
    MEDIUM.sound.write([MEDIUM.stream_of(clips[0], "sound")], tmp_path / "sound.wav", {})
    assert set(MEDIUM.read(tmp_path / "mute.mp4").data) == {"picture"}
    assert set(MEDIUM.read(tmp_path / "sound.wav").data) == {"sound"}
    assert MEDIUM.seconds(MEDIUM.read(tmp_path / "sound.wav")) == pytest.approx(2.0)
    with pytest.raises(UsageError, match="has no picture"):
        MEDIUM.write([MEDIUM.read(tmp_path / "sound.wav")], tmp_path / "x.mp4", {})
    with pytest.raises(FlowgenError, match="is no video and no sound"):
        MEDIUM.read(tmp_path / "notes.txt")


def test_parts_that_were_cut_join_to_the_whole(clips):
    parts = [MEDIUM.cut(clips[0], 0, 0.75), MEDIUM.cut(clips[0], 0.75, 2.0)]
    whole = MEDIUM.join(parts)
    assert all(torch.equal(whole.data[name], clips[0].data[name]) for name in ("picture", "sound"))
    mute = Clip({"picture": parts[0].data["picture"]}, {"picture": 16.0})
    assert set(MEDIUM.join([mute, parts[1]]).data) == {"picture"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"slowest": 20.0, "fastest": 10.0}, "data.slowest"),
        ({"radius": 5.0}, "no room to move"),
        ({"no_picture": 0.6, "no_sound": 0.6}, "more than all clips"),
    ],
)
def test_options_that_make_no_sense_are_refused(options, message):
    with pytest.raises(UsageError, match=message):
        BouncingSounds(MEDIUM, **options)


def test_metrics_of_other_data_are_refused():
    for metric in (EventSynchrony, BounceAgreement):
        with pytest.raises(UsageError, match="measures clips of the data set bouncing-sounds"):
            metric(MEDIUM, object())


def test_haze_around_a_ball_is_no_part_of_it(clips):
    """Generated pictures are never quite black."""
    hazy = [replace(c, data={**c.data, "picture": c.data["picture"].clamp(min=4)}) for c in clips]
    found = BounceAgreement(MEDIUM, DATA).measure(hazy)
    assert found["material_seen"] > 0.98

"""Games are functions of their seed, and sound comes with what is seen."""

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
from click.testing import CliRunner
from flowgen_audio.modality import Audio
from flowgen_doom.datasets import Doom, DoomSound
from flowgen_doom.game import RATE, TICS, actions, play
from flowgen_video.modality import Video

from flowgen.cli import cli
from flowgen.errors import FlowgenError, UsageError

VIDEO = Video(frames=4, height=24, width=32, fps=8.75)


def test_a_game_is_a_function_of_its_seed_in_another_process_too():
    code = (
        "import hashlib; from flowgen_doom.game import play; p = play('basic', 'attack', 8, 5);"
        "print(hashlib.md5(p.pictures.tobytes() + p.sound.tobytes()).hexdigest())"
    )
    hashes = {subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout for _ in range(2)}
    assert len(hashes) == 1
    assert hashes != {""}
    a, b = play("basic", "attack", 8, 5), play("basic", "attack", 8, 6)
    assert not np.array_equal(a.pictures, b.pictures)


def test_pictures_and_sound_are_of_the_same_time():
    played = play("defend_the_center", "attack", 20, 1)
    assert played.pictures.shape == (20, 120, 160, 3)
    assert played.sound.shape == (20 * RATE // TICS, 2)


def test_who_shoots_is_heard():
    """Every shooter is louder than every one who stands still: by chance, one case in 252."""

    def loudness(action):
        return [play("defend_the_center", action, 30, seed).sound.astype(float).std() for seed in range(5)]

    assert min(loudness("attack")) > max(loudness("nothing"))


def test_who_turns_sees_the_world_go_by():
    """Every one who turns sees more change from picture to picture than every one who stands still: one case in 252."""

    def change(action, seed):
        pictures = play("health_gathering", action, 12, seed).pictures[:, :80].astype(float)
        return np.abs(np.diff(pictures, axis=0)).mean()

    assert min(change("turn left", seed) for seed in range(5)) > max(change("nothing", seed) for seed in range(5))


def test_clips_have_the_form_of_the_modality():
    data = Doom(VIDEO)
    assert data.clip(0, 0).data.shape == (4, 24, 32, 3)
    assert {data.clip(i, 0).conditions["action"] for i in range(8)} == set(actions("health_gathering"))
    grey = Doom(Video(frames=2, height=12, width=16, fps=35, channels=1)).clip(0, 0)
    assert grey.data.shape == (2, 12, 16, 1)
    heard = DoomSound(Audio(sample_rate=8000, duration_s=0.3)).clip(2, 0)
    assert heard.data.shape == (1, 2400)


def test_a_rate_that_the_game_does_not_have_is_refused():
    with pytest.raises(UsageError, match=r"fps must be 35 divided by a whole number .*got 10"):
        Doom(Video(fps=10))


def test_clips_that_no_episode_is_long_enough_for_are_refused(monkeypatch):
    monkeypatch.setattr("flowgen_doom.game.ATTEMPTS", 2)
    with pytest.raises(FlowgenError, match="no episode of deadly_corridor in 2 lasts 2000 tics"):
        play("deadly_corridor", "move forward", 2000, 0)


@pytest.mark.skipif(shutil.which("ffprobe") is None, reason="ffprobe is not installed")
def test_recordings_play_with_their_sound(tmp_path):
    done = CliRunner().invoke(
        cli, ["record-doom", str(tmp_path), "-n", "2", "--seconds", "0.6"], catch_exceptions=False
    )
    assert done.exit_code == 0
    lines = [json.loads(line) for line in (tmp_path / "manifest.jsonl").read_text().splitlines()]
    assert [line["label"] for line in lines] == ["turn left", "turn right"]
    for line in lines:
        probe = ["ffprobe", "-v", "error", "-count_frames", "-show_streams", "-of", "json", tmp_path / line["file"]]
        video, sound = json.loads(subprocess.run(probe, capture_output=True, text=True).stdout)["streams"]
        assert (video["codec_name"], video["nb_read_frames"], video["width"], video["height"]) == (
            "h264",
            "21",
            160,
            120,
        )
        assert (sound["codec_name"], sound["sample_rate"]) == ("aac", "22050")
        assert float(sound["duration"]) == pytest.approx(0.6, abs=0.06)
        assert abs(float(sound["start_time"]) - float(video["start_time"])) < 0.05


def test_a_game_leaves_no_settings_behind(tmp_path):
    """Neither in the folder one is in, nor among the temporary ones."""
    (tmp_path / "temporary").mkdir()
    (tmp_path / "here").mkdir()
    code = "from flowgen_doom.game import play; play('basic', 'attack', 2, 5)"
    environment = {**os.environ, "TMPDIR": str(tmp_path / "temporary")}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path / "here", env=environment, capture_output=True)
    assert done.returncode == 0, done.stderr
    assert b"settings" not in done.stdout + done.stderr
    assert list((tmp_path / "temporary").iterdir()) == []
    assert [p for p in (tmp_path / "here").rglob("*") if p.is_file()] == []

"""What a person does with a folder of their own: check it, train on it, sample; in any format the readers take."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner

from flowgen.cli import cli

SMALL = ["train.steps=2", "train.batch_size=2", "network.width=32", "network.depth=1", "network.heads=2", "--quiet"]


def flowgen(*args: object) -> str:
    result = CliRunner().invoke(cli, [str(a) for a in args], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def ffmpeg(source: str, path: Path, *options: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    subprocess.run(["ffmpeg", "-v", "error", "-f", "lavfi", "-i", source, *options, path], check=True)


def probe(path: Path) -> dict:
    command = ["ffprobe", "-v", "error", "-show_streams", "-show_format", "-of", "json", path]
    return json.loads(subprocess.run(command, check=True, capture_output=True).stdout)


@pytest.fixture
def sounds(tmp_path: Path) -> Path:
    folder = tmp_path / "sounds"
    for label, suffixes, hz in (("high", ("wav", "mp3", "ogg"), 880), ("low", ("flac", "m4a", "wav"), 220)):
        for i, suffix in enumerate(suffixes * 4):
            ffmpeg(f"sine={hz + 10 * i}:duration=0.{3 + i % 3}:sample_rate=44100", folder / label / f"{i}.{suffix}")
    return folder


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    folder = tmp_path / "clips"
    for i, suffix in enumerate(("mp4", "webm", "gif", "avi") * 3):
        source = "testsrc" if i % 2 else "testsrc2"
        ffmpeg(f"{source}=size={96 + 16 * i}x96:rate={10 + i}:duration=2.5", folder / source / f"{i}.{suffix}")
    return folder


@pytest.mark.slow
def test_a_folder_of_recordings(sounds: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert "clips by label: high" in flowgen(
        "data", "show", "audio/folder", f"data.folder={sounds}", "-o", tmp_path / "s.png"
    )
    flowgen("train", "audio/folder", f"data.folder={sounds}", f"run={run}", *SMALL)
    flowgen("sample", run, "-c", "label=low", "--steps", 2, "-o", tmp_path / "low.flac")
    (stream,) = probe(tmp_path / "low.flac")["streams"]
    assert stream["sample_rate"] == "16000"
    assert float(stream["duration"]) == pytest.approx(2.0, abs=0.05)
    flowgen(
        "sample",
        run,
        "--continue",
        sounds / "high" / "0.wav",
        "--seconds",
        0.5,
        "--steps",
        2,
        "-o",
        tmp_path / "on.wav",
    )
    assert float(probe(tmp_path / "on.wav")["format"]["duration"]) == pytest.approx(0.8, abs=0.01)


@pytest.mark.slow
def test_a_folder_of_clips(clips: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert "label: testsrc" in flowgen("data", "show", "video/folder", f"data.folder={clips}", "-o", tmp_path / "s.png")
    flowgen("train", "video/folder", f"data.folder={clips}", f"run={run}", "train.workers=0", *SMALL)
    flowgen("sample", run, "-c", "label=testsrc", "--steps", 2, "-o", tmp_path / "made.webm")
    (stream,) = probe(tmp_path / "made.webm")["streams"]
    assert stream["codec_name"] in ("vp8", "vp9", "av1")
    assert stream["r_frame_rate"] == "8/1"
    flowgen(
        "sample",
        run,
        "--continue",
        clips / "testsrc" / "1.webm",
        "--seconds",
        1,
        "--steps",
        2,
        "-o",
        tmp_path / "on.mp4",
    )
    assert float(probe(tmp_path / "on.mp4")["format"]["duration"]) == pytest.approx(3.5, abs=0.15)

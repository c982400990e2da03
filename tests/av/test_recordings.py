"""Video files with their sound: on one clock, whatever the file says about when either begins."""

from __future__ import annotations

import shutil
import subprocess

import pytest
import torch
from flowgen_av.bouncing import BouncingSounds
from flowgen_av.events import impacts, onsets
from flowgen_av.modality import AudioVideo
from flowgen_av.reading import sound_offset
from flowgen_av.recordings import AVFolder, AVManifest

from flowgen.config import build
from flowgen.config.schema import ComponentConfig
from flowgen.errors import UsageError

LONG = AudioVideo(fps=16, frames=64, height=20, width=20, sample_rate=8000)
SHORT = AudioVideo(fps=16, frames=16, height=20, width=20, sample_rate=8000)
COUNT = 12


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Twelve files of four seconds; the last has no sound track."""
    place = tmp_path_factory.mktemp("av")
    data = BouncingSounds(LONG)
    for i in range(COUNT):
        clip = data.clip(i, 0)
        if i == COUNT - 1:
            clip = LONG.combined({"picture": LONG.stream_of(clip, "picture")})
        LONG.write([clip], place / f"{i:02d}.mp4", {})
    return place


def lag(clip):
    """How much later each visible impact is heard, in seconds: the median."""
    seen, heard = impacts(clip.data["picture"], 16, 2.5), onsets(clip.data["sound"], 8000)
    return torch.tensor([min((h - s for h in heard), key=abs, default=1.0) for s in seen])


def test_any_second_of_a_file_has_the_sound_of_that_second(folder):
    data = AVFolder(SHORT, str(folder), held_out=0.25)
    lags, starts = [], set()
    for i in range(len(data)):
        for seed in range(4):
            clip = data.clip(i, seed)
            starts.add(clip.source)
            if "sound" not in clip.data:
                continue
            assert clip.data["picture"].shape == (16, 20, 20, 3)
            assert clip.data["sound"].shape == (1, 8000)
            lags.append(lag(clip))
    assert len(starts) > 2 * len(data)  # crops were drawn
    found = torch.cat(lags)
    assert len(found) > 30
    assert float(found.abs().median()) < 0.008
    assert float((found.abs() < 0.0625).float().mean()) > 0.95


@pytest.mark.skipif(not shutil.which("ffmpeg"), reason="ffmpeg makes files whose sound begins late")
@pytest.mark.parametrize("late", [0.5, -0.5])
def test_a_track_that_begins_later_or_earlier_stays_in_time(folder, tmp_path, late):
    """Another program moves one track on the clock of the file: what belongs together stays together, silence fills the rest."""
    source = str(folder / "00.mp4")
    order = ["-i", source, "-itsoffset", str(abs(late)), "-i", source]
    tracks = ["-map", "0:v", "-map", "1:a"] if late > 0 else ["-map", "1:v", "-map", "0:a"]
    command = ["ffmpeg", "-v", "error", *order, *tracks, "-c", "copy", str(tmp_path / "moved.mkv")]
    subprocess.run(command, check=True)
    assert sound_offset(tmp_path / "moved.mkv") == pytest.approx(late, abs=0.03)
    whole = LONG.read(tmp_path / "moved.mkv")
    heard, before = (onsets(clip.data["sound"], 8000) for clip in (whole, LONG.read(source)))
    expected = [t + late for t in before if 0.1 < t + late < 3.9]
    assert [t for t in heard if 0.1 < t < 3.9] == pytest.approx(expected, abs=0.03)


def test_a_file_without_sound_lacks_the_stream_and_the_report_says_so(folder):
    data = AVFolder(SHORT, str(folder), held_out=0)
    lacking = [i for i in range(len(data)) if "sound" not in data.clip(i, 0).data]
    assert len(lacking) == 1
    assert data.describe()["sound tracks"] == f"{COUNT - 1} of {COUNT} recordings have one"


def test_shares_of_training_clips_lack_a_stream(folder):
    data = AVFolder(SHORT, str(folder), held_out=0.25, no_picture=0.5, no_sound=0.5)
    kinds = [tuple(sorted(data.clip(i, seed).data)) for i in range(len(data)) for seed in range(8)]
    assert {("picture",), ("sound",)} == set(kinds)
    held_out = data.validation()
    assert all("picture" in held_out.clip(i, 0).data for i in range(len(held_out)))
    with pytest.raises(UsageError, match="more than all clips"):
        AVFolder(SHORT, str(folder), no_picture=0.6, no_sound=0.6)


def test_a_table_lists_segments(folder, tmp_path):
    table = folder / "list.csv"
    table.write_text("file,start,duration,label\n00.mp4,0,2,a\n00.mp4,2,2,b\n01.mp4,1,1.5,a\n02.mp4,0,2,b\n")
    options = {"manifest": str(table), "start": "start", "duration": "duration", "held_out": 0}
    data = build("dataset", ComponentConfig(type="av-manifest", **options), modality=SHORT)
    assert isinstance(data, AVManifest)
    assert len(data) == 4
    assert float(lag(data.clip(1, 0)).abs().median()) < 0.03
    assert data.clip(1, 0).conditions["label"] == "b"

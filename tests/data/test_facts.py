"""What is known about a file is known until it changes."""

import os
import threading

import pytest
import torch
from flowgen_video.folders import VideoFolder
from flowgen_video.modality import Video
from flowgen_video.writing import write_frames

from flowgen.data.facts import cached
from flowgen.data.progress import progress


@pytest.fixture
def files(tmp_path):
    for name in "abc":
        (tmp_path / name).write_text(name)
    return sorted(tmp_path.iterdir())


@pytest.fixture
def length():
    """A look at a file that keeps account of what it saw."""
    seen = []

    def look(path):
        seen.append(path.name)
        return {"length": len(path.read_text()), "pair": [1, 0.1]}

    look.seen = seen
    return look


def test_a_file_is_looked_at_once_until_it_changes(files, length):
    first = cached("test-1", files, length)
    assert cached("test-1", files, length) == first
    assert length.seen == ["a", "b", "c"]
    files[1].write_text("longer")
    assert cached("test-1", files, length)[files[1]]["length"] == 6
    assert length.seen[3:] == ["b"]
    stat = files[0].stat()
    os.utime(files[0], ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    cached("test-1", files, length, threads=2)
    assert length.seen[4:] == ["a"]


def test_another_look_is_another_matter(files, length):
    for kind in ("test-2-x", "test-2-y", "test-2-x"):
        cached(kind, files[:1], length)
    assert length.seen == ["a", "a"]


def test_part_of_a_folder_forgets_nothing_of_the_rest(files, length):
    cached("test-3", files[:2], length)
    assert list(cached("test-3", files[1:], length)) == files[1:]
    assert cached("test-3", reversed([*files, *files]), length).keys() == set(files)
    assert length.seen == ["a", "b", "c"]
    assert cached("test-3", [], length) == {}


def test_a_missing_file_is_looked_at_when_it_appears(files, length):
    late = files[0].with_name("late")

    def look(path):
        return length(path) if path.exists() else {"problem": "absent"}

    assert cached("test-4", [late], look)[late] == {"problem": "absent"}
    late.write_text("here")
    assert cached("test-4", [late], look)[late]["length"] == 4


@pytest.mark.parametrize("content", ["{", "[1]", "\x00\xff"])
def test_a_cache_that_is_damaged_or_cannot_be_written_costs_time_only(files, length, monkeypatch, tmp_path, content):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "own"))
    cached("test-5", files, length)
    (kept,) = (tmp_path / "own" / "flowgen" / "test").iterdir()
    kept.write_text(content)
    cached("test-5", files, length)
    assert len(length.seen) == 6
    monkeypatch.setenv("XDG_CACHE_HOME", str(files[0]))  # no folder
    assert cached("test-5", files, length)[files[2]]["length"] == 1


def test_videos_are_the_same_from_memory(tmp_path):
    video = Video(fps=8, frames=4, height=16, width=16, channels=1)
    for i, suffix in enumerate((".mp4", ".webm", ".gif", ".zip")):
        data = torch.randint(256, (5 + i, 16, 16, 1), dtype=torch.uint8, generator=torch.Generator().manual_seed(i))
        write_frames(data, 7.5, tmp_path / "clips" / f"{i}{suffix}", {})
    looked, data = [], VideoFolder(video, str(tmp_path / "clips"), held_out=0)
    again = VideoFolder(video, str(tmp_path / "clips"), held_out=0)
    again._examine = lambda path: looked.append(path)
    assert data.report()
    assert again.report() == data.report()
    assert not looked
    for index in range(len(data)):
        assert torch.equal(again.clip(index, 3).data, data.clip(index, 3).data)


def test_a_look_that_is_stopped_goes_on_where_it_was(files, length):
    def stopped(path):
        if path.name == "c":
            raise KeyboardInterrupt
        return length(path)

    with pytest.raises(KeyboardInterrupt):
        cached("test-5", files, stopped, threads=1)
    assert cached("test-5", files, length).keys() == set(files)
    assert length.seen == ["a", "b", "c"]


def test_a_long_look_says_how_long_it_still_takes(monkeypatch, capsys):
    now = iter(range(1000))
    monkeypatch.setattr("flowgen.data.progress.time.monotonic", lambda: float(next(now)))
    assert list(progress(range(40), 40, "look at files")) == list(range(40))
    assert capsys.readouterr().err.splitlines() == [
        "look at files: 3 of 40, 0:37 left",
        "look at files: 13 of 40, 0:27 left",
        "look at files: 23 of 40, 0:17 left",
        "look at files: 33 of 40, 0:07 left",
    ]
    monkeypatch.setenv("RANK", "1")
    assert sum(progress(range(40), 40, "look at files")) == 780
    assert capsys.readouterr().err == ""


def test_files_are_looked_at_at_once(files):
    meet = threading.Barrier(3, timeout=20)  # breaks unless three look at a time
    assert cached("test-6", files, lambda path: meet.wait() * 0, threads=3) == dict.fromkeys(files, 0)

"""Folders and manifests of files that ffmpeg makes here."""

import csv
import json
import subprocess
from functools import partial
from pathlib import Path

import pytest
import torch
from flowgen_video import folders, manifests
from flowgen_video.modality import Video

from flowgen.errors import BadData, FlowgenError, UsageError

# the clips of these tests are few, and some of them too short
VideoFolder = partial(folders.VideoFolder, max_bad_share=0.5)
VideoManifest = partial(manifests.VideoManifest, max_bad_share=0.5)

VIDEO = Video(fps=10, frames=12, height=16, width=24)
LENGTHS = {"short": 9, "almost": 11, "exact": 12, "long": 40}
"""Frames at 10 a second by name; frame i has the brightness 20 + 5 i."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """a/short.mp4, a/exact.mp4, b/almost.mkv, b/long.webm, and b/broken.mp4."""
    root = tmp_path_factory.mktemp("clips")
    places = {"short": "a/short.mp4", "exact": "a/exact.mp4", "almost": "b/almost.mkv", "long": "b/long.webm"}
    for name, place in places.items():
        path = root / place
        path.parent.mkdir(exist_ok=True)
        source = f"color=black:s=24x16:r=10:d={LENGTHS[name] / 10},format=gray,geq=lum='20+5*N'"
        subprocess.run(
            ["ffmpeg", "-v", "error", "-f", "lavfi", "-i", source, "-pix_fmt", "yuv420p", str(path)], check=True
        )
    (root / "b" / "broken.mp4").write_bytes(b"no video" * 100)
    return root


def rows(folder):
    return [
        {"file": "a/short.mp4", "label": "dark", "caption": "nine frames", "person": 1, "age": 20},
        {"file": "a/exact.mp4", "label": "dark", "caption": "twelve frames", "person": 7, "age": 30},
        {"file": "b/almost.mkv", "label": "light", "caption": "eleven frames, says the file", "person": 2, "age": 45.5},
        {"file": "b/long.webm", "label": "light", "caption": "forty frames", "person": 8, "age": 70},
    ]


@pytest.fixture
def manifest(folder, tmp_path):
    path = tmp_path / "clips.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows(folder)))
    return path


def numbers(clip):
    shown = clip.data.float().mean((1, 2, 3))
    return ((shown - shown[0]) / 5).round().int().tolist()


def test_every_file_is_kept_or_left_out_with_a_reason(folder):
    data = VideoFolder(VIDEO, str(folder), held_out=0)
    report = {row["file"]: row for row in data.report()}
    assert {name: row["status"] for name, row in report.items()} == {
        "a/exact.mp4": "kept",
        "a/short.mp4": "left out",
        "b/almost.mkv": "padded",
        "b/broken.mp4": "left out",
        "b/long.webm": "cropped",
    }
    assert report["a/short.mp4"]["why"].startswith("too short: 9 frames at 10 a second, 12 are needed")
    assert "1 frames short" in report["b/almost.mkv"]["why"]
    assert "12 of 40" in report["b/long.webm"]["why"]
    assert "broken.mp4" in report["b/broken.mp4"]["why"]
    assert [report[name]["frames"] for name in sorted(report) if "broken" not in name] == [12, 9, 11, 40]
    assert len(data) == 3
    described = data.describe()
    assert (described["kept"], described["padded"], described["cropped"]) == (1, 1, 1)
    assert "a/short.mp4" in described["left out"]
    assert "b/broken.mp4" in described["left out"]


def test_a_clip_one_frame_short_shows_its_last_frame_again(folder):
    data = VideoFolder(VIDEO, str(folder), held_out=0)
    (clip,) = (c for c in (data.clip(i, 0) for i in range(3)) if "almost" in c.source)
    assert numbers(clip)[:11] == list(range(11))
    assert torch.equal(clip.data[11], clip.data[10])
    strict = VideoFolder(VIDEO, str(folder), held_out=0, tolerance=0, max_bad_share=0.6)
    assert {r["file"] for r in strict.report() if r["status"] == "left out"} >= {"b/almost.mkv"}


@pytest.mark.parametrize("cache", [False, True])
def test_windows_change_with_the_seed_and_stay_inside(folder, cache):
    data = VideoFolder(VIDEO, str(folder), held_out=0, cache=cache)
    (index,) = (i for i in range(3) if "long" in data.clip(i, 0).source)
    starts = set()
    for seed in range(40):
        clip = data.clip(index, seed)
        assert torch.equal(clip.data, data.clip(index, seed).data)
        assert clip.data.shape == (12, 16, 24, 3)
        assert numbers(clip) == list(range(12))
        starts.add(round(float(clip.source.split("from ")[1][:-2]) * 10))
    assert len(starts) > 10
    assert min(starts) >= 0
    assert max(starts) <= 28


def test_a_stride_gives_one_clip_every_so_many_frames(folder):
    data = VideoFolder(VIDEO, str(folder), held_out=0, stride=8)
    assert {row["file"]: row["clips"] for row in data.report()}["b/long.webm"] == 4  # from 0, 8, 16, 24
    places = [data.clip(i, 3).source for i in range(len(data)) if "long" in data.clip(i, 3).source]
    for k, place in enumerate(places):
        assert 8 * k <= round(float(place.split("from ")[1][:-2]) * 10) <= 8 * k + 7


def test_buckets_take_clips_of_any_length_and_shape(folder):
    buckets = ("12x16x24", "24x8x12", "8x16x16")
    data = VideoFolder(VIDEO, str(folder), held_out=0, buckets=buckets)
    rows = {row["file"]: row for row in data.report()}
    assert {name: (row["status"], row.get("bucket")) for name, row in rows.items()} == {
        "a/exact.mp4": ("kept", "12x16x24"),
        "a/short.mp4": ("cropped", "8x16x16"),
        "b/almost.mkv": ("padded", "12x16x24"),
        "b/broken.mp4": ("left out", None),
        "b/long.webm": ("cropped", "24x8x12"),
    }
    assert data.buckets == {"12x16x24": 1.0, "24x8x12": 0.5, "8x16x16": pytest.approx(4 / 9)}
    shapes = {data.bucket_of(i): tuple(data.clip(i, 0).data.shape) for i in range(len(data))}
    assert shapes == {"12x16x24": (12, 16, 24, 3), "24x8x12": (24, 8, 12, 3), "8x16x16": (8, 16, 16, 3)}
    assert data.describe()["buckets"] == "12x16x24 (2), 24x8x12 (1), 8x16x16 (1)"
    whole = data.full_size()
    assert not whole.buckets
    assert {tuple(whole.clip(i, 0).data.shape) for i in range(len(whole))} == {(12, 16, 24, 3)}
    several = VideoFolder(VIDEO, str(folder), held_out=0, buckets=("24x8x12", "8x16x16"), stride=4)
    rows = {row["file"]: row for row in several.report()}
    assert (rows["b/long.webm"]["clips"], rows["b/long.webm"]["status"]) == (5, "kept")
    cached = VideoFolder(VIDEO, str(folder), held_out=0, buckets=buckets, cache=True)
    assert all(torch.equal(cached.clip(i, 3).data, data.clip(i, 3).data) for i in range(len(data)))
    held_out = VideoFolder(VIDEO, str(folder), held_out=0.5, buckets=buckets).validation()
    assert not held_out.buckets
    assert {tuple(held_out.clip(i, 0).data.shape) for i in range(len(held_out))} == {(12, 16, 24, 3)}


@pytest.mark.parametrize("text", ["8x16", "8x0x16", "eight", "8x16x16x3"])
def test_a_bucket_that_is_none_is_named(folder, text):
    with pytest.raises(UsageError, match=rf"data\.buckets: .*16x32x32, got '{text}'"):
        VideoFolder(VIDEO, str(folder), buckets=(text,))


def test_too_many_unusable_files_are_an_error_with_its_rows(folder):
    data = VideoFolder(VIDEO, str(folder), held_out=0, max_bad_share=0.3)
    for _ in range(2):
        with pytest.raises(BadData, match=r"2 of 5 recordings cannot be used, more than data\.max_bad_share=0\.3"):
            len(data)
    with pytest.raises(UsageError, match="max_bad_share"):
        VideoFolder(VIDEO, str(folder), max_bad_share=2)


def test_held_out_places_do_not_move(folder, manifest):
    data = VideoManifest(VIDEO, str(manifest), str(folder), held_out={"person": [8]}, stride=8).validation()
    assert len(data) == 4
    for index in range(4):
        assert data.clip(index, 0).source.endswith(f"from {index * 0.8:.2f} s")
        assert torch.equal(data.clip(index, 0).data, data.clip(index, 99).data)


def test_held_out_by_column_values(folder, manifest):
    data = VideoManifest(VIDEO, str(manifest), str(folder), held_out={"person": [7, 8]})
    assert {row["file"] for row in data.report()} == {"a/short.mp4", "b/almost.mkv"}
    assert {row["file"] for row in data.validation().report()} == {"a/exact.mp4", "b/long.webm"}
    with pytest.raises(UsageError, match="has no item with 9"):
        VideoManifest(VIDEO, str(manifest), str(folder), held_out={"person": [9]})
    nothing = VideoManifest(VIDEO, str(manifest), str(folder), held_out=0.0)
    with pytest.raises(UsageError, match="nothing is held out"):
        nothing.validation()


def test_columns_become_conditions(folder, manifest):
    columns = {"label": "class", "caption": "text", "age": "number"}
    data = VideoManifest(VIDEO, str(manifest), str(folder), columns=columns, held_out={"person": [8]})
    assert data.conditions == {
        "label": {"type": "class", "names": ("dark", "light")},
        "caption": {"type": "text", "max_bytes": 28},
        "age": {"type": "number", "low": 20, "high": 70},
    }
    assert data.validation().conditions == data.conditions
    assert data.validation().clip(0, 0).conditions == {"label": "light", "caption": "forty frames", "age": 70}
    assert VideoManifest(VIDEO, str(manifest), str(folder)).conditions.keys() == {"label", "caption"}
    with pytest.raises(UsageError, match="did you mean 'caption'"):
        VideoManifest(VIDEO, str(manifest), str(folder), columns={"captoin": "text"})


def test_a_folder_gives_labels_captions_and_sequences(folder, tmp_path):
    root = tmp_path / "own"
    (root / "walk").mkdir(parents=True)
    (root / "walk" / "one.mp4").write_bytes((folder / "a" / "exact.mp4").read_bytes())
    (root / "walk" / "one.txt").write_text("somebody\n walks ")
    frames = root / "run" / "two"
    frames.mkdir(parents=True)
    subprocess.run(f"ffmpeg -v error -i {folder}/b/long.webm {frames}/%d.png".split(), check=True)
    some = VideoFolder(VIDEO, str(root), held_out=0)
    assert [some.clip(i, 0).conditions["caption"] for i in range(2)] == [None, "somebody walks"]
    assert some.describe()["without caption"] == "1 of 2 have none: run/two"
    (root / "run" / "two.txt").write_text("somebody runs")
    data = VideoFolder(VIDEO, str(root), held_out=0)
    assert [row["frames"] for row in data.report()] == [40, 12]
    assert data.clip(1, 0).conditions == {"label": "walk", "caption": "somebody walks"}
    assert data.conditions["label"]["names"] == ("run", "walk")
    assert numbers(data.clip(0, 5)) == list(range(12))


def test_csv_and_parquet_say_the_same_as_jsonl(folder, manifest, tmp_path):
    listed = rows(folder)
    with (tmp_path / "clips.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, listed[0])
        writer.writeheader()
        writer.writerows(listed)
    manifests = [manifest, tmp_path / "clips.csv"]
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        (tmp_path / "clips.parquet").write_bytes(b"PAR1")
        with pytest.raises(FlowgenError, match="pip install"):
            VideoManifest(VIDEO, str(tmp_path / "clips.parquet"), str(folder))
    else:
        parquet.write_table(pyarrow.Table.from_pylist(listed), tmp_path / "clips.parquet")
        manifests.append(tmp_path / "clips.parquet")
    found = [VideoManifest(VIDEO, str(path), str(folder), held_out={"person": [8]}) for path in manifests]
    for data in found[1:]:
        assert data.conditions == found[0].conditions
        assert data.report() == found[0].report()
        assert torch.equal(data.clip(0, 0).data, found[0].clip(0, 0).data)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("absent.jsonl", None, "no file"),
        ("clips.txt", "a", "jsonl"),
        ("empty.jsonl", "\n", "no rows"),
        ("bad.jsonl", '{"file": "a"}\n{"file": ', "bad.jsonl:2: not JSON"),
        ("list.jsonl", "[1, 2]", "list.jsonl:1: expected an object"),
        ("nofile.jsonl", '{"path": "a.mp4"}', "unknown column of .*'file'"),
    ],
)
def test_a_bad_manifest_is_one_sentence(tmp_path, name, content, words):
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(FlowgenError, match=words):
        VideoManifest(VIDEO, str(tmp_path / name))


def test_nothing_usable_says_why(folder, tmp_path):
    with pytest.raises(UsageError, match="is not a folder"):
        VideoFolder(VIDEO, str(tmp_path / "absent"))
    with pytest.raises(UsageError, match="no video in"):
        VideoFolder(VIDEO, str(tmp_path))
    long = VideoFolder(Video(fps=10, frames=80, height=16, width=24), str(folder), held_out=0)
    with pytest.raises(BadData, match="12 frames at 10 a second, 80 are needed") as caught:
        len(long)
    assert len(caught.value.rows) == 5
    for options in ({"stride": -1}, {"tolerance": 12}, {"held_out": 1.0}):
        with pytest.raises(UsageError, match=next(iter(options))):
            VideoFolder(VIDEO, str(folder), **options)


def test_real_recordings_are_all_kept():
    root = Path(__file__).parents[2].parent / "shared" / "data" / "weizmann64"
    if not root.is_dir():
        pytest.skip("no shared data")
    video = Video(fps=25, frames=16, height=64, width=64)
    data = VideoManifest(video, str(root / "manifest.jsonl"), held_out={"person": [7, 8]})
    listed = {row["file"]: row["frames"] for row in map(json.loads, (root / "manifest.jsonl").read_text().splitlines())}
    reports = [*data.report(), *data.validation().report()]
    assert {row["file"]: row["source_frames"] for row in reports} == listed
    assert all(row["frames"] == row["source_frames"] for row in reports), "a rate of its own keeps every frame"
    assert len(data.validation()) == 16
    clip = data.clip(0, 0)
    assert clip.data.shape == (16, 64, 64, 3)
    assert clip.data.float().std() > 20


def test_the_file_column_and_its_folder_have_names_of_their_own(folder, tmp_path):
    listed = [{"path": row["file"], "label": row["label"]} for row in rows(folder)]
    (tmp_path / "own.jsonl").write_text("\n".join(map(json.dumps, listed)))
    data = VideoManifest(VIDEO, str(tmp_path / "own.jsonl"), str(folder), file="path", held_out=0.0)
    assert {row["file"] for row in data.report()} == {row["path"] for row in listed}
    beside = VideoManifest(VIDEO, str(tmp_path / "own.jsonl"), file="path", held_out=0.0)
    with pytest.raises(BadData, match="no such file"):
        len(beside)

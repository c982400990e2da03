"""Any frame on its own equals the frame in order, in whatever container; and pictures and tracks that are easily misread."""

import json
import multiprocessing
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from flowgen_video.folders import VideoFolder
from flowgen_video.manifests import VideoManifest
from flowgen_video.modality import Video
from flowgen_video.reading import decode_frames, index_frames, read_frames, shown_size
from PIL import Image

from flowgen.data.loader import Split, batches
from flowgen.errors import BadData, FlowgenError
from flowgen.training.failures import counted
from flowgen.training.ranks import Ranks

FRAMES, VIDEO = 60, Video(fps=10, frames=8, height=16, width=16)
CONTAINERS = {
    "mpg": "-c:v mpeg2video -bf 2 -g 12",
    "vob": "-c:v mpeg2video -g 15 -f vob",
    "ts": "-c:v libx264 -bf 2 -g 12",
    "m2ts.ts": "-c:v mpeg2video -g 12 -mpegts_m2ts_mode 1",
    "flv": "-c:v flv1 -g 12",
    "h264.flv": "-c:v libx264 -bf 2 -g 12",
    "mp4": "-c:v libx264 -bf 3 -g 12",
    "open.mp4": "-c:v libx264 -bf 3 -g 12 -x264-params open-gop=1",
    "fragmented.mp4": "-c:v libx264 -g 12 -movflags frag_keyframe+empty_moov",
    "mov": "-c:v mjpeg -q:v 3",
    "mkv": "-c:v libx264 -g 12",
    "webm": "-c:v libvpx -g 12 -deadline realtime",
    "avi": "-c:v mpeg4 -bf 2 -g 12",
    "ogv": "-c:v libtheora -g 12",
}


def ffmpeg(*arguments):
    subprocess.run(["ffmpeg", "-v", "error", "-y", *map(str, arguments)], check=True)


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    folder = tmp_path_factory.mktemp("containers")
    source = "testsrc2=s=64x48:r=24,noise=alls=20:allf=t"
    for suffix, options in CONTAINERS.items():
        ffmpeg("-f", "lavfi", "-i", source, "-frames:v", FRAMES, *options.split(), folder / f"a.{suffix}")
    return folder


@pytest.mark.parametrize("suffix", CONTAINERS)
def test_every_frame_alone_is_the_frame_in_order(clips, suffix):
    path = clips / f"a.{suffix}"
    index = index_frames(path)
    assert abs(len(index) - FRAMES) <= 1
    whole = decode_frames(path, range(len(index)), 48, 64, 3, index)
    assert len({frame.numpy().tobytes() for frame in whole}) > FRAMES - 3
    for i in range(len(index)):
        assert torch.equal(decode_frames(path, [i], 48, 64, 3, index)[0], whole[i]), i
    some = [0, 7, 8, 31, 33, len(index) - 1]
    assert torch.equal(decode_frames(path, some, 48, 64, 3, index), whole[some])


@pytest.fixture(scope="module")
def damaged(clips, tmp_path_factory):
    """Five videos, of which the third is damaged in its middle."""
    folder = tmp_path_factory.mktemp("damaged")
    for i in range(5):
        ffmpeg("-i", clips / "a.mp4", "-vf", f"hue=h={60 * i}", "-g", 8, folder / f"{i}.mp4")
    content = bytearray((folder / "2.mp4").read_bytes())
    low, high = len(content) * 6 // 10, len(content) * 7 // 10
    content[low:high] = np.random.default_rng(0).integers(0, 256, high - low, np.uint8).tobytes()
    (folder / "2.mp4").write_bytes(content)

    return folder


def _of(folder, **options):
    return VideoFolder(VIDEO, str(folder), **{"held_out": 0, "max_bad_share": 0.5, **options})


def test_a_video_damaged_in_its_middle_is_replaced_named_and_found_by_a_deep_look(damaged, capsys):
    data, again = _of(damaged), _of(damaged)
    seeds = range(12)
    clips_ = [data.clip(2, seed) for seed in seeds]
    for seed in reversed(seeds):  # a function of the seed, whatever else was met before
        clip = again.clip(2, seed)
        assert (clip.source, clip.instead_of) == (clips_[seed].source, clips_[seed].instead_of)
        assert torch.equal(clip.data, clips_[seed].data)
    assert {"2.mp4" in clip.source for clip in clips_} == {True, False}
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 2
    assert said[0].startswith("left out: 2.mp4 (")
    assert {row["file"]: row["status"] for row in data.report()}["2.mp4"] == "left out"
    deep = _of(damaged)
    assert list(deep.damaged()) == ["2.mp4"]
    assert {row["file"]: row["status"] for row in deep.report()}["2.mp4"] == "left out"
    late = next(seed for seed in seeds if "2.mp4" not in clips_[seed].source)
    with pytest.raises(BadData, match=r"1 of 5 recordings cannot be used, more than data\.max_bad_share=0"):
        _of(damaged, max_bad_share=0.0).clip(2, late)


CASES = [(share, workers) for share in (0.5, 0.1) for workers in (0, 1)]


def _on_a_rank(rank, count, folder, videos):
    """For each case: what a rank trains in 16 steps of four clips, where it stops, and what it knows of failures."""
    import torch.distributed

    torch.distributed.init_process_group("gloo", f"file://{folder}/{count}", rank=rank, world_size=count)
    parts = Split(4, 4 // count, count, rank)
    for share, workers in CASES:
        data, seen, why = _of(videos, max_bad_share=share), [], ""
        try:
            for batch, _ in zip(
                counted(batches(data, 3, parts, workers=workers), data, Ranks(rank, count, torch.device("cpu"))),
                range(16),
                strict=False,
            ):
                seen.append([clip.source for clip in batch])
        except BadData as error:
            why = str(error)
        except FlowgenError as error:
            why = f"other: {error}"
        (folder / f"{share}-{workers}-{rank}-of-{count}.json").write_text(json.dumps([seen, why, dict(data.failed)]))
    torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def trained(damaged, tmp_path_factory):
    """A folder with what one rank and two ranks met, of every case."""
    folder = tmp_path_factory.mktemp("ranks")
    # not forked from this process, where another test may have left a process group
    start = multiprocessing.get_context("spawn").Process
    ranks = [start(target=_on_a_rank, args=(rank, count, folder, damaged)) for count in (1, 2) for rank in range(count)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(120)
        assert process.exitcode == 0
    return folder


@pytest.mark.parametrize(("share", "workers"), CASES)
def test_ranks_agree_on_what_failed_and_stop_together(trained, share, workers):
    alone, *both = (
        json.loads((trained / f"{share}-{workers}-{name}.json").read_text()) for name in ("0-of-1", "0-of-2", "1-of-2")
    )
    steps = [one + other for one, other in zip(both[0][0], both[1][0], strict=True)]
    assert steps == alone[0]  # the same clips, whoever decoded them
    assert len(steps) == 16 if share == 0.5 else len(steps) < 16
    assert alone[1] == both[0][1] == both[1][1]
    assert bool(alone[1]) == (share == 0.1)
    assert list(alone[2]) == list(both[0][2]) == list(both[1][2]) == ["2.mp4"]


def pictures(folder, *images):
    folder.mkdir(parents=True)
    for i, image in enumerate(images):
        image.save(folder / f"{i}.png")
    return folder


def test_what_is_transparent_shows_black_and_sixteen_bits_keep_their_levels(tmp_path):
    for hidden in ((255, 0, 0), (0, 0, 255)):
        rgba = np.zeros((16, 16, 4), np.uint8)
        rgba[..., :3] = hidden
        rgba[4:12, 4:12] = (0, 200, 0, 255)
        rgba[0, 0] = (100, 200, 50, 128)
        found = read_frames(pictures(tmp_path / str(hidden), Image.fromarray(rgba)), 8, 16, 16, 3)[0]
        assert found[15, 15].tolist() == [0, 0, 0]
        assert found[8, 8].tolist() == [0, 200, 0]
        assert found[0, 0].tolist() == pytest.approx([50, 100, 25], abs=2)
    grey = (np.linspace(0, 65535, 256).round().astype(np.uint16).reshape(16, 16)).copy()
    found = read_frames(pictures(tmp_path / "grey", Image.fromarray(grey)), 8, 16, 16, 1)[0, ..., 0]
    assert np.abs(found.numpy().astype(int) - np.arange(256).reshape(16, 16)).max() <= 1


def test_pictures_have_a_rate_of_their_own(tmp_path):
    pictures(tmp_path / "v" / "one", *(Image.new("L", (16, 16), 10 * i) for i in range(24)))
    video = Video(fps=5, frames=8, height=16, width=16, channels=1)
    data = VideoFolder(video, str(tmp_path / "v"), held_out=0, picture_rate=10.0, crop="start")
    assert data.clip(0, 0).data[:, 0, 0, 0].tolist() == [20 * i for i in range(8)]
    assert data.report()[0]["seconds"] == pytest.approx(2.4)


def test_a_table_of_segments_gives_their_frames(tmp_path):
    pictures(tmp_path / "one", *(Image.new("L", (16, 16), 10 * i) for i in range(24)))
    (tmp_path / "t.csv").write_text("file,from,len\none,0,0.8\none,1.2,0.8\none,2.0,0.8\n")
    video = Video(fps=10, frames=8, height=16, width=16, channels=1)
    data = VideoManifest(video, str(tmp_path / "t.csv"), start="from", duration="len", held_out=0, max_bad_share=0.5)
    assert [data.clip(i, 0).data[0, 0, 0, 0].item() for i in range(2)] == [0, 120]
    assert [item.key for item, _ in data.left_out] == ["one [2-2.8 s]"]


def test_a_sound_track_that_is_not_used_is_named(tmp_path, capsys):
    (tmp_path / "v").mkdir()
    sine = ["-f", "lavfi", "-i", "sine=440:d=2"]
    ffmpeg("-f", "lavfi", "-i", "testsrc=s=32x32:r=10:d=2", *sine, "-metadata", "title=XXXXX", tmp_path / "v" / "a.mp4")
    ffmpeg("-f", "lavfi", "-i", "testsrc2=s=32x32:r=10:d=2", tmp_path / "v" / "b.mp4")
    data = VideoFolder(VIDEO, str(tmp_path / "v"), held_out=0)
    assert data.describe()["sound tracks"].startswith("1 of 2 recordings have one")
    assert [row["sound"] for row in data.report()] == ["yes", "no"]
    VIDEO.read(tmp_path / "v" / "a.mp4")
    assert "sound track is not used" in capsys.readouterr().err


def test_tags_in_another_encoding_do_not_matter(tmp_path):
    path = Path(tmp_path / "a.mp4")
    ffmpeg("-f", "lavfi", "-i", "testsrc=s=32x32:r=10:d=1", "-metadata", "title=XXXXX", path)
    content = path.read_bytes()
    assert b"XXXXX" in content
    path.write_bytes(content.replace(b"XXXXX", "äöüßé".encode("latin-1")))
    assert len(read_frames(path, 10, 16, 16, 3)) == 10


def test_pictures_are_shown_upright_and_colours_of_sixteen_bits_keep_their_levels(tmp_path):
    upright = np.zeros((16, 24, 3), np.uint8)
    upright[:8, :12] = (200, 40, 10)  # marks the corner at the top left
    for orientation, stored in (
        (3, np.rot90(upright, 2)),
        (6, np.rot90(upright, 1)),
        (8, np.rot90(upright, 3)),
        (2, upright[:, ::-1]),
    ):
        exif = Image.Exif()
        exif[0x0112] = orientation
        folder = tmp_path / str(orientation)
        folder.mkdir()
        Image.fromarray(np.ascontiguousarray(stored)).save(folder / "0.png", exif=exif)
        assert shown_size(folder) == (16, 24)
        assert np.array_equal(read_frames(folder, 8, 16, 24, 3)[0].numpy(), upright)
    (tmp_path / "deep").mkdir()
    levels = np.linspace(0, 65535, 256).round().astype(">u2").reshape(16, 16)
    raw = np.stack([levels, levels[::-1], np.full_like(levels, 0x8080)], -1).astype(">u2").tobytes()
    command = [
        "ffmpeg",
        "-v",
        "error",
        "-f",
        "rawvideo",
        "-pix_fmt",
        "rgb48be",
        "-s",
        "16x16",
        "-i",
        "-",
        "-pix_fmt",
        "rgb48be",
        "-y",
    ]
    subprocess.run([*command, str(tmp_path / "deep" / "0.png")], input=raw, check=True)
    found = read_frames(tmp_path / "deep", 8, 16, 16, 3)[0].numpy().astype(int)
    expected = np.arange(256).reshape(16, 16)
    for channel, wanted in enumerate((expected, expected[::-1], np.full((16, 16), 128))):
        assert np.abs(found[..., channel] - wanted).max() <= 1

"""Clips in files, as ffprobe and ffmpeg see them."""

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from flowgen_video.folders import VideoFolder
from flowgen_video.modality import Video
from flowgen_video.moving_digits import MovingDigits

from flowgen.errors import FlowgenError, UsageError
from flowgen.media.clip import Clip
from flowgen.media.pictures import save_moving
from flowgen.plugins.media import Media

FORMATS = {".mp4": "h264", ".webm": "vp9", ".gif": "gif"}


def ramp(frames=10, height=24, width=32, channels=3):
    """Every frame, row, column and channel differs, smoothly."""
    t, y, x, c = torch.meshgrid(*(torch.arange(float(n)) for n in (frames, height, width, channels)), indexing="ij")
    return (20 * t + 40 + 60 * torch.sin(y / 8 + c) + 20 * torch.cos(x / 6 - c)).clamp(0, 255).to(torch.uint8)


def probe(path):
    command = ["ffprobe", "-v", "error", "-count_frames", "-show_streams", "-show_format", "-of", "json"]
    found = json.loads(subprocess.run([*command, str(path)], capture_output=True, check=True).stdout)
    return found["streams"][0], {k.lower(): v for k, v in found["format"].get("tags", {}).items()}


def ffmpeg_frames(path, height, width):
    """Decoded by another program, at the size of the clip."""
    command = f"ffmpeg -v error -i {path} -vf scale={width}:{height}:flags=area -f rawvideo -pix_fmt rgb24 -".split()
    data = subprocess.run(command, capture_output=True, check=True).stdout
    return torch.frombuffer(bytearray(data), dtype=torch.uint8).view(-1, height, width, 3)


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("fps", [8.0, 25.0, 30000 / 1001])
def test_others_see_what_was_written(tmp_path, suffix, fps):
    video, data = Video(fps=fps, frames=10, height=24, width=32), ramp()
    path = tmp_path / f"clip{suffix}"
    settings = {"seed": 3, "prompt": "größer", "long": "x" * 600}
    video.write([Clip(data, rate=fps)], path, settings)
    stream, tags = probe(path)
    assert stream["codec_name"] == FORMATS[suffix]
    assert int(stream["nb_read_frames"]) == 10
    numerator, denominator = map(int, stream["avg_frame_rate"].split("/"))
    assert numerator / denominator == pytest.approx(fps, rel=0.04 if suffix == ".gif" else 1e-3)
    assert json.loads(tags["comment"]) == settings
    assert (stream["width"], stream["height"]) == (256, 192)  # enlarged eight times
    assert (ffmpeg_frames(path, 24, 32).float() - data.float()).abs().mean() < 3  # its own rounding of colours
    read = video.read(path).data
    assert read.shape == data.shape
    error = read.float() - data.float()
    assert error.abs().mean() < (3 if suffix == ".gif" else 1)  # 256 colours of a gif
    assert error.mean((0, 1, 2)).abs().max() < (1 if suffix == ".gif" else 0.25)


def test_mp4_plays_in_browsers(tmp_path):
    path = tmp_path / "clip.mp4"
    Video().write([Clip(ramp(), rate=8.0)], path, {})
    stream, _ = probe(path)
    assert stream["pix_fmt"] == "yuv420p"
    assert stream["color_space"] == stream["color_primaries"] == "bt709"
    data = path.read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")


@pytest.mark.parametrize("suffix", FORMATS)
def test_odd_sizes_and_grey(tmp_path, suffix):
    video = Video(height=23, width=17, channels=1, enlarge=1)
    data = ramp(7, 23, 17, 1)
    path = tmp_path / f"clip{suffix}"
    video.write([Clip(data, rate=8.0)], path, {})
    stream, _ = probe(path)
    padded = (17, 23) if suffix == ".gif" else (18, 24)
    assert (stream["width"], stream["height"]) == padded
    read = video.read(path).data
    assert read.shape == data.shape
    assert (read.float() - data.float()).abs().mean() < 4


@pytest.mark.parametrize("channels", [1, 3])
def test_a_zip_of_pictures_loses_nothing(tmp_path, channels):
    video = Video(height=24, width=32, channels=channels)
    data = torch.randint(0, 256, (12, 24, 32, channels), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    video.write([Clip(data, rate=8.0)], tmp_path / "clip.zip", {"seed": 5})
    assert torch.equal(video.read(tmp_path / "clip.zip").data, data)
    subprocess.run(["unzip", "-q", str(tmp_path / "clip.zip"), "-d", str(tmp_path / "frames")], check=True)
    assert torch.equal(video.read(tmp_path / "frames").data, data)
    told = json.loads((tmp_path / "frames" / "clip.json").read_text())
    assert told == {"fps": 8.0, "frames": 12, "comment": {"seed": 5}}


def test_gif_of_a_still_clip_keeps_every_frame(tmp_path):
    path = tmp_path / "still.gif"
    Video().write([Clip(ramp()[:1].expand(9, -1, -1, -1), rate=8.0)], path, {})
    assert int(probe(path)[0]["nb_read_frames"]) == 9


def test_gif_of_few_colours_is_exact(tmp_path):
    video = Video(frames=12, height=24, width=24, channels=1, enlarge=1)
    clip = MovingDigits(video).clip(3, 0)
    video.write([clip], tmp_path / "digit.gif", {})
    assert torch.equal(ffmpeg_frames(tmp_path / "digit.gif", 24, 24)[..., :1], clip.data)


@pytest.mark.parametrize("enlarge", [1, 3, 10])
def test_enlarge_is_by_whole_pixels(tmp_path, enlarge):
    video = Video(height=24, width=32, channels=1, enlarge=enlarge)
    data = (ramp(channels=1) > 60).to(torch.uint8) * 255
    video.write([Clip(data, rate=8.0)], tmp_path / "c.gif", {})
    shown = ffmpeg_frames(tmp_path / "c.gif", 24 * enlarge, 32 * enlarge)[..., :1]
    assert torch.equal(shown, data.repeat_interleave(enlarge, 1).repeat_interleave(enlarge, 2))


def test_a_full_disk_leaves_nothing(tmp_path):
    """/dev/full refuses every byte; a link to it stands for a disk without room."""
    video, clip = Video(), Clip(ramp(), rate=8.0)
    for suffix in (*FORMATS, ".zip"):
        path = tmp_path / "missing" / f"clip{suffix}"
        path.parent.mkdir(exist_ok=True)
        old = os.stat(path.parent).st_mtime_ns
        with pytest.raises(FlowgenError, match="cannot write"):
            _limited(lambda path=path: video.write([clip], path, {}))
        assert list(path.parent.iterdir()) == [], (suffix, old)


def _limited(write):
    """Run `write` where no file may grow beyond 1 kB, which the system reports as it does a full disk."""
    import resource
    import signal

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        write()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)


def test_refusals_are_sentences(tmp_path):
    video, clip = Video(), Clip(ramp(), rate=8.0)
    (tmp_path / "file").write_text("no folder")
    for path, words in [
        (tmp_path / "clip.avi", "known: .mp4, .webm, .gif, .zip"),
        (tmp_path / "file" / "clip.mp4", "cannot write"),
        (Path("/proc/clip.gif"), "cannot write"),
    ]:
        with pytest.raises(FlowgenError, match=words):
            video.write([clip], path, {})
    with pytest.raises(FlowgenError, match="bytes"):
        video.write([Clip(ramp().float(), rate=8.0)], tmp_path / "a.mp4", {})
    with pytest.raises(UsageError, match="one clip"):
        video.write([clip, clip], tmp_path / "a.mp4", {})
    (tmp_path / "noise.mp4").write_bytes(bytes(range(256)) * 20)
    (tmp_path / "cut.mp4").write_bytes(_mp4(tmp_path)[:300])
    (tmp_path / "noise.zip").write_bytes(b"PK" * 100)
    for name in ("absent.mp4", "noise.mp4", "cut.mp4", "noise.zip", "absent.zip"):
        with pytest.raises(FlowgenError, match=name):
            video.read(tmp_path / name)
    subprocess.run(f"ffmpeg -v error -f lavfi -i sine=d=1 {tmp_path}/sound.m4a".split(), check=True)
    with pytest.raises(FlowgenError, match="no video"):
        video.read(tmp_path / "sound.m4a")


def _mp4(folder):
    Video().write([Clip(ramp(), rate=8.0)], folder / "whole.mp4", {})
    return (folder / "whole.mp4").read_bytes()


@pytest.mark.parametrize("options", [{"frames": 0}, {"height": -1}, {"fps": 0.0}, {"channels": 2}, {"enlarge": -1}])
def test_a_format_that_is_none_is_refused(options):
    with pytest.raises(UsageError, match=next(iter(options))):
        Video(**options)


def test_sheet_shows_every_clip_under_its_caption(tmp_path):
    from PIL import Image

    video = Video(frames=8, height=24, width=24)
    clips = [MovingDigits(video).clip(i, 0) for i in range(3)]
    video.sheet(clips, tmp_path / "bare.png")
    video.sheet(clips, tmp_path / "named.png", [str(c.conditions["caption"]) for c in clips])
    bare, named = Image.open(tmp_path / "bare.png"), Image.open(tmp_path / "named.png")
    assert bare.width == named.width == 4 + 8 * (72 + 4)
    assert bare.height == 4 + 3 * (72 + 4)
    assert named.height > bare.height
    first = torch.tensor(np.asarray(bare.crop((4, 4, 76, 76)).resize((24, 24), Image.Resampling.NEAREST)))
    assert torch.equal(first, clips[0].data[0])


def test_pictures_are_written_as_a_folder_and_read_back_at_their_rate(tmp_path):
    video = Video(fps=8, frames=12, height=24, width=32)
    media = Media("video", video)
    data = torch.randint(0, 256, (12, 24, 32, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    media.write([Clip(data, rate=8.0)], tmp_path / "clip.png", {"seed": 5})
    folder = media.place(tmp_path / "clip.png")
    assert folder == tmp_path / "clip"
    assert torch.equal(video.read(folder).data, data)
    assert torch.equal(
        Video(fps=4, height=24, width=32).read(folder).data, data[::2]
    )  # every second frame of 8 a second
    told = VideoFolder(Video(fps=4, frames=6, height=24, width=32), str(tmp_path), held_out=0)
    assert told.report()[0]["seconds"] == 1.5
    asked = VideoFolder(Video(fps=4, frames=6, height=24, width=32), str(tmp_path), held_out=0, picture_rate=4)
    assert asked.report()[0]["seconds"] == 3
    assert json.loads((folder / "clip.json").read_text()) == {"fps": 8.0, "frames": 12, "comment": {"seed": 5}}
    media.write([Clip(data[:4], rate=8.0)], tmp_path / "clip.png", {})  # none of the longer one is left
    assert len(list(folder.iterdir())) == 5
    (folder / "clip.json").write_text('{"fps": "fast"}')
    with pytest.raises(FlowgenError, match=r"clip: fps is fast in clip\.json; expected frames a second"):
        video.read(folder)
    (folder / "mine.txt").write_text("mine")
    with pytest.raises(FlowgenError, match=r"holds other things, such as mine\.txt"):
        media.write([Clip(data, rate=8.0)], tmp_path / "clip.png", {})
    assert sorted(p.name for p in tmp_path.iterdir()) == ["clip"]


@pytest.mark.parametrize("suffix", [".mp4", ".webm", ".gif"])
def test_a_name_with_a_colon_is_a_file_and_no_protocol(tmp_path, monkeypatch, suffix):
    monkeypatch.chdir(tmp_path)
    path = Path(f"take: 1{suffix}")
    Video(8.0, 10, 24, 32).write([Clip(data=ramp(), rate=8.0)], path, {})
    assert Video(8.0, 10, 24, 32).read(path).data.shape == (10, 24, 32, 3)
    save_moving([np.zeros((16, 16, 3), np.uint8)] * 3, path.with_suffix(".mp4"), 8)
    assert len(Video(8.0, 3, 16, 16).read(path.with_suffix(".mp4")).data) == 3


def test_a_pipe_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "a.mp4")
    with pytest.raises(FlowgenError, match=r"a\.mp4: is no regular file"):
        Video(8.0, 10, 24, 32).read(tmp_path / "a.mp4")

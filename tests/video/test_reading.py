"""Files made by another program: every frame carries its number as its brightness."""

import subprocess

import av
import numpy as np
import pytest
import torch
from flowgen_video.modality import Video
from flowgen_video.reading import decode_frames, index_frames, read_frames, resample, shown_size
from PIL import Image

from flowgen.errors import FlowgenError

FRAMES = 40
CONTAINERS = {
    "mp4": "-c:v libx264 -bf 3 -g 12 -qp 4",
    "mkv": "-c:v libx264 -bf 2 -g 9 -qp 4",
    "mov": "-c:v mpeg4 -q:v 1 -g 10",
    "avi": "-c:v mpeg4 -q:v 1 -g 10",
    "webm": "-c:v libvpx-vp9 -crf 8 -b:v 0 -g 15 -deadline realtime -cpu-used 8",
    "gif": "",
}


def ffmpeg(*arguments):
    subprocess.run(["ffmpeg", "-v", "error", "-y", *" ".join(map(str, arguments)).split()], check=True)


@pytest.fixture(scope="module")
def numbered(tmp_path_factory):
    """A folder of pictures 48 x 36: frame i has the brightness 20 + 5 i, red on the left, and a white top row."""
    folder = tmp_path_factory.mktemp("numbered") / "frames"
    folder.mkdir()
    for i in range(FRAMES):
        picture = np.full((36, 48, 3), 20 + 5 * i, np.uint8)
        picture[:, :12, 1:] = 0
        picture[:6] = 255
        Image.fromarray(picture).save(folder / f"frame-{i}.png")  # not padded: 10 comes after 9
    return folder


@pytest.fixture(scope="module")
def files(numbered):
    for suffix, options in CONTAINERS.items():
        ffmpeg("-framerate 20 -i", numbered / "frame-%d.png", options, numbered.parent / f"clip.{suffix}")
    return {suffix: numbered.parent / f"clip.{suffix}" for suffix in CONTAINERS} | {"folder": numbered}


def numbers(frames):
    """The number that each frame carries."""
    return ((frames[:, 20:30, 30:40].float().mean((1, 2, 3)) - 20) / 5).round().int().tolist()


@pytest.mark.parametrize("kind", [*CONTAINERS, "folder"])
def test_frames_are_counted_and_found_by_index(files, kind):
    index = index_frames(files[kind], fps=20)
    assert len(index) == FRAMES
    assert shown_size(files[kind]) == (36, 48)
    assert index.rate == pytest.approx(20, rel=0.01)
    assert torch.allclose(
        index.times, torch.arange(FRAMES, dtype=torch.float64) / 20, atol=0.006
    )  # a gif has hundredths of a second
    for wanted in ([0], [39], [31, 5, 5, 17], list(range(11, 14)), [38, 39], list(range(FRAMES))):
        assert numbers(decode_frames(files[kind], wanted, 36, 48, 3, index)) == wanted


@pytest.mark.parametrize("kind", ["mp4", "mkv", "webm", "mov"])
def test_only_what_is_needed_is_decoded(files, kind, monkeypatch):
    index = index_frames(files[kind])
    assert len(index.keys) > 2
    decoded = []
    original = av.container.InputContainer.decode
    shown = type("Counting", (), {})

    class Container(shown):
        """The container, with a count of the frames that come out of it."""

        def __init__(self, container):
            self.container = container

        def __getattr__(self, name):
            return getattr(self.container, name)

        def __enter__(self):
            self.container.__enter__()
            return self

        def __exit__(self, *error):
            return self.container.__exit__(*error)

        def decode(self, *args):
            for frame in original(self.container, *args):
                decoded.append(frame)
                yield frame

    real_open = av.open
    monkeypatch.setattr(av, "open", lambda *a, **k: Container(real_open(*a, **k)))
    last = index.keys[-1]
    assert numbers(decode_frames(files[kind], [last + 1], 36, 48, 3, index)) == [last + 1]
    assert len(decoded) <= 4
    decoded.clear()
    assert numbers(decode_frames(files[kind], [1, last + 1], 36, 48, 3, index)) == [1, last + 1]
    assert len(decoded) <= 8


def test_variable_frame_rate_is_resampled_by_timestamps(numbered, tmp_path):
    """The first 20 frames at 20 a second, the other 20 at 5 a second: 5 seconds."""
    path = tmp_path / "vfr.mkv"
    ffmpeg(
        "-framerate 20 -i", numbered / "frame-%d.png", "-vf", "setpts='round(if(lt(N,20),N/20,1+(N-20)/5)/TB)'",
        "-fps_mode vfr -c:v libx264 -qp 4", path,
    )  # fmt: skip
    index = index_frames(path)
    assert len(index) == FRAMES
    steps = index.times.diff()
    assert steps[:19].tolist() == pytest.approx([0.05] * 19, abs=2e-3)
    assert steps[20:].tolist() == pytest.approx([0.2] * 19, abs=2e-3)
    shown = numbers(read_frames(path, 10, 36, 48, 3))
    assert shown[:11] == [0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20]
    assert shown[12::2][:8] == [21, 22, 23, 24, 25, 26, 27, 28]  # a frame of 0.2 s is shown twice


@pytest.mark.parametrize(("source", "fps", "count"), [(49, 24, 49), (51, 25, 51), (61, 8, 20), (16, 60, 39), (1, 8, 1)])
def test_the_number_of_frames_is_the_duration_times_the_rate(source, fps, count):
    times = torch.arange(source, dtype=torch.float64) / 25 if fps != 24 else torch.arange(source) / 24
    kept = resample(times, fps)
    assert len(kept) == count
    assert (kept.diff() >= 0).all()
    assert kept[-1] >= source - max(1, 25 // fps) - 1


def test_a_rate_of_its_own_keeps_every_frame_whatever_the_rounding():
    for fps in (23.976, 24, 25, 29.97, 30, 12.5):
        for count in (2, 17, 49, 481):
            for digits in (2, 3, 6):
                times = (torch.arange(count, dtype=torch.float64) / fps * 10**digits).round() / 10**digits
                assert resample(times, fps).tolist() == list(range(count)), (fps, count, digits)


@pytest.mark.parametrize("angle", [90, 180, 270])
def test_rotated_files_are_shown_upright(files, tmp_path, angle):
    path = tmp_path / "turned.mov"
    ffmpeg("-i", files["mov"], f"-c copy -metadata:s:v:0 rotate={angle}", path)
    size = shown_size(path)
    assert size == ((48, 36) if angle % 180 else (36, 48))
    ours = read_frames(path, 20, *size, 3)
    ffmpeg("-i", path, "-frames:v 1", tmp_path / "upright.png")
    theirs = torch.tensor(np.asarray(Image.open(tmp_path / "upright.png").convert("RGB")))
    assert (ours[0].float() - theirs.float()).abs().mean() < 4


def test_wide_pixels_become_square(files, tmp_path):
    path = tmp_path / "anamorphic.mp4"
    ffmpeg("-i", files["mp4"], "-vf setsar=2 -c:v libx264 -qp 4", path)
    assert shown_size(path) == (36, 96)
    whole = read_frames(path, 20, 36, 96, 3)[0]
    assert whole[30, 20, 1] < 10 < whole[30, 28, 1]  # the red quarter is 24 wide
    middle = read_frames(path, 20, 36, 36, 3)[0]
    assert (middle[30, :, 1] > 10).all()  # 96 wide, of which the middle 36: no red


@pytest.mark.parametrize(("height", "width"), [(18, 24), (17, 23), (36, 36), (50, 20), (72, 96), (9, 48)])
def test_covers_and_crops_around_the_middle(files, height, width):
    frames = read_frames(files["mp4"], 20, height, width, 3)
    assert frames.shape == (FRAMES, height, width, 3)
    scale = max(height / 36, width / 48)
    for y, x in ((0, 0), (height - 1, 0), (0, width - 1), (height // 2, width // 2)):
        row = (y + 0.5 - height / 2) / scale + 18
        column = (x + 0.5 - width / 2) / scale + 24
        if abs(row - 6) > 1.5 and abs(column - 12) > 1.5:
            red_only = column < 12 and row > 6
            assert (int(frames[3, y, x, 1]) < 15) == red_only
            assert (int(frames[3, y, x, 1]) > 200) == (row < 6)


def test_shrinking_is_antialiased(tmp_path):
    """Stripes one pixel wide become even grey, not stripes of another width."""
    stripes = np.zeros((120, 160, 3), np.uint8)
    stripes[:, ::2] = 255
    folder = tmp_path / "stripes"
    folder.mkdir()
    Image.fromarray(stripes).save(folder / "0.png")
    for size in (20, 30, 31, 50, 60):
        frame = read_frames(folder, 8, size, size, 1)[0].float()
        assert frame.mean() == pytest.approx(127.5, abs=3)
        assert frame[2:-2, 2:-2].std() < 6


def test_a_picture_is_a_clip_of_one_frame(numbered):
    clip = Video(height=36, width=48).read(numbered / "frame-7.png")
    assert clip.data.shape == (1, 36, 48, 3)
    assert numbers(clip.data) == [7]


def test_a_frame_that_is_not_there_is_named(files, tmp_path):
    with pytest.raises(FlowgenError, match="from 0 to 39"):
        decode_frames(files["mp4"], [40], 36, 48, 3)
    whole = index_frames(files["mkv"])
    cut = tmp_path / "cut.mkv"
    cut.write_bytes(files["mkv"].read_bytes()[:4000])
    with pytest.raises(FlowgenError, match=r"cut\.mkv: frame \d+ of 40 cannot be decoded"):
        decode_frames(cut, list(range(40)), 36, 48, 3, whole)
    (tmp_path / "empty").mkdir()
    with pytest.raises(FlowgenError, match="folder without pictures"):
        index_frames(tmp_path / "empty")

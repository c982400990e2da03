"""Files that are continued, animated, mended, varied and morphed."""

import json
import subprocess

import av
import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from flowgen.cli import cli
from flowgen.errors import UsageError

CONFIG = """
name: tiny
modality: {type: video, fps: 8, frames: 8, height: 16, width: 16, channels: 1, enlarge: 1}
data: {type: moving-digits, digit_size: 12, directions: 4}
encoder: pixels
network: {type: transformer, width: 32, depth: 1, heads: 2, patch: [1, 8, 8]}
conditions: {digit: {}}
known: [{type: prefix, probability: 0.5, low: 0.1, high: 0.5}]
train: {steps: 20, batch_size: 4, optimizer: {lr: 1e-2}, schedule: {warmup: 0}, validation: {every: 0}, preview: {every: 0}}
sample: {steps: 2, guidance: cfg}
"""


def flowgen(*args):
    return CliRunner().invoke(cli, [str(a) for a in args], catch_exceptions=False)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A run trained with known regions, one trained without, and a clip to start from."""
    folder = tmp_path_factory.mktemp("parts")
    (folder / "known.yaml").write_text(CONFIG)
    (folder / "plain.yaml").write_text("\n".join(line for line in CONFIG.splitlines() if not line.startswith("known")))
    for name in ("known", "plain"):
        assert flowgen("train", folder / f"{name}.yaml", f"run={folder}/{name}", "--quiet").exit_code == 0
    flowgen("sample", folder / "plain", "-c", "digit=3", "--seed", 9, "-o", folder / "clip.gif")
    return folder


def frames(path):
    with av.open(str(path)) as file:
        return np.stack([frame.to_ndarray(format="gray") for frame in file.decode(video=0)]).astype(int)


@pytest.mark.parametrize("run", ["known", "plain"])
def test_a_clip_is_continued_frame_by_frame_from_where_it_ends(runs, tmp_path, run):
    out = tmp_path / "on.gif"
    flowgen("sample", runs / run, "--continue", runs / "clip.gif", "--seconds", 1.5, "-o", out)
    whole, begun = frames(out), frames(runs / "clip.gif")
    assert len(whole) == len(begun) + 12
    assert np.abs(whole[: len(begun)] - begun).max() <= 2  # palettes round


def test_given_frames_come_back_exactly_and_the_rest_is_new(runs, tmp_path):
    from flowgen.runs.generator import Generator
    from flowgen.runs.given import Given

    generator = Generator.load(runs / "known")
    clip = generator.modality.read(runs / "clip.gif")
    first = generator.modality.cut(clip, 0, 0.25)
    asked = [{"digit": 3}, {"digit": 5}]
    made = generator.sample(asked, given=[Given([first])])
    free = generator.sample(asked)
    for with_given, without in zip(made, free, strict=True):
        assert with_given.data[:2].equal(first.data)
        assert not with_given.data[2:].equal(without.data[2:])  # what is given bears on the rest
        assert len(with_given.data) == 8


def test_between_two_pictures(runs, tmp_path):
    out = tmp_path / "between.gif"
    subprocess.run(["ffmpeg", "-v", "error", "-i", runs / "clip.gif", "-frames:v", "1", tmp_path / "a.png"], check=True)
    flowgen("sample", runs / "known", "--between", tmp_path / "a.png", tmp_path / "a.png", "-o", out)
    shown = frames(out)
    assert len(shown) == 8
    assert np.abs(shown[0] - shown[-1]).max() <= 2


def test_inpainting_keeps_what_is_outside(runs, tmp_path):
    out = tmp_path / "mended.gif"
    flowgen("sample", runs / "known", "--inpaint", runs / "clip.gif", "--from", 0.25, "--to", 0.75, "-o", out)
    was, now = frames(runs / "clip.gif"), frames(out)
    assert len(now) == len(was)
    assert np.abs(now - was)[[0, 1, 6, 7]].max() <= 2
    assert np.abs(now - was)[2:6].max() > 2


@pytest.mark.parametrize("run", ["known", "plain"])
def test_inpainting_where_a_mask_is_light(runs, tmp_path, run):
    mask = np.zeros((16, 16), np.uint8)
    mask[:, :8] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    out = tmp_path / "mended.gif"
    flowgen("sample", runs / run, "--inpaint", runs / "clip.gif", "--mask", tmp_path / "mask.png", "-o", out)
    was, now = frames(runs / "clip.gif"), frames(out)
    assert now.shape == was.shape
    assert np.abs(now - was)[:, :, 8:].max() <= 2
    assert np.abs(now - was)[:, :, :8].max() > 2


def test_a_weak_variation_stays_nearer_than_a_strong_one(runs, tmp_path):
    was = frames(runs / "clip.gif")
    far = []
    for strength in (0.05, 0.95):
        flowgen(
            "sample",
            runs / "plain",
            "--vary",
            runs / "clip.gif",
            "--strength",
            strength,
            "-o",
            tmp_path / f"v{strength}.gif",
        )
        far.append(np.abs(frames(tmp_path / f"v{strength}.gif") - was).mean())
    assert far[0] < far[1]


def test_a_morph_makes_as_many_clips_as_asked(runs, tmp_path):
    out = tmp_path / "m.mp4"
    result = flowgen("sample", runs / "plain", "--morph", runs / "clip.gif", runs / "clip.gif", "-n", 3, "-o", out)
    assert len(result.stdout.split()) == 4  # three clips and their sheet
    probe = subprocess.run(
        ["ffprobe", "-v", "error", "-show_format", "-of", "json", tmp_path / "m-1.mp4"], capture_output=True, text=True
    )
    assert json.loads(probe.stdout)["format"]["duration"] == "1.000000"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--continue", "{clip}", "--vary", "{clip}"], "exclude each other"),
        (["--inpaint", "{clip}", "--from", "0.9", "--to", "0.5"], "takes a time range inside the 1.00 s"),
        (["--first", "{clip}"], "takes 8 of 8 steps in time"),
        (["--mask", "{clip}"], "--mask says how to --inpaint FILE; give both"),
        (["--inpaint", "{clip}", "--mask", "{black}"], "all of one shade"),
        (["--inpaint", "{clip}", "--mask", "{black}", "--to", "0.5"], "--mask, or --from and --to"),
    ],
)
def test_parts_that_do_not_fit_are_refused(runs, tmp_path, options, message):
    Image.new("L", (16, 16)).save(runs / "black.png")
    options = [o.format(clip=runs / "clip.gif", black=runs / "black.png") for o in options]
    with pytest.raises(UsageError, match=message):
        flowgen("sample", runs / "known", *options, "-o", tmp_path / "x.gif")
    assert not list(tmp_path.iterdir())

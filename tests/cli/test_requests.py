"""What is asked of a run: every way of sampling from the command line and from Python, at any length, and nothing ignored."""

import json
import os
import re
import shlex
import subprocess
import warnings
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile
import torch
from click.testing import CliRunner
from PIL import Image

from flowgen.cli import cli
from flowgen.errors import FlowgenError, UsageError
from flowgen.media.clip import Clip
from flowgen.runs.generator import Generator
from flowgen.runs.levels import Levels
from flowgen.runs.requests import Animate, Continue, FromClips, FromNoise, Inpaint, Interpolate, Vary

ROOT = Path(__file__).parents[2]


def flowgen(*args):
    return CliRunner().invoke(cli, [str(a) for a in args], catch_exceptions=False)


def frames(path):
    with av.open(str(path)) as file:
        return np.stack([frame.to_ndarray(format="gray") for frame in file.decode(video=0)]).astype(int)


def movie(path, count, step=1):
    """Squares that move by `step`, `count` frames of 16 by 16 at 8 a second."""
    pictures = []
    for i in range(count):
        picture = np.zeros((16, 16), np.uint8)
        picture[4:10, i * step % 10 : i * step % 10 + 5] = 255
        pictures.append(Image.fromarray(picture))
    pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=125, loop=0)
    return path


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    for count in (5, 8, 11):
        movie(folder / f"{count}.gif", count)
    movie(folder / "other.gif", 8, step=3)
    Image.open(folder / "8.gif").convert("L").save(folder / "first.png")
    mask = np.zeros((16, 16), np.uint8)
    mask[:, :8] = 255
    Image.fromarray(mask).save(folder / "mask.png")
    return folder


@pytest.fixture(scope="module")
def digits(untrained_runs):
    return untrained_runs / "runs" / "moving-digits"


@pytest.fixture(scope="module")
def notes(untrained_runs):
    return untrained_runs / "runs" / "notes"


WAYS = {
    "sample": (["--seconds", "0.9"], lambda f: FromNoise(conditions=[{"digit": 3}], seed=2, seconds=0.9)),
    "animate": (
        ["--first", "{f}/first.png"],
        lambda f: Animate(f / "first.png", conditions=[{"digit": 3}], seed=2),
    ),
    "continue": (
        ["--continue", "{f}/5.gif", "--seconds", "1.25"],
        lambda f: Continue(f / "5.gif", seconds=1.25, conditions=[{"digit": 3}], seed=2),
    ),
    "inpaint": (
        ["--inpaint", "{f}/8.gif", "--from", "0.25"],
        lambda f: Inpaint(f / "8.gif", start_s=0.25, conditions=[{"digit": 3}], seed=2),
    ),
    "mask": (
        ["--inpaint", "{f}/8.gif", "--mask", "{f}/mask.png"],
        lambda f: Inpaint(f / "8.gif", mask=f / "mask.png", conditions=[{"digit": 3}], seed=2),
    ),
    "guided": (
        ["--inpaint", "{f}/8.gif", "--from", "0.25", "--method", "guided", "--particles", "2"],
        lambda f: Inpaint(f / "8.gif", start_s=0.25, method="guided", particles=2, conditions=[{"digit": 3}], seed=2),
    ),
    "vary": (
        ["--vary", "{f}/11.gif", "--strength", "0.3"],
        lambda f: Vary(f / "11.gif", strength=0.3, conditions=[{"digit": 3}], seed=2),
    ),
}


@pytest.mark.filterwarnings("ignore:.*(sampled as|trained on)")
@pytest.mark.parametrize("way", WAYS)
def test_one_call_in_python_is_the_command_line(digits, files, tmp_path, way):
    options, request = WAYS[way]
    out = tmp_path / "x.gif"
    flowgen("sample", digits, "-c", "digit=3", "--seed", 2, *(o.format(f=files) for o in options), "-o", out)
    (clip,) = Generator.load(digits).sample(request(files))
    assert np.abs(frames(out) - clip.data[..., 0].numpy().astype(int)).max() <= 2  # palettes round
    assert dict(clip.conditions) == {"digit": 3}


def test_the_metadata_says_what_was_asked_in_every_way(digits, files):
    generator = Generator.load(digits)
    for way, (_, request) in WAYS.items():
        said = json.loads(json.dumps(generator.describe(request(files), run="r")))
        assert said["way"] == {"mask": "inpaint", "guided": "inpaint"}.get(way, way)
        assert {"seed", "run", "step", "steps", "solver", "guidance", "name"} <= said.keys()
    said = generator.describe(request := Inpaint(files / "8.gif", start_s=0.25))
    assert (said["clip"], said["start_s"]) == (str(files / "8.gif"), 0.25)
    assert generator.describe(Interpolate("a", "b"))["guidance"] is None
    assert request.seed == 0


@pytest.mark.parametrize("seconds", [0.2, 0.9, 1.0, 1.6])
def test_any_length_is_rounded_up_said_and_cut_back(digits, seconds):
    generator = Generator.load(digits)
    fits = round(seconds * 8) % 2 == 0
    if fits and seconds <= 1:
        (clip,) = generator.sample([{}], seconds=seconds)
    else:
        said = "sampled as .* cut back" if not fits else r"1.6 times the 1 s trained on"
        with pytest.warns(UserWarning, match=said):
            (clip,) = generator.sample([{}], seconds=seconds)
    assert len(clip.data) == round(seconds * 8)


@pytest.mark.filterwarnings("ignore:.*(sampled as|trained on)")
@pytest.mark.parametrize("count", [5, 11])
def test_a_file_of_any_length_is_taken(digits, files, count):
    generator, file = Generator.load(digits), files / f"{count}.gif"
    was = generator.modality.read(file).data
    (varied,) = generator.sample(Vary(file, strength=0.1))
    first, *_, last = generator.sample(Interpolate(file, file, conditions=[{}] * 3))
    (mended,) = generator.sample(Inpaint(file, start_s=0.25, end_s=0.5))
    (masked,) = generator.sample(Inpaint(file, mask=files / "mask.png"))
    assert [len(c.data) for c in (varied, first, last, mended, masked)] == [count] * 5
    assert mended.data[:2].equal(was[:2])
    assert mended.data[4:].equal(was[4:])
    assert masked.data[:, :, 8:].equal(was[:, :, 8:])
    (ended,) = generator.sample(Animate(None, files / "first.png", seconds=count / 8))
    assert len(ended.data) == count
    assert ended.data[-1].equal(generator.modality.read(files / "first.png").data[0])


def test_sound_of_any_length_is_taken(notes, tmp_path):
    generator = Generator.load(notes)
    wave = np.sin(np.arange(1777) / 5) * 0.3
    soundfile.write(tmp_path / "a.wav", wave, 8000)
    for request in (Vary(tmp_path / "a.wav"), Inpaint(tmp_path / "a.wav", start_s=0.05, end_s=0.1)):
        with pytest.warns(UserWarning, match="cut back"):
            (clip,) = generator.sample(request)
        assert clip.data.shape == (1, 1777)
    (clip,) = generator.sample([{}], seconds=0.5)
    assert clip.data.shape == (1, 4000)
    (clip,) = generator.sample(Continue(tmp_path / "a.wav", seconds=1.1))
    assert clip.data.shape == (1, 1777 + 8800)
    assert clip.data[:, :1777].equal(generator.modality.read(tmp_path / "a.wav").data)


def test_two_lengths_are_refused_by_a_sentence(digits, files):
    with pytest.raises(UsageError, match=r"two clips of one length: .*5.gif is 0.62 s and .*8.gif 1.00 s"):
        Generator.load(digits).sample(Interpolate(files / "5.gif", files / "8.gif"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--strength", "0.3"], "--strength says how to --vary FILE; give both"),
        (["--from", "0.3"], "--from says how to --inpaint FILE"),
        (["--vary", "{f}/8.gif", "--to", "1"], "--to says how to --inpaint FILE"),
        (["--vary", "{f}/8.gif", "--seconds", "2"], "as long as its file; leave out --seconds"),
        (["--inpaint", "{f}/8.gif"], "takes --mask, or --from and --to"),
        (["--method", "guided"], "--method says how to --inpaint FILE"),
        (["--inpaint", "{f}/8.gif", "--from", "0.5", "--particles", "2"], "particles belong to the method guided"),
        (["--inpaint", "{f}/8.gif", "--from", "0.5", "--method", "guided", "--solver", "heun"], "uses no solver"),
        (["--interpolate", "{f}/8.gif", "{f}/8.gif", "--seed", "3"], "--seed would change nothing"),
        (["--interpolate", "{f}/8.gif", "{f}/8.gif", "--guidance", "3"], "--guidance would change nothing"),
        (["--interpolate", "{f}/8.gif", "{f}/8.gif", "--set", "guidance.start=0.5"], "--set guidance.start=0.5"),
        (["--interpolate", "{f}/8.gif", "{f}/8.gif", "--animate", "{f}/x.gif"], "--animate would change nothing"),
        (["--vary", "{f}/8.gif", "--animate", "{f}/x.gif"], "leave one out"),
        (["--set", "guidance=null", "--negative", "digit=3"], "this sample has no guidance"),
        (["--guidance", "1", "--negative", "digit=3"], "this sample has no guidance"),
        (["--negative", "digit=3", "--negative", "digit=4"], "--negative digit: takes one value here, got 3, 4"),
        (["-c", "digit=1", "-c", "digit=2", "-n", "1"], "-n 1 is less than the 2 values"),
        (["-c", "digit=1,2", "-c", "direction=left", "--grid", "-n", "1"], "less than the 2 combinations"),
        (["-c", "digit=1", "--grid"], "every combination of several values"),
        (["-c", "digit=11"], "condition 'digit': unknown value '11'"),
        (["--source", "{f}/8.gif"], "starts from noise and not from clips"),
        (["--steps", "3", "--set", "grid=[0, 0.5, 1]"], "the grid of 3 times has 2 steps"),
        (["--normalise"], "has no loudness"),
        (["--vary", "{f}/none.gif"], "none.gif: there is no such file"),
        (["--device", "gpu"], "the device 'gpu' cannot be used"),
        (["--device", "cuda:77"], "the device 'cuda:77' cannot be used"),
        (["--device", "meta"], "the device 'meta' cannot be used"),
    ],
)
def test_nothing_is_ignored(digits, files, tmp_path, options, message):
    with pytest.raises(FlowgenError, match=re.escape(message)):
        flowgen("sample", digits, *(o.format(f=files) for o in options), "-o", tmp_path / "x.gif")
    assert not list(tmp_path.iterdir())


BY_WAY = {
    "sample": [],
    "animate": ["--first", "{f}/first.png"],
    "continue": ["--continue", "{f}/8.gif"],
    "inpaint": ["--inpaint", "{f}/8.gif", "--from", "0.25"],
    "mask": ["--inpaint", "{f}/8.gif", "--mask", "{f}/mask.png"],
    "vary": ["--vary", "{f}/8.gif"],
    "interpolate": ["--interpolate", "{f}/8.gif", "{f}/other.gif", "-n", "3"],
}
OPTIONS = (
    *(
        "-c direction=left",
        "--negative digit=5",
        "--seed 4",
        "--seconds 0.75",
        "--steps 3",
        "--solver euler",
        "--guidance 4",
    ),
    *("--set guidance.start=0.7", "--set path=cosine", "--weights raw", "--strength 0.9", "--to 0.75"),
)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("way", BY_WAY)
def test_every_option_changes_the_sample_or_is_refused(digits, files, tmp_path, way):
    common = ["-c", "digit=3", *(o.format(f=files) for o in BY_WAY[way])]

    def made(*options):
        done = flowgen("sample", digits, *common, *options, "-o", tmp_path / "x.gif", "--force").stdout.split()
        clips = [path for path in done if path.endswith(".gif")]
        return frames(clips[len(clips) // 2])  # the ends of an interpolation are its clips, whatever the options

    plain = made()
    for option in OPTIONS:
        try:
            changed = made(*option.split())
        except UsageError:
            continue
        assert changed.shape != plain.shape or (changed != plain).any(), f"{way}: {option} changes nothing"


@pytest.mark.parametrize("value", ["nan", "inf", "-inf", "1e99", str(2**70)])
@pytest.mark.parametrize(
    "option", ["-n", "--steps", "--seconds", "--guidance", "--strength", "--seed", "--from", "--on"]
)
def test_a_number_beyond_reason_is_one_sentence(option, value, digits, files, tmp_path):
    file = files / "8.gif"
    more = {"--strength": ["--vary", file], "--from": ["--inpaint", file], "--on": ["--continue", file]}.get(option, [])
    option = "--seconds" if option == "--on" else option
    done = CliRunner().invoke(cli, ["sample", *map(str, (digits, *more, option, value, "-o", tmp_path / "x.gif"))])
    code = done.exception.exit_code if isinstance(done.exception, FlowgenError) else done.exit_code
    assert code == 2, done.exception
    assert isinstance(done.exception, (SystemExit, UsageError))


@pytest.mark.parametrize("option", ["-o", "--vary", "--prompts", "--animate"])
def test_a_nul_byte_is_no_path(digits, option):
    done = flowgen("sample", digits, option, "a\0b")
    assert done.exit_code == 2
    assert "NUL byte" in done.stderr


def test_more_points_than_one_file_shows_are_refused(untrained_runs, tmp_path):
    with pytest.raises(UsageError, match="-n 999999999: one file shows at most 10,000,000 clips"):
        flowgen("sample", untrained_runs / "runs" / "checkerboard", "-n", 999_999_999, "-o", tmp_path / "x.png")


def test_a_grid_is_every_combination(digits, tmp_path):
    out = tmp_path / "g.mp4"
    done = flowgen(
        "sample", digits, "-c", "digit=1,2", "-c", "direction=left", "-c", "direction=right", "--grid", "-o", out
    )
    paths = [Path(line) for line in done.stdout.split()]
    assert [p.name for p in paths] == ["g-0.mp4", "g-1.mp4", "g-2.mp4", "g-3.mp4", "g-sheet.png"]
    asked = [metadata(p)["conditions"] for p in paths[:4]]
    assert [(a["digit"], a["direction"]) for a in asked] == [
        ("1", "left"),
        ("1", "right"),
        ("2", "left"),
        ("2", "right"),
    ]


def metadata(path):
    shown = subprocess.run(
        ["ffprobe", "-v", "error", "-show_format", "-of", "json", path], capture_output=True, text=True, check=True
    )
    tags = json.loads(shown.stdout)["format"]["tags"]
    return json.loads(next(v for v in tags.values() if v.startswith("{")))


def test_values_without_a_count_are_all_sampled(digits, tmp_path):
    flowgen("sample", digits, "-c", "digit=1", "-c", "digit=2", "-o", tmp_path / "x.gif")
    assert {p.name for p in tmp_path.iterdir()} == {"x-0.gif", "x-1.gif", "x-sheet.png"}


def test_files_are_not_overwritten_unless_asked(digits, tmp_path):
    out = tmp_path / "x.gif"
    flowgen("sample", digits, "-o", out)
    before = out.read_bytes()
    with pytest.raises(UsageError, match=r"x.gif would be overwritten; .*--force"):
        flowgen("sample", digits, "--seed", 1, "-o", out)
    assert out.read_bytes() == before
    flowgen("sample", digits, "--seed", 1, "-o", out, "--force")
    assert out.read_bytes() != before
    flowgen("sample", digits, "-n", 2, "-o", out)  # numbered files, which are not there
    with pytest.raises(UsageError, match=r"x-0.gif and 2 more would be overwritten"):
        flowgen("sample", digits, "-n", 2, "-o", out)


def test_without_a_name_every_call_makes_files_of_its_own(digits):
    first, second = (flowgen("sample", digits, "--seed", 5).stdout.strip() for _ in range(2))
    assert first.endswith("moving-digits-seed5.mp4")
    assert second.endswith("moving-digits-seed5-take2.mp4")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("p.csv", "digit,direction\n1,left\n2,\n3,right\n4,up\n5,down\n"),
        ("p.txt", "a three\n\na seven\n"),
        ("p.jsonl", '{"digit": 1, "direction": "left"}\n{"digit": 2}\n\n{"digit": "3", "direction": "right"}\n'),
    ],
)
def test_a_file_of_prompts_is_one_clip_a_row_and_resumes(digits, tmp_path, name, text):
    (tmp_path / name).write_text(text)
    args = ("sample", digits, "--prompts", tmp_path / name, "-o", tmp_path / "made" / "x.mp4")
    flowgen(*args)
    made = sorted((tmp_path / "made").glob("x-?.mp4"))
    assert len(made) == {"p.csv": 5, "p.jsonl": 3, "p.txt": 2}[name]
    assert list(metadata(made[1])["conditions"].values()) in (["2"], [2], ["a seven"])
    before = [path.read_bytes() for path in made]
    made[-1].unlink()
    os.utime(made[0], (1, 1))
    again = flowgen(*args)
    assert f"{len(made) - 1} of {len(made)} rows are there already" in again.stderr
    assert [path.read_bytes() for path in made] == before
    assert made[0].stat().st_mtime == 1  # what is there is left alone
    with pytest.raises(UsageError, match="made of other prompts or settings"):
        flowgen(*args, "--seed", 8)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("p.csv", "digit\n1\n12\n", r"p.csv:3: condition 'digit': unknown value '12'"),
        ("p.csv", "digit,speed\n1\n", r"p.csv:2: has more or fewer cells"),
        ("p.csv", "number\n1\n", r"p.csv:2: unknown condition 'number'"),
        ("p.jsonl", "[1]\n", r"p.jsonl:1: expected a JSON object"),
        ("p.txt", "", "has no row to sample"),
        ("p.xls", "", "takes a .txt, .csv or .jsonl file"),
    ],
)
def test_a_bad_row_is_named(digits, tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(UsageError, match=message):
        flowgen("sample", digits, "--prompts", tmp_path / name, "-o", tmp_path / "made" / "x.mp4")


def test_many_clips_are_written_as_they_are_made(digits, tmp_path, monkeypatch):
    """No more than one batch is held: the first files are there before the last are sampled."""
    seen, real = [], Generator.sample

    def counted(self, request, **options):
        seen.append(len(list(tmp_path.glob("x-*.gif"))))
        assert len(request.chosen) <= 4
        return real(self, request, **options)

    monkeypatch.setattr(Generator, "sample", counted)
    flowgen("sample", digits, "-n", 10, "-c", "digit=1", "-o", tmp_path / "x.gif")
    assert seen == [0, 4, 8]


def test_a_part_of_the_rows_is_what_it_is_among_all(digits, files):
    generator = Generator.load(digits)
    asked = [{"digit": d} for d in range(6)]
    for request in (FromNoise(conditions=asked, seed=1), Vary(files / "8.gif", conditions=asked)):
        whole = generator.sample(request)
        part = generator.sample(replace(request, rows=range(4, 6)))
        assert all(a.data.equal(b.data) for a, b in zip(whole[4:], part, strict=True))
    ways = generator.sample(Interpolate(files / "8.gif", files / "8.gif", conditions=asked))
    assert len(ways) == 6


def test_full_loudness_is_a_peak_of_minus_one_decibel(notes, tmp_path):
    flowgen("sample", notes, "-o", tmp_path / "plain.wav")
    flowgen("sample", notes, "--normalise", "-o", tmp_path / "loud.wav")
    plain, loud = (soundfile.read(tmp_path / name)[0] for name in ("plain.wav", "loud.wav"))
    assert np.abs(loud).max() == pytest.approx(10 ** (-1 / 20), abs=1e-3)
    gain = np.abs(loud).max() / np.abs(plain).max()
    np.testing.assert_allclose(loud, plain * gain, atol=1e-3)


def test_a_clipped_sample_is_said(notes, tmp_path, monkeypatch):
    generator = Generator.load(notes)
    clip = generator.modality.read(sine(tmp_path / "s.wav", 1.0))
    assert generator.modality.at_full_scale(clip) == 0
    monkeypatch.setattr(Generator, "sample", lambda self, request, **options: [replace(clip, data=torch.ones(1, 100))])
    with pytest.warns(UserWarning, match="at full scale and will sound distorted"):
        flowgen("sample", notes, "-o", tmp_path / "x.wav")


@pytest.mark.parametrize(
    ("range_db", "message"), [((-3.0, 1.0), "quieter"), ((-90.0, -80.0), "louder"), ((-60.0, 0.0), "")]
)
def test_samples_that_are_louder_or_quieter_than_the_training_clips_are_said(notes, tmp_path, range_db, message):
    low, high = range_db
    Levels(low, (low + high) / 2, high).write(notes)
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            flowgen("sample", notes, "-n", 2, "-o", tmp_path / "x.wav")
    finally:
        (notes / "levels.json").unlink()
    said = [str(w.message) for w in caught if "than the training clips" in str(w.message)]
    assert [message in text for text in said] == ([True] if message else [])


def test_levels_are_those_of_the_training_clips(notes):
    generator = Generator.load(notes)
    tone = torch.sin(torch.arange(8000) * 2 * torch.pi / 16)[None]
    clips = [Clip(tone * 10 ** (-db / 20), 8000) for db in range(0, 41)] + [Clip(torch.zeros(1, 8000), 8000)]
    levels = Levels.of(generator.modality, clips)
    assert (levels.low, levels.median, levels.high) == pytest.approx((-41.01, -23.01, -5.01), abs=0.01)
    assert Levels.of(generator.modality, clips[-1:]) is None


def sine(path, level, samples=4000):
    soundfile.write(path, 0.9 * level * np.sin(np.arange(samples) / 5), 8000)
    return path


def test_a_bridge_is_asked_for_as_such(untrained_runs, files):
    generator = Generator.load(untrained_runs / "runs" / "bridge")
    with pytest.raises(UsageError, match="this run is a bridge from clips to clips"):
        generator.sample([{}])
    one, other = generator.sample(FromClips(conditions=[{}] * 2))
    assert not one.data.equal(other.data)  # from two held-out clips
    (same,) = generator.sample(FromClips(conditions=[{}] * 2, rows=range(1, 2)))
    assert same.data.equal(other.data)
    with pytest.raises(UsageError, match="give one clip to start from, or one for each of 3; got 2"):
        FromClips(conditions=[{}] * 3, sources=[files / "8.gif"] * 2)


def examples():
    """Every `flowgen sample` of the help and of the pages that use the runs below."""
    from flowgen.cli.sample import sample

    pages = ["README.md", "docs/math.md", "docs/sampling.md"]
    texts = [sample.help, *((ROOT / page).read_text() for page in pages)]
    lines = [line.strip().partition("   #")[0] for text in texts for line in text.splitlines()]
    runs = (line for line in lines if line.startswith("flowgen sample runs/"))
    return sorted(
        {line for line in runs if "runs/sounds" not in line and "runs/film" not in line}
    )  # film: test_duet.py


@pytest.mark.filterwarnings("ignore")
def test_the_python_of_the_page_runs(untrained_runs, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").symlink_to(untrained_runs / "runs")
    (block,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "sampling.md").read_text(), re.S)
    scope = {}
    exec(block, scope)
    assert len(scope["longer"].data) == 12
    assert len(list(tmp_path.glob("?.mp4"))) == 10
    assert metadata(tmp_path / "3.mp4")["way"] == "sample"


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("line", examples())
def test_every_example_runs(untrained_runs, files, tmp_path, monkeypatch, line):
    monkeypatch.chdir(tmp_path)
    run = "notes" if "speech" in line else "moving-digits"
    (tmp_path / "runs").mkdir()
    for path in (untrained_runs / "runs").iterdir():
        (tmp_path / "runs" / path.name).symlink_to(path)
    (tmp_path / "runs" / "mine").symlink_to(untrained_runs / "runs" / run)
    for name in ("first.png", "last.png"):
        (tmp_path / name).write_bytes((files / "first.png").read_bytes())
    for name in ("begun.mp4", "clip.mp4", "a.mp4", "b.mp4", "drawing.mp4"):
        subprocess.run(["ffmpeg", "-v", "error", "-i", files / "8.gif", "-pix_fmt", "yuv420p", name], check=True)
    sine(tmp_path / "speech.wav", 1, 8000)
    (tmp_path / "notes.csv").write_text("pitch,timbre\nC4,flute\nE4,\n")
    words = shlex.split(line.replace("-n 20000", "-n 50"))[1:]
    done = flowgen(*words)
    assert done.exit_code == 0, done.output
    assert all(Path(name).is_file() for name in done.stdout.split())
    assert done.stdout.split()

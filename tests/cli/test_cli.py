"""The command line as a person meets it."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import click
import numpy as np
import pytest
from click.testing import CliRunner

from flowgen.cli import COMMANDS, cli
from flowgen.errors import FlowgenError, UsageError

CONFIG = """
name: tiny
modality: {type: audio, sample_rate: 8000, duration_s: 0.25}
data: notes
encoder: spectrogram
network: {type: transformer, width: 32, depth: 1, heads: 2}
train: {steps: 4, batch_size: 4, log_every: 2, validation: {every: 4, clips: 4}, preview: {every: 4, clips: 2}}
sample: {steps: 2, guidance: cfg}
"""


def flowgen(*args, cwd=None):
    """The real program, in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "flowgen", *map(str, args)], capture_output=True, text=True, cwd=cwd, timeout=300
    )


def here(*args, cwd=None):
    """The same in this process, which spares the seconds that importing torch takes."""
    before = os.getcwd()
    os.chdir(cwd or before)
    try:
        done = CliRunner().invoke(cli, [str(a) for a in args])
    finally:
        os.chdir(before)
    if isinstance(done.exception, FlowgenError):
        return SimpleNamespace(returncode=done.exception.exit_code, stdout=done.stdout, stderr=str(done.exception))
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return SimpleNamespace(returncode=done.exit_code, stdout=done.stdout, stderr=done.stderr)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A trained run, made by the command line."""
    folder = tmp_path_factory.mktemp("cli")
    (folder / "tiny.yaml").write_text(CONFIG)
    done = flowgen("train", folder / "tiny.yaml", f"run={folder}/run")
    assert done.returncode == 0, done.stderr
    assert "parameters" in done.stderr
    assert "go on with: flowgen sample" in done.stderr
    return folder / "run"


def test_help_imports_no_torch_and_no_plugin():
    code = (
        "import sys, runpy; sys.argv = ['flowgen', '--help']\n"
        "try: runpy.run_module('flowgen', run_name='__main__')\n"
        "except SystemExit as e: assert not e.code, e.code\n"
        "heavy = {'torch', 'numpy', 'deepspeed', 'flowgen_audio', 'pydantic'} & sys.modules.keys(); assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "Train a generator" in done.stdout


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_helps_with_examples(name):
    result = CliRunner().invoke(cli, [name, "--help"])
    assert result.exit_code == 0
    command = cli.get_command(None, name)
    subcommands = getattr(command, "commands", {})
    pages = [CliRunner().invoke(cli, [name, sub, "--help"]).output for sub in subcommands] or [result.output]
    for page in pages:
        assert f"flowgen {name}" in page.partition("Example")[2]


def _options(name):
    command = cli.get_command(None, name)
    for page in getattr(command, "commands", {"": command}).values():
        yield from page.params


@pytest.mark.parametrize("name", COMMANDS)
def test_every_number_and_path_is_within_reason(name):
    """Not-a-number, infinity, numbers of 70 bits and NUL bytes are refused where the option is read, in every command."""
    for option in _options(name):
        numeric = isinstance(option.type, (click.types.IntParamType, click.types.FloatParamType))
        path = isinstance(option.type, click.Path)
        for value in ["nan", "inf", "-inf", "1e400", str(2**70)] if numeric else ["a\0b"] if path else []:
            with pytest.raises(click.BadParameter):
                option.type.convert(value, option, click.Context(cli))


def test_the_run_folder_describes_the_run(run):
    assert (run / "config.yaml").is_file()
    sources = json.loads((run / "sources.json").read_text())
    assert sources["sources"]["run"] == "command line"
    assert sources["packages"]["torch"]
    steps = [json.loads(line)["step"] for line in (run / "log.jsonl").read_text().splitlines()]
    assert steps == [2, 4]
    assert list((run / "tensorboard").iterdir())
    levels = json.loads((run / "levels.json").read_text())
    assert -60 < levels["low"] <= levels["median"] <= levels["high"] < 0
    previews = {p.name for p in (run / "previews" / "step-00000004").iterdir()}
    assert {"ema.png", "raw.png", "ema-00.wav", "raw-01.wav"} <= previews


def test_a_sample_plays_and_carries_its_settings(run, tmp_path):
    file = tmp_path / "c4.flac"
    done = flowgen("sample", run, "-c", "pitch=C4", "--seed", "5", "--steps", "3", "--guidance", "3", "-o", file)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [str(file)]
    probe = subprocess.run(
        ["ffprobe", "-v", "error", "-show_format", "-show_streams", "-of", "json", file], capture_output=True, text=True
    )
    shown = json.loads(probe.stdout)
    assert shown["streams"][0]["codec_name"] == "flac"
    assert shown["streams"][0]["sample_rate"] == "8000"
    tags = {k.lower(): v for k, v in shown["format"]["tags"].items()}
    settings = json.loads(tags["comment"])
    assert settings["conditions"] == {"pitch": "C4"}
    assert (settings["seed"], settings["steps"], settings["guidance"]["scale"]) == (5, 3, 3.0)


@pytest.mark.exact
def test_the_same_seed_gives_the_same_clip_whatever_else_is_sampled(run, tmp_path):
    def sample(name, *args):
        done = here("sample", run, "-c", "pitch=C4", "-o", tmp_path / name, *args)
        assert done.returncode == 0, done.stderr

    sample("one.wav")
    sample("two.wav", "-n", "2")
    sample("other.wav", "--seed", "1")
    sample("again.wav")
    audio = {p.name: _samples(p) for p in tmp_path.glob("*.wav")}
    assert np.array_equal(audio["one.wav"], audio["again.wav"])
    # kernels depend on the shape of the batch: what is promised across batches is one step of 16 bits
    assert np.abs(audio["one.wav"] - audio["two-0.wav"]).max() <= 1
    assert np.abs(audio["two-1.wav"] - audio["two-0.wav"]).max() > 100
    assert np.abs(audio["other.wav"] - audio["one.wav"]).max() > 100
    assert (tmp_path / "two-sheet.png").is_file()


def _samples(path):
    done = subprocess.run(["ffmpeg", "-v", "error", "-i", path, "-f", "s16le", "-"], capture_output=True, check=True)
    return np.frombuffer(done.stdout, "<i2").astype(int)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["-c", "pitch=H9"], "condition 'pitch': unknown value 'H9'"),
        (["-c", "pich=C4"], "unknown condition 'pich'; did you mean 'pitch'"),
        (["-c", "pitch"], "expected NAME=VALUE"),
        (["-o", "x.doc"], "unknown file type '.doc'"),
        (["--solver", "eulr"], "unknown solver 'eulr'; did you mean 'euler'"),
        (["--set", "guidance.scal=1"], "unknown key 'sample.guidance.scal'"),
        (["--prompt", "a bird"], "--prompt needs a run with one text condition"),
        (["--animate", "x.gif"], "has no animation"),
    ],
)
def test_a_bad_request_is_refused_before_any_work(run, args, message, tmp_path):
    done = here("sample", run, *args, cwd=tmp_path)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())


def test_a_run_that_is_none_is_named(tmp_path):
    done = here("sample", tmp_path)
    assert done.returncode == 2
    assert "is not a run folder" in done.stderr


def test_an_output_that_cannot_be_written_is_named(run, tmp_path):
    (tmp_path / "file").write_text("in the way")
    done = here("sample", run, "-o", tmp_path / "file" / "x.wav")
    assert done.returncode == 1
    assert "cannot write" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_damaged_checkpoint_is_named(run, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    (weights,) = copy.glob("checkpoints/*4/ema.safetensors")
    weights.write_bytes(weights.read_bytes()[:100])
    done = flowgen("sample", copy)
    assert done.returncode == 1
    assert str(weights) in done.stderr
    assert "Traceback" not in done.stderr


def test_weights_of_another_network_are_refused(run, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    config = copy / "config.yaml"
    config.write_text(config.read_text().replace("depth: 1", "depth: 2"))
    done = here("sample", copy)
    assert done.returncode == 1
    assert "do not fit" in done.stderr
    assert "missing: " in done.stderr


def test_another_encoder_is_refused(run, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    config = copy / "config.yaml"
    config.write_text(config.read_text().replace("floor_db: -80.0", "floor_db: -70.0"))
    done = here("sample", copy)
    assert done.returncode == 1
    assert "the encoder is not the one this run was trained with" in done.stderr


def test_training_into_a_finished_run_is_refused(run):
    done = here("train", run)
    assert done.returncode == 2
    assert "--resume" in done.stderr


def test_an_unreadable_data_condition_is_refused(tmp_path):
    (tmp_path / "c.yaml").write_text(CONFIG + "conditions: {colour: {}}\n")
    done = here("train", tmp_path / "c.yaml", f"run={tmp_path}/run")
    assert done.returncode == 2
    assert "unknown condition of this data set 'colour'" in done.stderr
    assert not (tmp_path / "run").exists()


def test_config_show_and_check(tmp_path):
    (tmp_path / "c.yaml").write_text(CONFIG)
    shown = CliRunner().invoke(cli, ["config", "show", str(tmp_path / "c.yaml"), "train.seed=4"]).output
    assert any(line.split() == ["train.seed", "=", "4", "command", "line"] for line in shown.splitlines())
    assert any(line.split()[-1].endswith("c.yaml:6") and "network.width = 32" in line for line in shown.splitlines())
    (tmp_path / "c.yaml").write_text(CONFIG + "trian: 1\n")
    with pytest.raises(FlowgenError, match=r"c.yaml:9: unknown key 'trian'; did you mean 'train'"):
        CliRunner().invoke(cli, ["config", "check", str(tmp_path / "c.yaml")], catch_exceptions=False)


def test_config_check_refuses_a_loss_that_is_infinite(tmp_path):
    """By what path and times declare: `flowgen plan`, on tensors without values, builds the same loss."""
    said = r"^loss '{}': the velocity of VP is infinite at t = 1, .*predict data, noise or v \(predicts: v\), or draw times"
    for loss, more in (("flow-matching", ""), ("uncertainty", ""), ("flow-matching", "  predicts: velocity\n")):
        (tmp_path / "c.yaml").write_text(CONFIG + f"path: vp\nloss:\n  type: {loss}\n{more}")
        with pytest.raises(UsageError, match=said.format(loss)):
            CliRunner().invoke(cli, ["config", "check", str(tmp_path / "c.yaml")], catch_exceptions=False)
    for rest in ("loss: {type: flow-matching, predicts: v}", "times: logit-normal", "loss: ddpm"):
        path = "" if "ddpm" in rest else "path: vp\n"
        (tmp_path / "c.yaml").write_text(f"{CONFIG}{path}{rest}\n")
        for command in (["config", "check"], ["plan"]):
            result = CliRunner().invoke(cli, [*command, str(tmp_path / "c.yaml")], catch_exceptions=False)
            assert result.exit_code == 0, result.output


def test_every_recipe_passes_its_check():
    names = [line.split()[0] for line in CliRunner().invoke(cli, ["config", "list"]).output.splitlines()]
    result = CliRunner().invoke(cli, ["config", "check", *names], catch_exceptions=False)
    assert result.output.splitlines() == [f"{name}: ok" for name in names]


def test_config_as_yaml_is_a_config(tmp_path):
    (tmp_path / "c.yaml").write_text(CONFIG)
    text = CliRunner().invoke(cli, ["config", "show", "--yaml", str(tmp_path / "c.yaml")]).output
    (tmp_path / "d.yaml").write_text(text)
    again = CliRunner().invoke(cli, ["config", "show", "--yaml", str(tmp_path / "d.yaml")]).output
    assert again == text


def test_data_show_says_what_there_is(tmp_path):
    (tmp_path / "c.yaml").write_text(CONFIG)
    sheet = tmp_path / "sheet.png"
    result = CliRunner().invoke(
        cli, ["data", "show", str(tmp_path / "c.yaml"), "-n", "4", "-o", str(sheet)], catch_exceptions=False
    )
    assert "condition pitch: one of" in result.output
    assert sheet.read_bytes().startswith(b"\x89PNG")


def test_plugins_show_lists_options():
    output = CliRunner().invoke(cli, ["plugins", "show", "guidance/cfg"], catch_exceptions=False).output
    assert "scale: float, default 2.0" in output


def test_from_anywhere_a_recipe_is_found_by_name(tmp_path):
    done = flowgen("config", "check", "points/checkerboard", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert Path(tmp_path).exists()

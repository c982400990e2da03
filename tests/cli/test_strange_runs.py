"""Run folders of strangers: whatever is in them is sampled as it was saved, or refused in one sentence that names the file."""

import contextlib
import json
import pickle
import random
import shutil
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file, save_file

from flowgen.cli import cli
from flowgen.errors import FlowgenError
from flowgen.evaluation import load as load_evaluation
from flowgen.runs.generator import Generator
from flowgen.runs.run import Checkpoint, Run, checksum
from flowgen.training.loggers import read_log
from tests.untrained import BOARD, untrained


@pytest.fixture
def board(untrained_runs, tmp_path):
    """A copy of a run, and the folder of its checkpoint."""
    run = tmp_path / "run"
    shutil.copytree(untrained_runs / "runs" / "checkerboard", run)
    return run, run / "checkpoints" / "step-00000001"


def listed_again(place):
    """As one who means harm does it: the manifest fits."""
    path = place / "manifest.json"
    manifest = json.loads(path.read_text())
    for name, entry in manifest["files"].items():
        entry |= {"bytes": (place / name).stat().st_size, "sha256": checksum(place / name)}
    path.write_text(json.dumps(manifest))


def test_every_flipped_bit_of_the_weights_is_noticed(board):
    run, place = board
    whole = (place / "ema.safetensors").read_bytes()
    dice = random.Random(0)
    for _ in range(60):
        data = bytearray(whole)
        data[dice.randrange(len(data))] ^= 1 << dice.randrange(8)
        (place / "ema.safetensors").write_bytes(data)
        with pytest.raises(FlowgenError, match=r"ema\.safetensors is damaged: its checksum is not the one"):
            Generator.load(run)
    (place / "ema.safetensors").write_bytes(whole)
    assert Generator.load(run).step == 1


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda t: {k: v.double() for k, v in t.items()}, "other types: .* is float64, not float32"),
        (lambda t: {k: v.to(torch.int8) for k, v in t.items()}, "other types: .* is int8, not float32"),
        (lambda t: {k: v[..., :-1] for k, v in t.items()}, "other shapes: "),
        (lambda t: dict(list(t.items())[1:]), "missing: "),
        (lambda t: {**t, "more": torch.zeros(1)}, "unexpected: more"),
    ],
)
def test_weights_that_are_listed_and_do_not_fit_are_refused(board, change, sentence):
    run, place = board
    tensors = change(load_file(place / "ema.safetensors"))
    save_file({k: v.contiguous() for k, v in tensors.items()}, place / "ema.safetensors")
    listed_again(place)
    with pytest.raises(FlowgenError, match=f"do not fit .*{sentence}"):
        Generator.load(run)


DEEP = "[" * 100_000


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "not valid JSON"),
        ("[]", "should be a valid dictionary"),
        (DEEP, "nested too deeply"),
        ('{"step": ' + "9" * 5000 + "}", "a number of thousands of digits"),
        ({"step": "one"}, "step: input should be a valid integer"),
        ({"step": -1}, "step: input should be greater than or equal to 0"),
        ({"files": {"../../config.yaml": {"bytes": 1, "sha256": "0" * 64}}}, "a file lies in the folder of its check"),
        ({"files": {"ema.safetensors": {"bytes": 1, "sha256": 5}}}, r"files\.ema\.safetensors\.sha256: "),
        ({"files": {}}, "is not among the files that manifest.json lists"),
        ({"encoder": None}, "encoder: input should be a valid string"),
        ({"trainer": None}, "a checkpoint that is no export has the key 'trainer'"),
        ({"exported": {"weights": 3}}, r"exported\.weights: "),
        ({"encoder": "another"}, "the encoder is not the one this run was trained with"),
    ],
)
def test_a_manifest_is_checked_like_a_config(board, text, sentence):
    run, place = board
    path = place / "manifest.json"
    path.write_text(text if isinstance(text, str) else json.dumps({**json.loads(path.read_text()), **text}))
    with pytest.raises(FlowgenError, match=sentence) as refused:
        Generator.load(run)
    assert len(str(refused.value)) < 600


def test_links_that_leave_the_folder_are_refused(board, tmp_path):
    run, place = board
    (tmp_path / "elsewhere").mkdir()
    for path, target in (
        (run / "log.jsonl", tmp_path / "outside"),
        (run / "previews", tmp_path / "elsewhere"),
        (place / "network.safetensors", "/etc/hostname"),
        (run / "circle", run / "circle"),
        (run / "wandb" / "id", tmp_path / "outside"),
    ):
        path.parent.mkdir(exist_ok=True)
        kept = path.read_bytes() if path.is_file() else None
        path.unlink(missing_ok=True)
        path.symlink_to(target)
        with pytest.raises(FlowgenError, match=rf"{path} is a link that leads out of {run}"):
            Generator.load(run)
        path.unlink()
        if kept is not None:
            path.write_bytes(kept)
    (run / "newest").symlink_to("checkpoints/step-00000001")  # inside
    (tmp_path / "short").symlink_to(run)  # of the folder as a whole
    logs = run / "wandb" / "offline-run-20260101_000000-abc" / "logs"
    logs.mkdir(parents=True)
    (logs / "debug-core.log").symlink_to(tmp_path / "elsewhere")  # as wandb leaves it
    assert Generator.load(tmp_path / "short").step == 1


def test_a_checkpoint_that_is_not_whole_is_passed_over_and_named(board):
    run, place = board
    (place.parent / "step-00000002").mkdir()
    with pytest.warns(UserWarning, match=r"step-00000002 has no manifest\.json, so it is not whole"):
        assert Generator.load(run).step == 1
    shutil.rmtree(place)
    with pytest.raises(FlowgenError, match="has no checkpoint yet"), pytest.warns(UserWarning, match="not whole"):
        Generator.load(run)


def test_sampling_takes_the_next_checkpoint_where_training_removes_this_one(board, monkeypatch):
    run, place = board
    kept = Checkpoint._verify

    def removed_meanwhile(checkpoint, name):
        if place.is_dir():
            shutil.copytree(place, place.with_name("step-00000002"))
            manifest = json.loads((place / "manifest.json").read_text())
            (place.with_name("step-00000002") / "manifest.json").write_text(json.dumps({**manifest, "step": 2}))
            shutil.rmtree(place)
        kept(checkpoint, name)

    monkeypatch.setattr("flowgen.runs.run.Checkpoint._verify", removed_meanwhile)
    assert Generator.load(run).step == 2


def test_lines_that_are_none_of_a_log_are_left_out(tmp_path):
    lines = [
        '{"step": 1, "loss": 2.0}',
        "[]",
        "3",
        DEEP,
        '{"step": "x"}',
        '{"loss": 1}',
        "\x00",
        '{"step": 2, "loss": "a"',
    ]
    (tmp_path / "log.jsonl").write_text("\n".join(lines))
    assert read_log(tmp_path) == [{"step": 1, "loss": 2.0}]


class Bomb:
    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return Path.touch, (self.mark,)


@pytest.mark.parametrize("write", [lambda bomb, path: path.write_bytes(pickle.dumps(bomb)), torch.save])
def test_no_file_of_a_run_is_unpickled(board, tmp_path, write):
    run, place = board
    mark = tmp_path / "it-went-off"
    files = [p for p in (run / "config.yaml", run / "log.jsonl", *place.rglob("*")) if p.is_file()]
    assert {"config.yaml", "manifest.json", "ema.safetensors", "network.safetensors"} <= {p.name for p in files}
    for path in (*files, run / "encoder.safetensors", run / "eval.json", run / "data.json"):
        whole = path.read_bytes() if path.exists() else None
        write(Bomb(mark), path)
        if path.suffix == ".safetensors" and path.parent == place:
            listed_again(place)
        for use in (
            Generator.load,
            lambda run: Generator.load(run, weights="raw"),
            read_log,
            load_evaluation_of,
            resume,
        ):
            with contextlib.suppress(FlowgenError):
                use(run)
        assert not mark.exists(), path
        path.unlink() if whole is None else path.write_bytes(whole)
    yaml_bomb = f"name: !!python/object/apply:pathlib.Path.touch [!!python/object/apply:pathlib.Path ['{mark}']]\n"
    (run / "config.yaml").write_text(yaml_bomb)
    with pytest.raises(FlowgenError, match=r"config\.yaml:1"):
        Generator.load(run)
    assert not mark.exists()


def load_evaluation_of(run):
    load_evaluation(run / "eval.json")


def resume(run):
    done = CliRunner().invoke(cli, ["train", str(run), "--resume", "--dry-run"])
    assert done.exception is None or isinstance(done.exception, SystemExit | FlowgenError), done.exception


@pytest.mark.parametrize("values", [{}, {"settings": {}}, {"steps": 3, "solver": 4, "guidance": 5}])
def test_an_evaluation_of_others_is_refused_by_the_report_in_a_sentence(board, values):
    run, _ = board
    row = {"metric": "m", "name": "distance", "generated": 1.0, "round_trip": None, "real": 0.5}
    (run / "eval.json").write_text(json.dumps({"step": 1, "clips": 4, "figures": [row], **values}))
    done = CliRunner().invoke(cli, ["report", str(run), "-n", "1"])
    assert done.exit_code == 1
    assert isinstance(done.exception, FlowgenError), done.exception
    assert "flowgen eval RUN" in str(done.exception)


def test_a_name_that_no_folder_can_have_is_no_run():
    with pytest.raises(FlowgenError, match="x has no"):
        Run(Path("x" * 5000)).newest_checkpoint()


def test_a_dry_run_refuses_a_loss_that_cannot_be():
    done = CliRunner().invoke(cli, ["train", "points/checkerboard", "path=vp", "--quiet", "--dry-run"])
    assert done.exit_code != 0
    assert "the velocity of VP is infinite at t = 1" in str(done.exception)
    assert "torchrun" not in done.output


def test_a_run_that_was_trained_on_a_velocity_without_bound_is_sampled(tmp_path):
    """An earlier version took it, and sampling asks no mean of a loss."""
    run = untrained(tmp_path, f"{BOARD}\npath: vp\n", tmp_path / "runs" / "old")
    asked = ["sample", str(run), "-n", "3", "-o", str(tmp_path / "o.npy"), "--solver", "euler"]
    done = CliRunner().invoke(cli, asked, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    with pytest.raises(FlowgenError, match="the velocity of VP is infinite at t = 1"):
        CliRunner().invoke(cli, ["train", str(run), "--resume", "--quiet"], catch_exceptions=False)

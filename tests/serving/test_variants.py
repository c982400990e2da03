"""A run at an earlier step, and with adapters: what a server makes of them is what the command line makes."""

import shutil

import pytest
import torch
from click.testing import CliRunner

from flowgen.cli import cli
from flowgen.errors import UsageError
from flowgen.runs.generator import Generator
from flowgen.serving.jobs import Jobs
from flowgen.serving.loaded import Loaded
from flowgen.serving.sampler import Sampler
from flowgen.weights import read_tensors, write_tensors


@pytest.fixture
def sampler(untrained_runs, tmp_path):
    """Of a run with checkpoints of step 1 and 2, and an adapter."""
    run = tmp_path / "base"
    shutil.copytree(untrained_runs / "runs" / "base", run)
    first, second = (run / "checkpoints" / f"step-0000000{i}" for i in (1, 2))
    shutil.copytree(first, second)
    for name in ("network", "ema"):
        weights = {k: 1.5 * v for k, v in read_tensors(first / f"{name}.safetensors").items()}
        write_tensors(weights, second / f"{name}.safetensors")
    import json

    from tests.untrained import listed

    facts = json.loads((second / "manifest.json").read_text())
    (second / "manifest.json").write_text(json.dumps({**facts, "step": 2, "files": listed(second)}))
    adapters = {"adapted": untrained_runs / "runs" / "adapted"}
    sampler = Sampler(Jobs(tmp_path / "jobs"), Loaded({"base": run}, 1e9, "cpu", adapters))
    sampler.start()
    yield sampler
    sampler.stop(10)


def made(sampler, **asked):
    job = sampler.accept(asked, {}, 10)
    while not job.over:
        sampler.jobs.wait(1)
    assert job.state == "done", job.error
    generator = sampler.loaded.get("base")
    return generator.modality.read(sampler.jobs.place(job) / job.files[0]).data


def test_a_step_is_its_checkpoint(sampler, tmp_path):
    newest, second, first = made(sampler), made(sampler, step=2), made(sampler, step=1)
    assert torch.equal(newest, second)
    assert not torch.equal(newest, first)
    run = sampler.loaded.folders["base"]
    done = CliRunner().invoke(
        cli, ["sample", str(run), "--step", "1", "-o", str(tmp_path / "a.mp4")], catch_exceptions=False
    )
    assert done.exit_code == 0, done.output
    assert torch.equal(sampler.loaded.get("base").modality.read(tmp_path / "a.mp4").data, first)
    with pytest.raises(UsageError, match=r"base has no checkpoint of step 7 \(kept: 1, 2\)") as refused:
        sampler.accept({"step": 7}, {}, 10)
    assert str(tmp_path) not in str(refused.value)
    with pytest.raises(UsageError, match="kept: 1, 2"):
        Generator.load(run, step=7)


def test_an_adapter_is_put_on_with_its_weight(sampler, untrained_runs, tmp_path):
    pytest.importorskip("peft")
    # the adapter was made for the weights of step 1
    plain, half, full = (
        made(sampler, step=1),
        made(sampler, step=1, adapters={"adapted": 4}),
        made(sampler, step=1, adapters={"adapted": 9}),
    )
    off = made(sampler, step=1, adapters={"adapted": {"weight": 9, "start": 0.98, "end": 0.99}})
    assert torch.equal(plain, off)
    assert not torch.equal(plain, full)
    assert not torch.equal(half, full)
    place = untrained_runs / "runs" / "adapted"
    asked = [
        "sample",
        str(sampler.loaded.folders["base"]),
        "--step",
        "1",
        "--adapter",
        f"{place}:9",
        "-o",
        str(tmp_path / "a.mp4"),
    ]
    assert CliRunner().invoke(cli, asked, catch_exceptions=False).exit_code == 0
    assert torch.equal(sampler.loaded.get("base").modality.read(tmp_path / "a.mp4").data, full)
    for wrong, word in (
        ({"adapters": {"other": 1}}, "other"),
        ({"adapters": {"../adapted": 1}}, "adapted"),
        ({"adapters": {"adapted": 99}}, "adapters"),
        ({"adapters": {"adapted": {"start": 0.5, "end": 0.2}}}, "begins before it ends"),
        ({"adapters": {"adapted": 1}, "step": 2}, "adapted"),
    ):
        with pytest.raises(UsageError, match=word) as refused:
            sampler.accept(wrong, {}, 10)
        assert str(tmp_path) not in str(refused.value)
        assert str(untrained_runs) not in str(refused.value)

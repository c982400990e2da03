"""A run becomes a flow map of one evaluation, its guidance folded in: by the command line, resumed exactly."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file

from flowgen.cli import cli
from flowgen.errors import FlowgenError

pytestmark = pytest.mark.slow
CONFIG = """
name: ring
modality: points
data: {type: ring, std: 0.8}  # classes that overlap: guidance moves them further than a short training errs
encoder: {type: points, std: 2.5}
network: {type: mlp, width: 96, depth: 2}
loss: {type: flow-matching, predicts: data}
train: {steps: 300, batch_size: 512, optimizer: {lr: 4.0e-3}, condition_dropout: 0.2, schedule: {warmup: 5, decay: cosine},
  validation: {every: 0}, preview: {every: 0}}
sample: {steps: 16, solver: dpm++2m, guidance: {type: cfg, scale: 2.0, start: 0.0}, batch_size: 500}
"""
FEW = """
extends: ring.yaml
loss: {type: distill, teacher: RUN, scales: [1, 3], predicts: data}
train: {steps: 600, optimizer: {lr: 2.0e-3}, ema: {decay: 0.98}, checkpoint: {every: 300, keep: 3}}
sample: {steps: 1, solver: flow-map, guidance: {type: folded, scale: 2.0}}
"""


def invoke(*args: object) -> None:
    done = CliRunner().invoke(cli, [str(a) for a in args], catch_exceptions=False)
    assert done.exit_code == 0, done.output


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("few")
    (folder / "ring.yaml").write_text(CONFIG)
    (folder / "few.yaml").write_text(FEW.replace("RUN", json.dumps(str(folder / "teacher"))))
    invoke("train", folder / "ring.yaml", f"run={folder}/teacher", "--quiet")
    invoke("train", folder / "few.yaml", f"run={folder}/few", "--init-from", folder / "teacher", "--quiet")
    return folder


def made(run: Path, path: Path, *options: object) -> torch.Tensor:
    invoke("sample", run, "-n", 500, "-c", "class=3", *options, "--force", "-o", path)
    return torch.from_numpy(np.load(path))


def rms(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).square().sum(1).mean().sqrt())


def test_one_evaluation_follows_the_teacher_at_every_scale(runs: Path, tmp_path: Path) -> None:
    """Point by point from the same noise, where one step of the teacher itself goes astray."""
    path = tmp_path / "x.npy"
    for scale in (2.0, 2.5):
        many = made(runs / "teacher", path, "--guidance", scale)
        one = made(runs / "few", path, "--guidance", scale)
        euler = made(runs / "teacher", path, "--guidance", scale, "--steps", 1, "--solver", "euler")
        assert rms(one, many) < 0.15 * rms(euler, many)
    assert rms(made(runs / "few", path, "--guidance", 1.0), many) > 1.2 * rms(one, many)  # the scale is heard
    assert rms(made(runs / "few", path, "--guidance", 2.5, "--steps", 4), many) < rms(one, many)


def test_what_would_guide_twice_is_refused(runs: Path, tmp_path: Path) -> None:
    for run, options, why in (
        ("few", ("--set", "guidance={type: cfg, scale: 2}"), "would count twice"),
        ("few", ("--guidance", 7), "from 1 to 3"),
        ("teacher", ("--set", "guidance={type: folded, scale: 2}"), "not shown a guidance scale"),
    ):
        with pytest.raises(FlowgenError, match=why):
            invoke("sample", runs / run, *options, "-o", tmp_path / "x.npy")


def test_it_resumes_bit_for_bit(runs: Path) -> None:
    again = runs / "again"
    shutil.copytree(runs / "few", again)
    shutil.rmtree(again / "checkpoints" / "step-00000600")
    invoke("train", runs / "few.yaml", f"run={again}", "--resume", "--quiet")
    ours, theirs = (load_file(runs / name / "checkpoints/step-00000600/ema.safetensors") for name in ("few", "again"))
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)

"""AutoGuidance by a run folder, from the command line: alone, in a chain, and refused where the runs do not go together."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

import flowgen
from flowgen.cli import cli
from flowgen.errors import FlowgenError
from flowgen.media.conditions import encode_conditions
from flowgen.runs.generator import Generator

pytestmark = pytest.mark.slow
CONFIG = """
name: ring
modality: points
data: ring
encoder: {type: points, std: 2.5}
network: {type: mlp, width: 48, depth: 2}
train: {steps: 60, batch_size: 128, optimizer: {lr: 5.0e-3}, schedule: {warmup: 5}, validation: {every: 0}, preview: {every: 0}}
sample: {steps: 4, solver: heun, batch_size: 100}
"""


def invoke(*args: object) -> None:
    assert CliRunner().invoke(cli, [str(a) for a in args], catch_exceptions=False).exit_code == 0


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("auto")
    (folder / "ring.yaml").write_text(CONFIG)
    for name, changes in {
        "strong": [],
        "weak": ["train.steps=10", "network.width=16"],
        "scaled": ["train.steps=1", "encoder.std=2"],
        "free": ["train.steps=10", "conditions={}"],
    }.items():
        invoke("train", folder / "ring.yaml", f"run={folder}/{name}", "--quiet", *changes)
    return folder


def made(runs: Path, tmp_path: Path, guidance: str, run: str = "strong", *options: object) -> torch.Tensor:
    invoke(
        "sample", runs / run, "-n", 50, "--set", f"guidance={guidance}", *options, "--force", "-o", tmp_path / "x.npy"
    )
    return torch.from_numpy(np.load(tmp_path / "x.npy"))


def test_the_sample_is_that_of_the_formula(runs: Path, tmp_path: Path) -> None:
    strong, weak = Generator.load(runs / "strong"), Generator.load(runs / "weak", weights="raw")
    flows = [g.loss.flow(g.network) for g in (strong, weak)]
    cond = encode_conditions(strong.conditioners, [{"class": "3"}] * 50)
    null = encode_conditions(strong.conditioners, [{}] * 50)
    auto = flowgen.AutoGuidance(flows[1], 2.5)
    asked = f"{{type: autoguidance, run: {runs}/weak, scale: 2.5}}"
    for guided, text in (
        (auto(flows[0], null), asked),
        (auto(flowgen.CFG(3.0)(flows[0], null), null), f"[{{type: cfg, scale: 3}}, {asked}]"),
    ):
        with torch.no_grad():
            expected = flowgen.sample(
                guided, strong.noise(50, 0), flowgen.uniform_grid(4), solver=flowgen.Heun(), cond=cond
            )
        x = made(runs, tmp_path, text, "strong", "-c", "class=3")
        torch.testing.assert_close(x, expected * strong.encoder.scale, atol=1e-4, rtol=1e-4)
        assert not torch.allclose(x, made(runs, tmp_path, "null", "strong", "-c", "class=3"), atol=0.05)


def test_it_needs_no_conditions(runs: Path, tmp_path: Path) -> None:
    plain = made(runs, tmp_path, "null", "free")
    asked = f"{{type: autoguidance, run: {runs}/free, weights: raw, scale: 3}}"
    assert not torch.allclose(made(runs, tmp_path, asked, "free"), plain, atol=1e-3)
    assert torch.equal(made(runs, tmp_path, "{type: cfg, scale: 3}", "free"), plain)


@pytest.mark.parametrize(
    ("run", "message"),
    [
        ("scaled", "was trained behind another encoder"),
        ("free", "conditions"),
        ("none", "cannot be loaded from .*none.*not a run folder"),
    ],
)
def test_a_run_that_does_not_go_with_it_is_refused(runs: Path, tmp_path: Path, run: str, message: str) -> None:
    with pytest.raises(FlowgenError, match=message):
        made(runs, tmp_path, f"{{type: autoguidance, run: {runs}/{run}}}", "strong", "-c", "class=3")

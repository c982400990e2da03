"""Optimizers: components whose learning rate is the schedule's, and whose state is saved with the run."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from flowgen.config import Document, load, resolve
from flowgen.core.interfaces import Group
from flowgen.errors import UsageError
from flowgen.training.loggers import read_log
from flowgen.training.optimizers import Muon, Part, adamw

MUON = {"type": "muon", "lr": 5e-3, "weight_decay": 0.01}


def state(folder, step=20):
    root = Path(folder) / "checkpoints" / f"step-{step:08d}"
    return {
        (str(p.relative_to(root)), k): v.clone()
        for p in sorted(root.rglob("*.safetensors"))
        for k, v in load_file(p).items()
    }


def losses(folder):
    return [entry["loss"] for entry in read_log(folder)]


@pytest.mark.parametrize(
    ("stage", "optimizer"),
    [(0, MUON), *((stage, {"type": "tiny-momentum"}) for stage in (0, 1, 2, 3))],
    ids=lambda v: str(v) if isinstance(v, int) else v["type"],
)
def test_it_trains_and_resumes_exactly(fit, tiny, tmp_path, stage, optimizer):
    def config(folder):
        return tiny(folder, {"zero_optimization": {"stage": stage}}, optimizer=optimizer)

    fit(config(tmp_path / "whole"))
    shutil.copytree(tmp_path / "whole", tmp_path / "parts")
    shutil.rmtree(tmp_path / "parts" / "checkpoints" / "step-00000020")
    fit(config(tmp_path / "parts"), resume=True)
    one, other = state(tmp_path / "whole"), state(tmp_path / "parts")
    assert one.keys() == other.keys()
    assert all(torch.equal(one[key], other[key]) for key in one)
    assert {key[1].rpartition("/")[2] for key in one if key[0].startswith("optimizer")} >= {"momentum_buffer"}
    found = losses(tmp_path / "whole")
    assert sum(found[-5:]) < 0.8 * sum(found[:5])


def test_the_old_section_is_adamw(tiny, tmp_path):
    old = resolve(Document(tiny(tmp_path / "x", optimizer={"lr": 0.1, "betas": [0.8, 0.9]}))).config.train.optimizer
    assert (old.type, old.options["lr"], tuple(old.options["betas"]), old.options["eps"]) == (
        "adamw",
        0.1,
        (0.8, 0.9),
        1e-8,
    )
    named = resolve(Document(tiny(tmp_path / "x", optimizer="muon"))).config.train.optimizer
    assert (named.type, named.options["momentum"]) == ("muon", 0.95)
    assert load("checkerboard").config.train.optimizer.options["lr"] == 2e-3
    with pytest.raises(
        UsageError, match=r"unknown key 'train\.optimizer\.momentum'.*valid in 'train\.optimizer': lr, betas"
    ):
        resolve(Document(tiny(tmp_path / "x", optimizer={"momentum": 0.9})))


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_muon_needs_whole_matrices(fit, tiny, tmp_path, stage):
    with pytest.raises(UsageError, match=rf"'muon' needs whole matrices, of which ZeRO {stage} gives.*stage=0"):
        fit(tiny(tmp_path / "run", {"zero_optimization": {"stage": stage}}, optimizer=MUON))


def test_muon_takes_matrices_and_its_steps_have_the_size_of_adamws():
    torch.manual_seed(0)
    weights = [torch.nn.Parameter(torch.zeros(*shape)) for shape in ((32, 64), (64,), (4, 3, 5))]
    other = torch.nn.Parameter(torch.zeros(3))
    parts = [Part(weights, Group()), Part([other], Group(rate=0.5, start=7))]
    muon = Muon(parts, lr=1e-2, adamw_rate=2.0)
    by_size = {len(g["params"][0].shape): g for g in muon.param_groups if g["params"][0] is not other}
    assert {n: g["rate"] for n, g in by_size.items()} == {1: 2.0, 2: 1.0, 3: 2.0}
    last = next(g for g in muon.param_groups if g["params"][0] is other)
    assert (last["rate"], last["start"]) == (1.0, 7)
    for p in (*weights, other):
        p.grad = torch.randn_like(p)
    muon.step()
    matrix = weights[0].detach()
    assert float(matrix.square().mean().sqrt()) == pytest.approx(0.2 * 1e-2, rel=0.2)
    values = torch.linalg.svdvals(matrix)
    assert float(values.max() / values.min()) < 3  # orthogonal, up to the five steps of the iteration
    for group in muon.param_groups:
        group["lr"] = 0.0
    before = [p.detach().clone() for p in weights]
    muon.step()
    assert all(torch.equal(a, b) for a, b in zip(before, weights, strict=True))


def test_factors_and_decay_by_group():
    matrix, bias, own = (torch.nn.Parameter(torch.zeros(s)) for s in ((2, 2), (2,), (3,)))
    made = adamw([Part([matrix, bias], Group()), Part([own], Group(0.1, 5))], weight_decay=0.3)
    found = [(g["params"][0].numel(), g["weight_decay"], g["rate"], g["start"]) for g in made.param_groups]
    assert found == [(4, 0.3, 1.0, 0), (2, 0.0, 1.0, 0), (3, 0.0, 0.1, 5)]

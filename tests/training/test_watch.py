"""Who builds a network to look at the run with, and where it lies meanwhile."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from flowgen.runs.experiment import Experiment
from flowgen.training.loggers import read_log
from flowgen.training.watch import Validator


@pytest.fixture
def built(monkeypatch):
    """The networks that are built."""
    networks, build = [], Experiment.new_network
    monkeypatch.setattr(Experiment, "new_network", lambda self: networks.append(build(self)) or networks[-1])
    return networks


def test_a_run_that_is_not_looked_at_builds_one_network(fit, tiny, tmp_path, built):
    fit(tiny(tmp_path / "run", steps=2))
    assert len(built) == 1


def test_looking_takes_one_more_and_changes_nothing(fit, tiny, tmp_path, built):
    fit(tiny(tmp_path / "unseen", steps=4))
    fit(tiny(tmp_path / "seen", steps=4, validation={"every": 2, "clips": 2}))
    assert len(built) == 3
    seen, unseen = ([entry["loss"] for entry in read_log(tmp_path / name)] for name in ("seen", "unseen"))
    assert seen == unseen


def test_the_network_is_on_the_device_only_while_it_is_looked_at(fit, tiny, tmp_path, built, monkeypatch):
    places = []
    monkeypatch.setattr(torch.nn.Module, "to", lambda self, where: places.append(torch.device(where)) or self)
    validator = Validator(*_generator(tiny, tmp_path), [], tmp_path)
    weights = {k: torch.full_like(v, 2.0) for k, v in validator.generator.network.state_dict().items()}
    with validator.showing(weights):
        assert all((p == 2).all() for p in validator.generator.network.parameters())
    assert places == [torch.device("meta"), torch.device("cpu")]


def _generator(tiny, folder):
    from flowgen.config import Document, resolve
    from flowgen.runs.generator import Generator

    experiment = Experiment(resolve(Document(tiny(folder / "run"))).config).complete()
    return [Generator(experiment, experiment.network, torch.device("meta"))]


@pytest.mark.slow
@pytest.mark.parametrize("stage", [2, 3])
def test_the_first_rank_alone_builds_it(tiny, tiny_plugin, tmp_path, stage):
    values = tiny(
        tmp_path / "run", {"zero_optimization": {"stage": stage}}, steps=4, validation={"every": 2, "clips": 2}
    )
    (tmp_path / "jobs.json").write_text(json.dumps([{"train": values}]))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    worker = Path(__file__).with_name("worker.py")
    done = subprocess.run(
        [*command, str(worker), str(tmp_path / "jobs.json")], capture_output=True, text=True, env=tiny_plugin
    )
    assert done.returncode == 0, done.stderr[-4000:]
    counts = [json.loads((tmp_path / "run" / f"held-{rank}.json").read_text())["networks"] for rank in (0, 1)]
    assert counts == [2, 1]
    assert [e["step"] for e in read_log(tmp_path / "run") if "validation/loss" in e] == [2, 4]

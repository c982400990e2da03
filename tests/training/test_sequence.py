"""A run whose ranks share each clip is the run of one rank."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from flowgen.config import Document, resolve
from flowgen.errors import UsageError
from flowgen.training.deepspeed_config import deepspeed_config
from flowgen.training.loggers import read_log

pytestmark = pytest.mark.exact

STAGES = (0, 1, 2, 3)
SEQUENCES = {
    "modality": {"type": "tiny", "channels": 3, "length": 12},
    "network": {"type": "transformer", "width": 32, "depth": 2, "heads": 4, "patch": [2]},
}


@pytest.fixture(scope="module")
def runs(tiny, tiny_plugin, tmp_path_factory):
    root = tmp_path_factory.mktemp("sequence")

    def config(name, shared, stage, **options):
        zero = {"zero_optimization": {"stage": stage, "stage3_param_persistence_threshold": 0}}
        options = {"steps": 10, "checkpoint": {"every": 5}, "condition_dropout": 0.3} | options
        return {"train": tiny(root / name, zero, sequence_parallel=shared, **SEQUENCES, **options)}

    def launch(ranks, jobs):
        (root / "jobs.json").write_text(json.dumps(jobs))
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
        worker = str(Path(__file__).with_name("worker.py"))
        done = subprocess.run(
            [*command, worker, str(root / "jobs.json")], capture_output=True, text=True, env=tiny_plugin
        )
        assert done.returncode == 0, done.stderr[-4000:]

    launch(1, [config("alone", 1, 0)])
    shared = [config(f"shared-{stage}", 2, stage) for stage in STAGES]
    shared += [config("split", 2, 1, micro_batch_size=2, activation_checkpointing=True)]
    moved = {"rewind": str(root / "alone"), "into": str(root / "moved")}
    launch(2, [*shared, moved, {**config("moved", 2, 2), "resume": True}])
    launch(4, [config("two-by-two", 2, 1)])
    return root


@pytest.mark.slow
@pytest.mark.parametrize("name", [*(f"shared-{stage}" for stage in STAGES), "split", "moved", "two-by-two"])
def test_losses_and_weights_are_those_of_one_rank(runs, name):
    one, other = (
        torch.tensor([line["loss"] for line in read_log(runs / which)], dtype=torch.float64)
        for which in ("alone", name)
    )
    assert len(one) == len(other) == 10
    torch.testing.assert_close(other, one, rtol=1e-5, atol=0)
    for which in ("network", "ema"):
        expected, ours = (
            load_file(runs / n / f"checkpoints/step-00000010/{which}.safetensors") for n in ("alone", name)
        )
        for key in expected:
            torch.testing.assert_close(ours[key], expected[key], rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_clips_that_ranks_share_are_counted_once(runs):
    for line in read_log(runs / "shared-0"):
        assert line["positions_per_second"] == pytest.approx(12 * line["clips_per_second"])


def test_what_cannot_be_shared_is_refused(fit, tiny, tmp_path):
    def config(**options):
        return resolve(Document(tiny(tmp_path / "run", **SEQUENCES, **options))).config

    assert deepspeed_config(config(sequence_parallel=2), 4)["train_micro_batch_size_per_gpu"] == 4
    with pytest.raises(
        UsageError, match=r"train\.sequence_parallel=2 needs a number of ranks that is a multiple of it, got 3"
    ):
        deepspeed_config(config(sequence_parallel=2), 3)
    with pytest.raises(UsageError, match=r"train\.compile does not compile the exchanges"):
        deepspeed_config(config(sequence_parallel=2, compile="eager"), 2)
    with pytest.raises(UsageError, match=r"deepspeed\.sequence_parallel_size: it is set by train\.sequence_parallel"):
        deepspeed_config(config(deepspeed={"sequence_parallel_size": 2}), 2)

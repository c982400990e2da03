"""Streams that clips lack, under every ZeRO stage: what is theirs alone does not move, and ranks that differ in them agree."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
from itertools import product
from pathlib import Path

import pytest
import torch
from flowgen_av.bouncing import BouncingSounds
from flowgen_av.modality import AudioVideo
from safetensors.torch import load_file

from flowgen.data.loader import clips_at, make_schedule
from flowgen.training.loggers import read_log

pytestmark = [pytest.mark.slow, pytest.mark.exact]

ROOT = Path(__file__).parents[1]
STAGES, RANKS, STEPS, BATCH = (0, 1, 2, 3), (1, 2), 3, 4
KINDS = {
    "never": "stream-transformer",
    "uneven": "stream-transformer",
    "never exchanged": "exchange-transformer",
}
MEDIUM = {"fps": 8, "frames": 8, "height": 12, "width": 12, "sample_rate": 4000}
CONFIG = {
    "name": "tiny",
    "modality": {"type": "av", **MEDIUM},
    "encoder": {
        "type": "streams",
        "encoders": {"picture": "pixels", "sound": {"type": "spectrogram", "window": 128, "hop": 50, "multiple": 9}},
    },
    "network": {
        "type": "stream-transformer",
        "width": 32,
        "depth": 2,
        "heads": 2,
        "patches": {"picture": [2, 12, 12], "sound": [3]},
    },
    "loss": {"type": "flow-matching", "predicts": "data", "noise_levels": "independent"},
    "loggers": ["jsonl"],
}
TRAIN = {
    "batch_size": BATCH,
    "log_every": 1,
    "optimizer": {"lr": 1e-2, "weight_decay": 0.0},
    "checkpoint": {"every": 100},
    "validation": {"every": 0},
    "preview": {"every": 0},
}


def present(seed, no_picture, step):
    """Which clips of a step have a picture."""
    data = BouncingSounds(AudioVideo(**MEDIUM), radius=1.5, no_picture=no_picture)
    schedule = make_schedule(data, seed, BATCH, 1)
    return [
        "picture" in clip.data for clip in clips_at(data, seed, [schedule.place(step, row) for row in range(BATCH)])
    ]


def seed_where(no_picture, found):
    return next(s for s in range(1000) if found([present(s, no_picture, step) for step in range(STEPS)]))


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    root = tmp_path_factory.mktemp("absent")
    never = seed_where(0.85, lambda steps: not any(map(any, steps)))
    # the first half of the rows is that of the first rank
    uneven = seed_where(0.5, lambda steps: all(any(s[:2]) != any(s[2:]) for s in steps[:2]))
    jobs = {ranks: [] for ranks in RANKS}
    for ranks, stage, name in product(RANKS, STAGES, KINDS):
        seed, share = (uneven, 0.5) if name == "uneven" else (never, 0.85)
        config = copy.deepcopy(CONFIG)
        config["run"] = str(root / f"{name}-{ranks}-{stage}")
        config["network"]["type"] = KINDS[name]
        config["data"] = {"type": "bouncing-sounds", "radius": 1.5, "no_picture": share}
        zero = {"stage": stage, "stage3_param_persistence_threshold": 0}
        config["deepspeed"] = {"zero_optimization": zero}
        config["train"] = {**TRAIN, "steps": STEPS, "seed": seed}
        jobs[ranks].append({"train": config})
    for job, name in zip(jobs[1][: len(KINDS)], KINDS, strict=True):  # what a network begins as
        start = copy.deepcopy(job)
        start["train"]["run"] = str(root / f"start-{name}")
        start["train"]["train"] |= {"steps": 1, "optimizer": {"lr": 1e-30, "weight_decay": 0.0}}
        jobs[1].append(start)
    for ranks, own in jobs.items():
        path = root / f"jobs-{ranks}.json"
        path.write_text(json.dumps(own))
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
        worker = str(ROOT / "training" / "worker.py")
        done = subprocess.run(
            [*command, worker, str(path)], capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
        )
        assert done.returncode == 0, done.stderr[-4000:]
    return root


def weights(folder):
    (path,) = sorted(folder.glob("checkpoints/step-*/network.safetensors"))
    return load_file(path)


@pytest.mark.parametrize(("ranks", "stage", "name"), [*product(RANKS, STAGES, ("never", "never exchanged"))])
def test_parameters_of_a_stream_that_no_clip_has_do_not_move(runs, ranks, stage, name):
    begun, trained = weights(runs / f"start-{name}"), weights(runs / f"{name}-{ranks}-{stage}")
    own = [name for name in begun if "picture" in name]
    assert len(own) > 8
    moved = [name for name in own if not torch.equal(begun[name], trained[name])]
    assert not moved
    assert any(not torch.equal(begun[name], trained[name]) for name in begun if "sound" in name)


@pytest.mark.parametrize("stage", STAGES)
def test_ranks_of_which_one_lacks_a_stream_train_as_one(runs, stage):
    """The negative control is the run above: there, the same parameters stay."""
    one, two = (runs / f"uneven-{ranks}-{stage}" for ranks in RANKS)
    losses = [torch.tensor([entry["loss"] for entry in read_log(run)]) for run in (one, two)]
    assert len(losses[0]) == STEPS
    torch.testing.assert_close(*losses, rtol=1e-5, atol=0)
    for name, value in weights(one).items():
        torch.testing.assert_close(weights(two)[name], value, rtol=1e-4, atol=1e-5)
    begun = weights(runs / "start-uneven")
    assert any(not torch.equal(begun[name], value) for name, value in weights(one).items() if "picture" in name)

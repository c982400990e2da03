"""The balance of streams in training: under every ZeRO stage, on ranks of which one lacks a stream, and after a resume."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
from itertools import product

import pytest
import torch
from safetensors.torch import load_file

from flowgen.config import ComponentConfig, load
from flowgen.errors import UsageError
from flowgen.runs.experiment import Experiment
from flowgen.runs.run import Run
from flowgen.training.loggers import read_log

from .test_absent import CONFIG, ROOT, STAGES, TRAIN, present, seed_where

pytestmark = [pytest.mark.slow, pytest.mark.exact]

RANKS, STEPS, SHARE, DECAY = (1, 2), 4, 0.7, 0.75


def uneven(steps):
    """One rank lacks pictures in the first step, both lack them in the third."""
    return any(steps[0][:2]) != any(steps[0][2:]) and any(steps[1]) and not any(steps[2])


def config(folder, stage=0, balance: float | None = DECAY, **train):
    seed = seed_where(SHARE, lambda steps: uneven([*steps, []][:3]))
    made = copy.deepcopy(CONFIG)
    made["run"] = str(folder)
    made["loss"] |= {"balance": balance, "weights": {"picture": 2, "sound": 1}}
    made["data"] = {"type": "bouncing-sounds", "radius": 1.5, "no_picture": SHARE}
    made["deepspeed"] = {"zero_optimization": {"stage": stage, "stage3_param_persistence_threshold": 0}}
    made["train"] = {**TRAIN, "steps": STEPS, "seed": seed, "checkpoint": {"every": 2}, **train}
    return made


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    root = tmp_path_factory.mktemp("balance")

    def launch(ranks, jobs):
        (root / "jobs.json").write_text(json.dumps(jobs))
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
        done = subprocess.run(
            [*command, str(ROOT / "training" / "worker.py"), str(root / "jobs.json")],
            capture_output=True,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        assert done.returncode == 0, done.stderr[-4000:]

    for ranks in RANKS:
        jobs = [{"train": config(root / f"whole-{ranks}-{stage}", stage)} for stage in STAGES]
        if ranks == 1:
            jobs += [{"train": config(root / "plain", balance=None)}]
            jobs += [{"train": config(root / "split", micro_batch_size=1)}]
            jobs += [{"train": config(root / "watched", validation={"every": 1, "clips": 4, "quantiles": [0.5]})}]
        launch(ranks, jobs)
        jobs = []
        for stage in STAGES:
            whole, parts = root / f"whole-{ranks}-{stage}", root / f"parts-{ranks}-{stage}"
            jobs += [{"rewind": str(whole), "into": str(parts)}, {"train": config(parts, stage), "resume": True}]
        launch(ranks, jobs)
    return root


def averages(folder):
    return Run(folder).newest_checkpoint().manifest["trainer"]["balance"]


def logged(folder, name):
    return [entry.get(name) for entry in read_log(folder)]


def test_the_seed_has_the_steps_that_are_tested():
    seed = config("x")["train"]["seed"]
    assert uneven([present(seed, SHARE, step) for step in range(3)])


@pytest.mark.parametrize(("ranks", "stage"), [*product(RANKS, STAGES)])
def test_the_averages_are_those_of_the_logged_losses(runs, ranks, stage):
    """The losses in the log are as they are, of all ranks; a stream that no clip of a step has stays where it was."""
    folder = runs / f"whole-{ranks}-{stage}"
    for name in ("picture", "sound"):
        total, weight = 0.0, 0.0
        for loss, average in zip(
            logged(folder, f"loss_by_stream/{name}"), logged(folder, f"loss_average/{name}"), strict=True
        ):
            if loss is not None:
                total, weight = DECAY * total + (1 - DECAY) * loss, DECAY * weight + (1 - DECAY)
            assert average == pytest.approx(total / weight, rel=1e-6)
        assert averages(folder)[name] == pytest.approx([total, weight], rel=1e-6)
    assert logged(folder, "loss_by_stream/picture")[2] is None
    kept = logged(folder, "loss_average/picture")
    assert kept[2] == kept[1] != kept[0]


def test_what_is_trained_is_divided_by_the_averages_of_the_steps_before(runs):
    """Of steps in which all clips have all streams the logged total would be the sum; here, by what each clip has."""
    balanced, plain = (logged(runs / name, "loss") for name in ("whole-1-0", "plain"))
    assert balanced[0] == plain[0]  # nothing to divide by so far
    assert balanced[1] != plain[1]
    one, other = (load_file(runs / f / "checkpoints/step-00000004/network.safetensors") for f in ("whole-1-0", "plain"))
    assert any(not torch.equal(one[key], other[key]) for key in one)
    # the third step has sound alone: 1/3 of it, divided by the average after two steps
    sound, average = (logged(runs / "whole-1-0", f"{name}/sound") for name in ("loss_by_stream", "loss_average"))
    assert balanced[2] == pytest.approx(sound[2] / average[1] / 3, rel=1e-5)


@pytest.mark.parametrize(("ranks", "stage"), [*product(RANKS, STAGES)])
def test_ranks_and_stages_train_as_one(runs, ranks, stage):
    assert logged(runs / f"whole-{ranks}-{stage}", "loss") == pytest.approx(
        logged(runs / "whole-1-0", "loss"), rel=1e-5
    )


def test_micro_batches_of_a_step_are_divided_alike(runs):
    assert logged(runs / "split", "loss") == pytest.approx(logged(runs / "whole-1-0", "loss"), rel=1e-5)


@pytest.mark.parametrize(("ranks", "stage"), [*product(RANKS, STAGES)])
def test_a_resumed_run_is_exact(runs, ranks, stage):
    one, other = (runs / f"{kind}-{ranks}-{stage}" for kind in ("whole", "parts"))
    assert averages(one) == averages(other)
    assert logged(one, "loss") == logged(other, "loss")
    assert logged(one, "loss_average/sound") == logged(other, "loss_average/sound")
    for file in ("network", "ema"):
        a, b = (load_file(f / f"checkpoints/step-00000004/{file}.safetensors") for f in (one, other))
        assert all(torch.equal(a[key], b[key]) for key in a)


def test_validation_moves_no_average_and_is_not_divided(runs):
    assert logged(runs / "watched", "loss") == logged(runs / "whole-1-0", "loss")
    assert averages(runs / "watched") == averages(runs / "whole-1-0")
    for entry in read_log(runs / "watched"):
        picture, sound = (entry[f"validation/loss_by_stream/{name}"] for name in ("picture", "sound"))
        assert entry["validation/loss"] == pytest.approx(
            (2 * picture + sound) / 3, rel=1e-5
        )  # held-out clips have both


def test_one_stream_has_nothing_to_balance():
    loss = ComponentConfig(type="flow-matching", balance=0.9)
    alone = load("points/checkerboard").config.model_copy(update={"loss": loss})
    with pytest.raises(UsageError, match="balance is of several streams"):
        _ = Experiment(alone).loss

"""What would go wrong on an accelerator, seen without one: tensors that say they are there, and have no memory.

An operation that mixes them with tensors of the host is an error, and so is one that reads their values, for which the host
would wait.
"""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import nn

from flowgen.config import load
from flowgen.core.interfaces import MASK
from flowgen.core.random import Randomness
from flowgen.core.tree import tree_map
from flowgen.media.conditions import null_conditions
from flowgen.runs.experiment import Experiment
from flowgen.training.internals import Undecided, fake_tensors

KIND = "cuda"
RECIPES = [
    *("points/checkerboard", "points/checkerboard-tutorial", "demo/audio", "demo/video", "audio/notes"),
    *("video/moving-digits", "av/bouncing-sounds"),
]


@dataclass(frozen=True)
class There(Randomness):
    """Noise of the right shape on the right device; times are drawn on the host, as they are in a run."""

    def normal(self, like, purpose="noise"):
        return tree_map(torch.zeros_like, like)


def forward(config, masked=False):
    """The loss of a step on tensors that say they are on an accelerator."""
    experiment = Experiment(config).complete()
    null = null_conditions(experiment.conditioners, 4)
    if isinstance(experiment.loss, nn.Module):  # the engine moves it with the network
        del experiment.loss, experiment.objective
        with fake_tensors(), torch.device(KIND):
            assert experiment.loss is not None
    loss = experiment.loss
    with fake_tensors():
        with torch.device(KIND):
            network = experiment.new_network()
        x1 = tree_map(lambda stream: torch.zeros(4, *stream.shape, device=KIND), experiment.spec)
        cond = tree_map(lambda v: torch.zeros(v.shape, dtype=v.dtype, device=KIND), null)
        known = tree_map(lambda x: torch.zeros(x.shape[:-1], dtype=torch.bool, device=KIND), x1)
        if masked:
            cond[MASK] = tree_map(lambda x: torch.ones(x.shape[:-1], dtype=torch.bool, device=KIND), x1)
        return loss(network, x1, cond, There(0, 0, 4), known if config.known else None)


CHANGES = {
    "as it is": [],
    "masked": [],
    "sentences": ["conditions={digit: {type: text}}"],
    "shifts of each clip": ["shift={base: 256}"],
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("recipe", RECIPES)
def test_a_step_mixes_no_devices_and_reads_no_values(recipe, change):
    if (change != "as it is" and recipe.startswith("points/")) or (change == "sentences" and recipe != "demo/video"):
        pytest.skip("these clips have no length or no words")
    output = forward(load(recipe, ["train.batch_size=4", *CHANGES[change]]).config, change == "masked")
    assert output.total.device.type == KIND
    assert output.total.requires_grad


LOSSES = {
    **{name: [] for name in ("consistency", "edm", "flow-map", "uncertainty")},
    **{name: ["path=null", "times=null"] for name in ("ddpm", "rectified-flow", "score-matching")},
}


@pytest.mark.parametrize("loss", LOSSES)
def test_no_loss_mixes_devices_or_reads_values(loss):
    sections = [*LOSSES[loss], f"loss={{type: {loss}}}", "sample={steps: 2}"]
    output = forward(load("demo/video", ["train.batch_size=4", *sections]).config)
    assert output.total.device.type == KIND


@pytest.mark.parametrize("path", ["betas", "cosine", "ve", "vp"])
def test_no_path_mixes_devices_or_reads_values(path):
    own = [f"path={{type: {path}}}", "loss={type: flow-matching, predicts: noise}"]
    assert forward(load("demo/video", ["train.batch_size=4", *own]).config).total.device.type == KIND


def test_what_reads_a_value_is_found(monkeypatch):
    from flowgen.nn import MLP

    monkeypatch.setattr(MLP, "forward", lambda self, x, t, cond: x if x.sum() > 0 else -x)
    with pytest.raises(Undecided):
        forward(load("points/checkerboard").config)


def test_what_mixes_devices_is_found(monkeypatch):
    from flowgen.nn import MLP

    monkeypatch.setattr(MLP, "forward", lambda self, x, t, cond: x + torch.ones(4, 2, device="cpu"))
    with pytest.raises(Exception, match="same device"):
        forward(load("points/checkerboard").config)

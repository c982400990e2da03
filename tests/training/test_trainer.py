"""What a run computes, on one process."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file

from flowgen.config import Document, resolve
from flowgen.data.loader import Order, Split, batches
from flowgen.errors import FlowgenError, UsageError
from flowgen.experiment import (
    build_conditioners,
    build_dataset,
    build_encoder,
    build_loss,
    build_modality,
    build_network,
    settle_conditions,
)
from flowgen.random import Randomness
from flowgen.run import Run
from flowgen.training.loggers import read_log
from flowgen.training.prepare import sample_clips
from flowgen.training.schedule import learning_rate


def losses(folder):
    return [entry["loss"] for entry in read_log(folder)]


def weights(folder, step, which="network"):
    return load_file(folder / "checkpoints" / f"step-{step:08d}" / f"{which}.safetensors")


def plain_loop(values):
    """The same training in plain torch: the losses, and the weights after each step."""
    config = resolve(Document(values)).config
    modality = build_modality(config)
    dataset = build_dataset(config, modality)
    config = settle_conditions(config, dataset)
    encoder = build_encoder(config, modality)
    encoder.fit(sample_clips(dataset, 0, 256))
    conditioners = build_conditioners(config)
    loss = build_loss(config)
    network = build_network(config, encoder.spec, conditioners)
    options = config.train
    groups = [
        {"params": [p for p in network.parameters() if p.ndim >= 2]},
        {"params": [p for p in network.parameters() if p.ndim < 2], "weight_decay": 0.0},
    ]
    adamw = torch.optim.AdamW(groups, betas=options.optimizer.betas, weight_decay=options.optimizer.weight_decay)
    data = batches(dataset, 0, Split(options.batch_size, options.batch_size))
    seen, history = [], []
    for step in range(options.steps):
        clips = next(data)
        x1 = encoder.encode(clips).x
        kinds = torch.stack([conditioners["kind"].encode(c.conditions["kind"]) for c in clips])
        random = Randomness(0, step, options.batch_size)
        dropped = random.uniform("drop all") < options.condition_dropout
        cond = {"kind": torch.where(dropped, conditioners["kind"].null(), kinds)}
        total = loss(network, x1, cond, random).total.mean()
        adamw.zero_grad()
        total.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), options.clip)
        for group in adamw.param_groups:
            group["lr"] = learning_rate(options.schedule, options.optimizer.lr, step, options.steps)
        adamw.step()
        seen.append(total.item())
        history.append({k: v.clone() for k, v in network.state_dict().items()})
    return seen, history


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
@pytest.mark.parametrize("micro", [8, 2])
def test_losses_and_averages_are_those_of_a_plain_loop(fit, tiny, tmp_path, stage, micro):
    network = {"type": "tiny-blocks", "dropout": 0.0}
    values = tiny(
        tmp_path / "run",
        {"zero_optimization": {"stage": stage}},
        network=network,
        micro_batch_size=micro,
        clip=0.5,
        condition_dropout=0.3,
    )
    fit(values)
    expected, history = plain_loop(values)
    assert losses(tmp_path / "run") == pytest.approx(expected, rel=1e-5 if micro < 8 else 1e-6)
    average = history[0]
    initial = None
    raw, ema = weights(tmp_path / "run", 20), weights(tmp_path / "run", 20, "ema")
    for name in raw:
        torch.testing.assert_close(raw[name], history[-1][name], rtol=1e-4, atol=1e-5)
    del average, initial
    assert any(not torch.equal(raw[name], ema[name]) for name in raw)


def test_the_average_is_a_plain_one_in_float32(fit, tiny, tmp_path):
    values = tiny(tmp_path / "run", steps=20, ema={"decay": 0.9}, checkpoint={"every": 1, "keep": 30})
    fit(values)
    config = resolve(Document(values)).config
    modality = build_modality(config)
    encoder = build_encoder(config, modality)
    conditioners = build_conditioners(settle_conditions(config, build_dataset(config, modality)))
    average = {k: v.clone() for k, v in build_network(config, encoder.spec, conditioners).state_dict().items()}
    for step in range(20):
        decay = min(0.9, (1 + step) / (10 + step))
        for name, new in weights(tmp_path / "run", step + 1).items():
            average[name] = torch.lerp(average[name], new, 1 - decay)
        for name, ours in weights(tmp_path / "run", step + 1, "ema").items():
            torch.testing.assert_close(ours, average[name], rtol=0, atol=0)

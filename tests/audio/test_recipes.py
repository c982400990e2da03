"""The shipped audio recipes are valid, their parts fit together, and a shortened demo learns."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from flowgen.config import build, load
from flowgen.core.random import Randomness
from flowgen.media.conditions import encode_conditions
from flowgen.runs.experiment import Experiment

FSDD = Path(__file__).parents[2].parent / "shared/data/fsdd"
RECIPES = [
    "demo/audio",
    "audio/notes",
    pytest.param("audio/fsdd", marks=pytest.mark.skipif(not FSDD.is_dir(), reason="no digits")),
]


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_takes_training_clips_through_its_network(name: str) -> None:
    config = load(name, [f"data.folder={FSDD}"] if name == "audio/fsdd" else []).config
    experiment = Experiment(config).complete()
    modality, dataset, encoder = experiment.modality, experiment.dataset, experiment.encoder
    conditioners, network = experiment.conditioners, experiment.network
    clips = [dataset.clip(0, 0), dataset.clip(1, 0)]
    encoder.fit(clips)
    x = encoder.encode(clips).x
    assert tuple(x.shape[1:]) == encoder.spec.shape
    cond = encode_conditions(conditioners, [{k: c.conditions[k] for k in conditioners} for c in clips])
    assert network(x, torch.rand(2), cond).shape == x.shape
    assert len(dataset.validation()) >= config.eval.clips
    assert [build("metric", m, modality=modality, dataset=dataset) for m in config.eval.metrics]


def test_a_shortened_demo_learns() -> None:
    """In 60 steps of a small network the loss falls below half of that of predicting the mean."""
    config = load("demo/audio", ["network.width=64", "network.depth=2"]).config
    experiment = Experiment(config).complete()
    dataset, encoder, loss = experiment.dataset, experiment.encoder, experiment.loss
    clips = [dataset.clip(i, 0) for i in range(64)]
    encoder.fit(clips)
    network, conditioners = experiment.network, experiment.conditioners
    x1 = encoder.encode(clips).x
    cond = encode_conditions(conditioners, [c.conditions for c in clips])
    optimizer = torch.optim.Adam(network.parameters(), 3e-3)
    losses = []
    for step in range(60):
        value = loss(network, x1, cond, Randomness(0, step, 64)).total.mean()
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        losses.append(float(value))
    assert sum(losses[-5:]) / 5 < 0.5 * losses[0]

"""The shipped audio recipes are valid, their parts fit together, and a shortened demo learns."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile
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
    assert [build("metric", m, modality=modality, dataset=dataset, encoder=encoder) for m in config.eval.metrics]


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


def test_one_shots_takes_a_small_folder_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for i in range(10):
        wave = np.concatenate([np.zeros(4000), 0.5 * np.sin(np.arange(4000 + 6000 * i) * (0.05 + 0.01 * i))])
        path = tmp_path / "sounds" / ("low", "high")[i // 5] / f"{i}.{('wav', 'flac', 'ogg')[i % 3]}"
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, wave if i % 2 else np.stack([wave, 0.5 * wave], 1), 44100 if i % 3 else 22050)
    (tmp_path / "sounds" / "low" / "broken.wav").write_bytes(b"RIFF")
    experiment = Experiment(load("audio/one-shots", [f"data.folder={tmp_path / 'sounds'}"]).config).complete()
    dataset, encoder = experiment.dataset, experiment.encoder
    assert len(dataset.validation()) >= 1
    assert "broken.wav" in str(dataset.describe()["left out"])
    clips = [dataset.clip(i, 0) for i in range(4)]
    assert all(clip.data.shape == (2, 33075) for clip in clips)  # type: ignore[union-attr]
    assert min(float(clip.data[:, :2000].abs().max()) for clip in clips) > 0.1  # type: ignore[index]
    encoder.fit(clips)
    x = encoder.encode(clips).x
    names = experiment.conditioners
    cond = encode_conditions(names, [{k: c.conditions[k] for k in names} for c in clips])
    assert experiment.network(x, torch.rand(4), cond).shape == x.shape

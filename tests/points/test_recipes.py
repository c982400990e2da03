"""The recipes hold together, and a shortened one learns."""

from __future__ import annotations

import torch
from flowgen_points.datasets import Checkerboard

from flowgen.config import build, load
from flowgen.core.random import Randomness, normal_rows
from flowgen.core.sampler import sample
from flowgen.core.times import uniform_grid
from flowgen.media.encoder import Latents
from flowgen.runs.experiment import Experiment


def test_the_tutorials_recipe_is_the_tutorials() -> None:
    config = load("points/checkerboard-tutorial").config
    assert config.network.options == {"width": 512, "depth": 5, "max_frequency": 10_000.0, "octaves": 0}
    assert (config.train.steps, config.train.batch_size, config.sample.steps) == (500_000, 64, 1000)
    assert config.sample.solver.type == "euler"


def test_a_shortened_recipe_finds_the_board() -> None:
    """A density that knows no squares has at most half of itself on the filled ones, as the untrained network shows."""
    config = load("points/checkerboard", ["network.width=64", "network.depth=2"]).config
    experiment = Experiment(config).complete()
    modality, dataset = experiment.modality, experiment.dataset
    assert isinstance(dataset, Checkerboard)
    encoder, loss, network = experiment.encoder, experiment.loss, experiment.network
    (metric,) = (build("metric", m, modality=modality, dataset=dataset) for m in config.eval.metrics)
    noise = normal_rows((1, "noise"), torch.arange(4000), (2,))

    def share() -> float:
        x = sample(loss.flow(network), noise, uniform_grid(16))
        return metric.measure(encoder.decode(Latents(x)), [])["on_filled_squares"]

    assert share() < 0.5
    optimizer = torch.optim.Adam(network.parameters(), 5e-3)
    for step in range(300):
        x1 = encoder.encode(dataset.clips(range(512), [step] * 512)).x
        value = loss(network, x1, {}, Randomness(0, step, 512)).total.mean()
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
    assert share() > 0.62

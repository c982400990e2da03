"""The shipped recipes are valid, and their parts fit together."""

from pathlib import Path

import pytest
import torch

from flowgen.config import load
from flowgen.media.conditions import encode_conditions
from flowgen.runs.experiment import Experiment

DATA = Path(__file__).parents[2].parent / "shared" / "data"


@pytest.mark.parametrize("name", ["demo/video", "video/moving-digits", "video/weizmann"])
def test_a_recipe_takes_a_training_clip_through_its_network(name):
    overrides = []
    if name == "video/weizmann":
        if not DATA.is_dir():
            pytest.skip("no shared data")
        overrides = [f"data.manifest={DATA / 'weizmann64' / 'manifest.jsonl'}", "data.cache=false"]
    config = load(name, overrides).config
    experiment = Experiment(config).complete()
    dataset, encoder = experiment.dataset, experiment.encoder
    conditioners, network = experiment.conditioners, experiment.network
    clips = [dataset.clip(0, 0), dataset.clip(1, 0)]
    x = encoder.encode(clips).x
    cond = encode_conditions(conditioners, [{k: c.conditions[k] for k in conditioners} for c in clips])
    assert network(x, torch.rand(2), cond).shape == x.shape
    assert len(dataset.validation()) >= config.eval.clips

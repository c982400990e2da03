"""A tiny audio run, too short to have learned anything."""

from __future__ import annotations

from pathlib import Path

import pytest
from rich.console import Console

CONFIG = """
name: tiny
modality: {type: audio, sample_rate: 8000, duration_s: 0.5}
data: {type: notes, low: C4, high: G4, validation_size: 40}
encoder: {type: spectrogram, iterations: 4}
network: {type: transformer, width: 32, depth: 1, heads: 2}
train:
  steps: 6
  batch_size: 4
  log_every: 1
  validation: {every: 2, clips: 4}
  preview: {every: 0}
sample: {steps: 4, solver: euler, guidance: cfg, batch_size: 8}
eval: {clips: 16, metrics: [{type: note-accuracy, examples: 60}]}
"""


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from flowgen.config import load
    from flowgen.training.trainer import train

    folder = tmp_path_factory.mktemp("evaluation")
    (folder / "tiny.yaml").write_text(CONFIG)
    train(load(str(folder / "tiny.yaml"), [f"run={folder}/run"]), console=Console(quiet=True))
    return folder / "run"

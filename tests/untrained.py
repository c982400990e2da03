"""Runs that were never trained: a config, an encoder that was fitted, and the weights that training would begin with."""

import json
from importlib.util import find_spec

import pytest
import torch

from flowgen.config import dumps, in_force, load
from flowgen.data.loader import Order, clips_at
from flowgen.runs.experiment import Experiment
from flowgen.runs.run import checksum
from flowgen.weights import write_tensors


def untrained(folder, text, run):
    """A run folder that samples what its first weights make of noise."""
    (folder / f"{run.name}.yaml").write_text(text)
    experiment = Experiment(load(str(folder / f"{run.name}.yaml")).config).complete()
    order = Order(0, len(experiment.dataset))
    experiment.encoder.fit(clips_at(experiment.dataset, 0, [order[i] for i in range(8)]))
    generator = torch.Generator().manual_seed(0)
    weights = {
        k: v + 0.02 * torch.randn(v.shape, generator=generator) if v.is_floating_point() else v
        for k, v in experiment.network.state_dict().items()
    }
    place = run / "checkpoints" / "step-00000001"
    place.mkdir(parents=True)
    (run / "config.yaml").write_text(dumps(in_force(experiment.config)))
    if state := experiment.encoder.state_dict():
        write_tensors(state, run / "encoder.safetensors")
    for name, factor in {"network": 1.1, "ema": 1.0}.items():
        scaled = {k: factor * v if v.is_floating_point() else v for k, v in weights.items()}
        write_tensors(scaled, place / f"{name}.safetensors")
    facts = {"step": 1, "name": experiment.config.name, "encoder": experiment.encoder.identity}
    trained = {"ranks": 1, "zero_stage": 0, "trainer": {"skipped_in_a_row": 0, "figures": []}}
    (place / "manifest.json").write_text(json.dumps({**facts, **trained, "files": listed(place)}))
    return run


def listed(place):
    """The files of a checkpoint as its manifest lists them."""
    files = sorted(place.rglob("*.safetensors"))
    return {str(p.relative_to(place)): {"bytes": p.stat().st_size, "sha256": checksum(p)} for p in files}


TRAIN = "train: {steps: 2, batch_size: 4}"
NOTES = f"""
name: notes
modality: {{type: audio, sample_rate: 8000, duration_s: 0.5}}
data: notes
encoder: {{type: spectrogram, window: 256, hop: 64, iterations: 2}}
network: {{type: transformer, width: 32, depth: 1, heads: 2, patch: [4]}}
sample: {{steps: 2, guidance: cfg}}
{TRAIN}
"""
WAVES = NOTES.replace("name: notes", "name: waves").replace(
    "{type: spectrogram, window: 256, hop: 64, iterations: 2}", "{type: waveform, patch: 50}"
)
DIGITS = f"""
name: moving-digits
modality: {{type: video, fps: 8, frames: 8, height: 16, width: 16, channels: 1, enlarge: 1}}
data: {{type: moving-digits, digit_size: 12, directions: 4}}
encoder: pixels
network: {{type: transformer, width: 32, depth: 1, heads: 2, patch: [2, 8, 8]}}
sample: {{steps: 2, solver: heun, batch_size: 4, guidance: cfg}}
{TRAIN}
"""
BOARD = f"""
name: checkerboard
modality: points
data: checkerboard
encoder: points
network: {{type: mlp, width: 16, depth: 1}}
sample: {{steps: 2, solver: heun}}
{TRAIN}
"""
BRIDGE = """
data: {type: pairs, source: moving-digits, target: moving-digits}
coupling: {type: given-pairs, start: clips}
"""


@pytest.fixture(scope="session")
def untrained_runs(tmp_path_factory):
    """A folder whose runs/notes, waves, moving-digits, checkerboard, bridge, base and adapted (where peft is) can be sampled."""
    folder = tmp_path_factory.mktemp("untrained")
    bridge = "\n".join(line for line in DIGITS.splitlines() if not line.startswith("data:")) + BRIDGE
    texts = {
        "notes": NOTES,
        "waves": WAVES,
        "moving-digits": DIGITS,
        "checkerboard": BOARD,
        "bridge": bridge.replace("guidance: cfg", "guidance: null"),
        "base": DIGITS,
    }
    if find_spec("peft"):
        own = f"network: {{type: lora, run: {folder / 'runs' / 'base'}, rank: 2}}"
        texts["adapted"] = "\n".join(own if line.startswith("network:") else line for line in DIGITS.splitlines())
    for name, text in texts.items():
        untrained(folder, text, folder / "runs" / name)
    return folder

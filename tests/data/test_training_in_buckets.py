"""Runs on clips of several lengths and sizes: the same on any number of ranks, and resumed or not."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from flowgen_video.writing import write_frames
from safetensors.torch import load_file

from flowgen.config import load
from flowgen.data.loader import Split
from flowgen.data.order import make_schedule
from flowgen.errors import UsageError
from flowgen.runs.experiment import Experiment
from flowgen.training.batches import resolve_schedule


def log(folder):
    return [json.loads(line) for line in (Path(folder) / "log.jsonl").read_text().splitlines()]


def losses(folder):
    return [entry["loss"] for entry in log(folder) if "loss" in entry]


def weights(folder, step=12):
    return load_file(Path(folder) / f"checkpoints/step-{step:08d}/network.safetensors")


def test_a_run_in_buckets_of_lengths(tones, flowgen, tmp_path):
    code, said = flowgen("train", tones)
    assert code == 0, said
    assert len(losses(tmp_path / "run")) == 12
    entry = log(tmp_path / "run")[0]
    full = entry["clips_per_second"] * 0.8
    assert 0.2 * full < entry["media_seconds_per_second"] < 1.02 * full
    assert entry["positions_per_second"] == pytest.approx(entry["media_seconds_per_second"] * 4000 / 32, rel=1e-6)
    (tmp_path / "run").rename(tmp_path / "whole")
    for options in (["train.steps=6"], ["--resume"]):  # a stop in the middle of an epoch
        code, said = flowgen("train", tones, *options)
        assert code == 0, said
    assert losses(tmp_path / "run") == losses(tmp_path / "whole")
    one, other = weights(tmp_path / "run"), weights(tmp_path / "whole")
    assert all(torch.equal(one[name], other[name]) for name in one)


VIDEO = """
name: greys
run: {folder}/run
modality: {{type: video, fps: 8, frames: 8, height: 16, width: 16, channels: 1}}
data: {{type: video-folder, folder: {folder}/greys, buckets: [8x16x16, 4x16x16, 4x8x24], held_out: 0.25}}
encoder: pixels
network: {{type: transformer, width: 24, depth: 1, heads: 2, patch: [2, 4, 4]}}
train: {{steps: 8, batch_size: 4, log_every: 1, optimizer: {{lr: 1.0e-3}}, validation: {{every: 8, clips: 2}},
         preview: {{every: 8, clips: 1}}}}
sample: {{steps: 2, solver: euler}}
eval: {{clips: 2, metrics: [motion-magnitude, nearest-training]}}
loggers: [jsonl]
"""


@pytest.fixture
def greys(tmp_path):
    """A config of 24 clips: of 9 and of 4 frames, square and wide."""
    (tmp_path / "greys").mkdir()
    for i in range(24):
        frames, height, width = ((9, 16, 16), (4, 32, 32), (4, 16, 48))[i % 3]
        data = torch.randint(256, (frames, height, width, 1), generator=torch.Generator().manual_seed(i))
        write_frames(data.to(torch.uint8), 8, tmp_path / "greys" / f"{i:02d}.mp4", {})
    path = tmp_path / "greys.yaml"
    path.write_text(VIDEO.format(folder=tmp_path))
    return path


def test_a_run_in_buckets_of_sizes(greys, flowgen, tmp_path):
    code, said = flowgen("train", greys)
    assert code == 0, said
    assert "buckets 8x16x16" in said
    entries = log(tmp_path / "run")
    assert len(entries) == 8
    assert "validation/loss" in entries[-1]
    # tokens of a clip: 8 x 16 x 16, or half of it, or less than a fifth
    sizes = {round(e["positions_per_second"] / e["clips_per_second"]) for e in entries}
    assert sizes == {8 * 16 * 16, 4 * 16 * 16, 4 * 8 * 24}
    code, said = flowgen("eval", tmp_path / "run")
    assert code == 0, said


def test_a_bucket_that_the_patch_does_not_divide_is_refused_before_the_first_step(greys, flowgen):
    code, said = flowgen("train", greys, "data.buckets=[8x16x16, 4x10x30, 4x16x16]")
    assert code == 2
    assert "bucket 4x10x30: axis 'height' has 10 steps, which a patch of 4 does not divide" in said


@pytest.mark.slow
def test_two_ranks_train_as_one_does(tones, program, tmp_path):
    program("train", tones, f"run={tmp_path}/one")
    program("train", tones, f"run={tmp_path}/two", "--gpus", 2)
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), rel=1e-5)
    speeds = [[e["positions_per_second"] / e["clips_per_second"] for e in log(tmp_path / r)] for r in ("one", "two")]
    assert speeds[0] == pytest.approx(speeds[1]), "positions are counted over all ranks, without padding"


def test_a_resumed_run_keeps_its_batches_or_refuses(tones):
    config = load(str(tones), ["train.micro_batch_size=4"]).config
    dataset = Experiment(config).dataset
    begun = SimpleNamespace(manifest={"trainer": {"parts": 1}})
    kept = resolve_schedule(dataset, config, Split(4, 4), begun)
    assert kept.buckets == make_schedule(dataset, 0, 4, 1).buckets
    odd = next(bucket for bucket in kept.buckets if bucket.batch % 2)
    with pytest.raises(UsageError, match=rf"bucket {odd.name} has batches of {odd.batch} clips .*so that there are 1"):
        resolve_schedule(dataset, config, Split(4, 2, 2), begun)
    two = SimpleNamespace(manifest={"trainer": {"parts": 2}})
    halved = make_schedule(dataset, 0, 4, 2).buckets
    for split in (Split(4, 4), Split(4, 2), Split(4, 2, 2)):  # fewer parts, or the same ones on other ranks
        assert resolve_schedule(dataset, config, split, two).buckets == halved
    assert resolve_schedule(dataset, config, Split(4, 4), None).buckets == kept.buckets

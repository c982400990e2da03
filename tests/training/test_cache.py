"""A run on cached latents is the run that encodes; what the cache does not fit is refused by name; a stop harms nothing."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from click.testing import CliRunner

from flowgen.cli import cli
from flowgen.config import load
from flowgen.core.random import seed_of
from flowgen.core.tree import tree_map
from flowgen.data.latents import CachedClips, LatentCache, entries_of, stack
from flowgen.data.loader import Place
from flowgen.errors import FlowgenError, UsageError
from flowgen.runs.experiment import Experiment
from flowgen.training.caching import load_statistics, stored_clips, write_cache

CONFIG = """
name: cached
modality: {type: audio, sample_rate: 8000, duration_s: 0.5}
data: {type: audio-manifest, manifest: s/table.csv, columns: {say: text, digit: class}, held_out: 0}
encoder: {type: spectrogram, window: 128, hop: 64, multiple: 4}
network: {type: transformer, width: 32, depth: 1, heads: 2, patch: [4]}
loss: {type: flow-matching, predicts: velocity}
train:
  {steps: 12, batch_size: 4, log_every: 1, checkpoint: {every: 6}, validation: {every: 0}, preview: {every: 0}, condition_dropout: 0.2}
loggers: [jsonl]
"""


def sounds(folder: Path, seconds: float, count: int = 10) -> None:
    """Recordings of `seconds` at the most, each of its own length, with a table."""
    folder.mkdir()
    rows = ["file,say,digit"]
    for i in range(count):
        samples = round(8000 * (seconds - 0.03 * (i % 4)))
        soundfile.write(folder / f"{i}.wav", 0.2 * np.random.default_rng(i).standard_normal(samples), 8000)
        rows.append(f"{i}.wav,word {i},{i % 3}")
    (folder / "table.csv").write_text("\n".join(rows) + "\n")


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    sounds(tmp_path / "s", 0.5)
    (tmp_path / "c.yaml").write_text(CONFIG)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def flowgen(*args: object) -> str:
    result = CliRunner().invoke(cli, [str(a) for a in args], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def losses(run: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (run / "log.jsonl").read_text().splitlines()]


def test_a_run_on_the_cache_is_the_run_that_encodes(place: Path) -> None:
    flowgen("train", "c.yaml", "run=plain", "--quiet")
    assert "train.cache=l" in flowgen("data", "cache", "c.yaml", "-o", "l")
    flowgen("train", "c.yaml", "run=cached", "train.cache=l", "--quiet")
    assert losses(place / "cached") == pytest.approx(losses(place / "plain"), abs=1e-5)
    assert max(losses(place / "plain")) > 0.1
    # clips are shuffled, padded and masked by their batch; workers read as the trainer does
    flowgen("train", "c.yaml", "run=workers", "train.cache=l", "train.workers=2", "--quiet")
    assert losses(place / "workers") == losses(place / "cached")
    assert "10 clips in 1 shards are whole" in flowgen("data", "cache", "c.yaml", "-o", "l", "--verify")


def test_training_on_the_cache_encodes_nothing(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flowgen("data", "cache", "c.yaml", "-o", "l")
    from flowgen_audio.encoders import Spectrogram

    seen = []
    encode = Spectrogram.encode
    monkeypatch.setattr(Spectrogram, "encode", lambda self, clips: seen.append(len(clips)) or encode(self, clips))
    flowgen("train", "c.yaml", "run=r", "train.cache=l", "--quiet")
    assert len(seen) <= 2  # clips that are tried before the first step


def test_a_resumed_run_keeps_its_cache_and_the_cache_may_move(place: Path) -> None:
    flowgen("data", "cache", "c.yaml", "-o", "l")
    flowgen("train", "c.yaml", "run=whole", "train.cache=l", "--quiet")
    constant = ("train.schedule.decay=constant", "train.cache=l", "--quiet")
    flowgen("train", "c.yaml", "run=r", "train.steps=6", *constant)
    flowgen("train", "c.yaml", "run=w", *constant)
    (place / "l").rename(place / "moved")
    flowgen("train", "r", "--resume", "train.steps=12", "train.cache=moved", "--quiet")
    assert losses(place / "r") == losses(place / "w")
    with pytest.raises(UsageError, match=r"train\.cache \(True -> False\)"):
        flowgen("train", "r", "--resume", "train.steps=13", "train.cache=null", "--quiet")


def test_what_does_not_fit_is_refused_by_name(place: Path) -> None:
    flowgen("data", "cache", "c.yaml", "-o", "l")
    train = ("train", "c.yaml", "run=r", "train.cache=l", "--quiet")
    for override, said in {
        "modality.duration_s=0.25": r"made with modality\.duration_s=0\.5, and the config has 0\.25",
        "data.loudness=-20": r"data\.loudness=None",
        "encoder.floor_db=-60": "latents of another encoder",
        "conditions.digit={type: class, names: [a]}": r"conditions\.digit",
    }.items():
        with pytest.raises(UsageError, match=said):
            flowgen(*train, override)
    with pytest.raises(UsageError, match="no latent cache in nowhere"):
        flowgen(*train, "train.cache=nowhere")
    soundfile.write("s/3.wav", 0.1 * np.random.default_rng(99).standard_normal(3000), 8000)
    with pytest.raises(UsageError, match=r"of 10 clips 1 were made of other content or values \(3\.wav\); bring it up"):
        flowgen(*train)
    flowgen("data", "cache", "c.yaml", "-o", "l")  # goes on with it
    assert [len(entries_of(p)) for p in sorted(Path("l").glob("shard*"))] == [10, 1]
    flowgen(*train)
    (shard,) = Path("l").glob("shard-000001*")
    shard.write_bytes(shard.read_bytes()[:-4])
    with pytest.raises(FlowgenError, match=r"shard-000001\.safetensors is missing or not whole"):
        flowgen("train", "c.yaml", "run=q", "train.cache=l", "--quiet")


def test_a_condition_may_be_left_out(place: Path) -> None:
    flowgen("data", "cache", "c.yaml", "-o", "l")
    flowgen("train", "c.yaml", "run=r", "train.cache=l", "conditions={digit: {}}", "train.steps=2", "--quiet")


def opened(folder: str, *overrides: str) -> tuple[Experiment, CachedClips]:
    experiment = Experiment(load("c.yaml", overrides).config).complete()
    load_statistics(experiment.encoder, Path(folder))
    return experiment, stored_clips(experiment, LatentCache(Path(folder)))


def test_long_recordings_are_stored_whole_and_cropped_in_the_latent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sounds(tmp_path / "s", 2.0)
    (tmp_path / "c.yaml").write_text(CONFIG)
    monkeypatch.chdir(tmp_path)
    flowgen("data", "cache", "c.yaml", "-o", "l")
    experiment, clips = opened("l")
    steps = experiment.spec.shape[0]  # type: ignore[union-attr]
    whole = experiment.dataset.uncropped(0)  # type: ignore[attr-defined]
    latents = experiment.encoder.encode([whole]).x[0]  # type: ignore[index]
    starts = set()
    for epoch in range(20):
        found = clips[Place(epoch, 0)]
        assert found.x.shape == (steps, latents.shape[1])  # type: ignore[union-attr]
        (match,) = [i for i in range(len(latents) - steps + 1) if torch.equal(latents[i : i + steps], found.x)]
        starts.add(match)
    assert len(starts) > 10  # and so the borders are seen with what lies beyond them
    assert torch.equal(clips[Place(3, 0)].x, clips[Place(3, 0)].x)


def test_several_crops_of_each_clip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sounds(tmp_path / "s", 2.0)
    (tmp_path / "c.yaml").write_text(CONFIG)
    monkeypatch.chdir(tmp_path)
    flowgen("data", "cache", "c.yaml", "-o", "l", "--crops", "3")
    experiment, clips = opened("l")
    own = [
        experiment.encoder.encode([experiment.dataset.clip(4, seed_of(0, "cache", crop, 4))]).x[0]  # type: ignore[index]
        for crop in range(3)
    ]
    met = [clips[Place(epoch, 4)].x for epoch in range(6)]
    counts = [sum(bool(torch.allclose(a, x, atol=1e-5)) for x in met) for a in own]  # type: ignore[arg-type]
    assert counts == [2, 2, 2]
    with pytest.raises(UsageError, match="was begun with --crops 3"):
        flowgen("data", "cache", "c.yaml", "-o", "l", "--crops", "2")


def test_a_batch_from_the_cache_is_the_batch_that_the_encoder_makes(place: Path) -> None:
    flowgen("data", "cache", "c.yaml", "-o", "l")
    experiment, clips = opened("l")
    x, mask, _ = stack(clips.__getitems__([Place(0, i) for i in (3, 0, 1, 7)]))
    own = experiment.encoder.encode([experiment.dataset.clip(i, 0) for i in (3, 0, 1, 7)])
    assert mask is not None
    assert own.mask is not None
    assert torch.equal(mask, own.mask)  # type: ignore[arg-type]
    tree_map(lambda a, b: torch.testing.assert_close(a, b, atol=1e-5, rtol=0), x, own.x)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != ".lock"}


def test_processes_make_the_same_cache(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flowgen.training.caching.PER_SHARD", 3)
    config = load("c.yaml").config
    write_cache(config, place / "one", None, 1, print)
    write_cache(config, place / "two", None, 2, print)
    assert len(contents(place / "one")) == 4 + 3
    assert contents(place / "one") == contents(place / "two")


def test_a_killed_cache_goes_on_and_is_the_same(place: Path) -> None:
    slow = (
        "import sys, time; import flowgen.training.caching as c; c.PER_SHARD = 1; w = c.write_shard;"
        "c.write_shard = lambda *a: (time.sleep(0.02), w(*a));"
        "from flowgen.cli import cli; cli(['data', 'cache', 'c.yaml', '-o', sys.argv[1]])"
    )

    def start(folder: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-c", slow, folder], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )

    assert start("whole").wait() == 0
    killed = 0
    for wanted in (1, 3, 6):
        process = start("killed")
        while process.poll() is None and len(list(Path("killed").glob("shard-*"))) < wanted:
            time.sleep(0.005)
        os.kill(process.pid, signal.SIGKILL)
        killed += process.wait() == -signal.SIGKILL
    assert killed == 3
    (place / "killed" / ".tmpAb12Cd").write_bytes(b"half a shard")
    with pytest.raises(UsageError, match="is not finished"):
        LatentCache(Path("killed"))
    assert start("killed").wait() == 0
    assert contents(Path("killed")) == contents(Path("whole"))

"""Votes on pairs of clips train a run further by the command line, for every medium; pairs that cannot be used are refused."""

from __future__ import annotations

import csv
import math
import shutil
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from flowgen_audio.modality import Audio
from safetensors.torch import load_file

from flowgen.cli import cli
from flowgen.config import load
from flowgen.errors import FlowgenError, UsageError
from flowgen.runs.experiment import Experiment
from flowgen.runs.generator import Generator
from flowgen.runs.preferences import Preferences
from flowgen.training.loggers import read_log
from flowgen.ui.votes import Ballot, Pair
from tests.untrained import DIGITS, NOTES, untrained

PAIRS = 12
AUDIO = Audio(sample_rate=8000, duration_s=0.5)
BOUNCING = """
name: bouncing-sounds
modality: {type: av, fps: 8, frames: 8, height: 16, width: 16, channels: 3, sample_rate: 8000}
data: bouncing-sounds
encoder: {type: streams, encoders: {picture: pixels, sound: {type: mel, bands: 16, window: 256, hop: 125, iterations: 2, multiple: 4}}}
network: {type: stream-transformer, width: 32, depth: 1, heads: 2, patches: {picture: [1, 16, 16], sound: [4]}}
shift: {picture: 4, sound: 2}
loss: {type: flow-matching, weights: {picture: 4, sound: 1}}
train: {steps: 2, batch_size: 4}
sample: {steps: 2}
"""
RUNS = {"audio": NOTES, "video": DIGITS, "av": BOUNCING}
CONFIG = """
extends: {base}/config.yaml
name: preferred
run: {run}
data: {{type: preferences, table: {table}, run: {base}, held_out: 0.2}}
loss: {{type: flow-dpo, teacher: {base}, beta: 500}}
loggers: [jsonl]
train: {{steps: 6, batch_size: 4, log_every: 1, optimizer: {{lr: 1.0e-3}}, schedule: {{warmup: 0, decay: constant}},
  checkpoint: {{every: 3}}, validation: {{every: 3}}, preview: {{every: 0}}}}
"""


def invoke(*args: object) -> str:
    done = CliRunner().invoke(cli, [str(a) for a in args], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def voted(base: Path, folder: Path) -> Ballot:
    """A vote on pairs of the run's own clips, one of them a tie: the first of each pair is preferred."""
    generator, ballot = Generator.load(base), Ballot(folder / "votes")
    suffix = next(iter(generator.modality.formats))
    for i in range(PAIRS + 1):
        conditions = {k: c.names[i % len(c.names)] for k, c in generator.conditioners.items() if k != "caption"}
        places = []
        for j, clip in enumerate(generator.sample([conditions] * 2, seed=i)):
            places.append(folder / f"{j}{suffix}")
            generator.modality.write([clip], places[-1], {})
        ballot.record(Pair(("a", places[0]), ("b", places[1]), conditions, i), "tie" if i == 5 else "left")
    return ballot


@pytest.fixture(scope="module", params=list(RUNS))
def vote(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A run, and the table of a vote on its clips."""
    folder = tmp_path_factory.mktemp(request.param)
    base = untrained(folder, RUNS[request.param], folder / "base")
    return base, voted(base, folder).table


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("sound")
    base = untrained(folder, NOTES, folder / "base")
    return base, voted(base, folder).table


def written(folder: Path, base: Path, table: Path, run: str = "run", **sections: str) -> Path:
    path = folder / f"{run}.yaml"
    text = CONFIG.format(base=base, run=folder / run, table=table)
    for name, section in sections.items():
        text = (
            "\n".join(line for line in text.splitlines() if not line.startswith(f"{name}:")) + f"\n{name}: {section}\n"
        )
    path.write_text(text)
    return path


def test_a_vote_trains_the_run_that_was_voted_on(vote: tuple[Path, Path], tmp_path: Path) -> None:
    base, table = vote
    config = written(tmp_path, base, table)
    said = invoke("train", config, "--init-from", base)
    assert "ties left out 1" in said
    log = [line for line in read_log(tmp_path / "run") if "loss" in line]
    assert log[0]["loss"] == pytest.approx(math.log(2))
    assert log[0]["loss/drift"] == 0
    assert log[0]["loss/accuracy"] == 0.5
    assert log[-1]["loss/drift"] > 0
    assert log[-1]["loss"] < log[0]["loss"]
    assert 0 <= log[-1]["validation/loss/accuracy"] <= 1
    # what is sampled from it is what its weights make of noise, with the conditions of the run it started from
    asked, before = Generator.load(tmp_path / "run"), Generator.load(base)
    assert asked.conditioners == before.conditioners
    out = tmp_path / f"clip{next(iter(asked.modality.formats))}"
    invoke("sample", tmp_path / "run", "-o", out)
    assert out.is_file()
    # metrics compare with the clips that the run was trained on
    assert asked.experiment.dataset.full_size().describe() == before.experiment.dataset.describe()
    # the same again, from the middle
    again = tmp_path / "again"
    shutil.copytree(tmp_path / "run", again)
    shutil.rmtree(again / "checkpoints" / "step-00000006")
    invoke("train", config, f"run={again}", "--resume", "--quiet")
    ours, theirs = (load_file(tmp_path / n / "checkpoints/step-00000006/ema.safetensors") for n in ("run", "again"))
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def parts(config: Path) -> list[Preferences]:
    """The training and the held-out pairs of a config."""
    dataset = Experiment(load(str(config)).config).complete().dataset
    return [dataset, dataset.validation()]


def test_conditions_of_a_pair_are_those_of_its_row(sound: tuple[Path, Path], tmp_path: Path) -> None:
    base, table = sound
    with open(table, newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["tie"] == "no"]
    found = {part.key(i): part.clip(i, 0) for part in parts(written(tmp_path, base, table)) for i in range(len(part))}
    assert len(found) == len(rows) == PAIRS
    for row in rows:
        (clip,) = (c for key, c in found.items() if key.endswith(f"{row['preferred']} over {row['rejected']}"))
        assert dict(clip.conditions) == {name: row[name] for name in ("pitch", "timbre")}
        for end, own in (("preferred", clip), ("rejected", clip.rejected)):
            assert torch.equal(own.data, AUDIO.read(table.parent / row[end]).data)


def test_the_split_stays_as_votes_come(sound: tuple[Path, Path], tmp_path: Path) -> None:
    base, table = sound
    shorter = tmp_path / "shorter.csv"
    shorter.write_text("\n".join(table.read_text().splitlines()[:-2]))
    shutil.copytree(table.parent / "clips", tmp_path / "clips")
    some, all_ = (parts(written(tmp_path, base, t, f"r{i}")) for i, t in enumerate((shorter, table)))
    for few, many in zip(some, all_, strict=True):
        assert {few.key(i) for i in range(len(few))} <= {many.key(i) for i in range(len(many))}


@pytest.mark.parametrize(
    ("rows", "why"),
    [
        ("preferred,rejected\n", "has no rows"),
        ("preferred,rejected,tie\na.wav,b.wav,yes\n", "1 ties and no preference"),
        ("preferred,rejected\na.wav,\n", "no clip in the column 'rejected' of row 1"),
        ("file\na.wav\n", "no clip in the column 'preferred' of row 1"),
        ("preferred,rejected\na.wav,c.wav\n", "row 1 names .*c.wav, which is not there"),
        ("preferred,rejected\na.wav,../b.wav\n", "lies outside"),
        ("preferred,rejected,pitch\na.wav,b.wav,H9\n", "row 1: condition 'pitch': .*H9"),
    ],
)
def test_tables_that_cannot_be_used_are_refused(sound: tuple[Path, Path], tmp_path: Path, rows: str, why: str) -> None:
    base, table = sound
    for name in ("a", "b"):
        shutil.copy(table.parent / "clips" / "00000-a.wav", tmp_path / f"{name}.wav")
    (tmp_path / "table.csv").write_text(rows)
    with pytest.raises(UsageError, match=why):
        Preferences(AUDIO, str(tmp_path / "table.csv"), str(base))


def test_what_does_not_fit_is_refused(sound: tuple[Path, Path], tmp_path: Path) -> None:
    base, table = sound
    dpo = f"type: flow-dpo, teacher: {base}"
    for name, sections, why in (
        ("single", {"data": "notes"}, "comes with no rejected clip"),
        ("path", {"path": "cosine"}, "was trained on the path Linear"),
        ("dropped", {"conditions": "{pitch: {type: text}}"}, "takes the conditions"),
        ("coupled", {"coupling": "optimal-transport"}, "leave the coupling independent"),
        ("beta", {"loss": f"{{{dpo}, beta: 0}}"}, "beta"),
        ("rate", {"modality": "{type: audio, sample_rate: 16000}"}, "makes clips of another format"),
    ):
        with pytest.raises(FlowgenError, match=why):
            invoke("train", written(tmp_path, base, table, name, **sections), "--init-from", base, "--quiet")
    with pytest.raises(UsageError, match="holds single clips, not pairs"):
        invoke("data", "cache", written(tmp_path, base, table), "-o", tmp_path / "cache")
    assert "parameters" in invoke("plan", written(tmp_path, base, table))


def test_an_adapter_learns_preferences(sound: tuple[Path, Path], tmp_path: Path) -> None:
    pytest.importorskip("peft")
    base, table = sound
    network = f"{{type: lora, run: {base}, rank: 2}}"
    invoke("train", written(tmp_path, base, table, network=network), "train.optimizer.lr=0.01")
    log = [line for line in read_log(tmp_path / "run") if "loss" in line]
    assert log[0]["loss/drift"] == 0
    assert log[-1]["loss/drift"] > 0
    invoke("sample", base, "--adapter", tmp_path / "run", "-o", tmp_path / "clip.wav")

"""What `flowgen eval` measures, and of what."""

import json
import math
from dataclasses import dataclass, replace

import pytest
import torch
from click.testing import CliRunner

from flowgen.cli import cli
from flowgen.errors import UsageError
from flowgen.evaluation import draw_sets, evaluate, figure, load
from flowgen.evaluation.rows import COLUMNS, measure
from flowgen.media.clip import Clip
from flowgen.runs.generator import Generator


@dataclass
class Witness:
    """A metric that remembers what it was given."""

    calls: list

    def measure(self, clips, reference):
        self.calls.append((list(clips), list(reference)))
        return {"not_a_number": math.nan, "mean": float(sum(c.data.mean() for c in clips))}


@dataclass(frozen=True)
class Numbers:
    """A data set of `n` clips with nothing but a number, `held_out` of them elsewhere."""

    n: int
    held_out: int
    offset: int = 0
    conditions = {}  # noqa: RUF012

    def __len__(self):
        return self.n

    def clip(self, index, seed):
        return Clip(torch.tensor([float(self.offset + index)]))

    def validation(self):
        return replace(self, n=self.held_out, offset=1000)


def opened(run, *overrides):
    generator = Generator.load(run, overrides=overrides)
    return generator, generator.experiment.dataset


def numbers(clips):
    return {float(clip.data) for clip in clips}


def test_three_sets_are_equally_large_and_share_their_conditions(run):
    generator, dataset = opened(run)
    witness = Witness([])
    result = evaluate(generator, dataset, [("witness", witness)])
    (generated, reference), (kept, _), (real, _) = witness.calls
    assert len(generated) == len(kept) == len(real) == result.settings["clips"] == 16
    assert [c.conditions for c in generated] == [c.conditions for c in kept] == [c.conditions for c in real]
    assert len({c.conditions["pitch"] for c in real}) > 3
    assert len(reference) == 16
    assert not any(torch.equal(r.data, c.data) for r in reference for c in real)
    # the round trip is near the real clip it came from, and is not it
    assert all(not torch.equal(k.data, r.data) for k, r in zip(kept, real, strict=True))
    loudness = torch.tensor([[float(c.data.square().mean()) for c in clips] for clips in (kept, real)])
    assert torch.corrcoef(loudness)[0, 1] > 0.98


def test_a_figure_that_is_not_finite_is_none_and_stays_valid_json(run):
    generator, dataset = opened(run)
    result = evaluate(generator, dataset, [("witness", Witness([]))])
    assert result.row("not_a_number").real is None
    assert "NaN" not in json.dumps(result.as_json())


def test_what_has_learned_nothing_is_measured_as_worse_than_real_clips(run):
    generator, dataset = opened(run)
    result = evaluate(generator, dataset, generator.experiment.metrics)
    pitch, timbre = result.row("pitch"), result.row("timbre")
    assert pitch.real == 1
    assert pitch.round_trip >= 0.9
    assert pitch.generated < 0.6
    assert timbre.real > timbre.generated


def test_figures_depend_on_the_seed_and_on_nothing_else(run):
    def figures(*overrides):
        generator, dataset = opened(run, *overrides)
        return evaluate(generator, dataset, [("witness", Witness([]))]).row("mean")

    first = figures()
    assert figures() == first
    other = figures("eval.seed=2")
    assert other.generated != first.generated
    assert other.real != first.real


@pytest.mark.parametrize(
    ("settings", "evaluations"),
    [
        # 4 steps; guidance is off at t = 0 and doubles every evaluation from t = 0.1 on
        (["sample.solver=euler"], 1 + 3 * 2),
        (["sample.solver=heun"], (1 + 2) + 3 * (2 + 2)),
        (["sample.solver=euler", "sample.guidance=null"], 4),
        (["sample.solver=euler", "sample.batch_size=5"], 7),
    ],
)
def test_network_evaluations_of_a_clip_are_counted(run, settings, evaluations):
    generator, dataset = opened(run, *settings)
    result = evaluate(generator, dataset, [])
    assert result.settings["evaluations_per_clip"] == evaluations


def test_the_reference_is_held_out_where_enough_is_and_from_training_elsewhere():
    sets = draw_sets(Numbers(50, 20), 10, seed=0)
    assert numbers(sets.real) | numbers(sets.reference) == {1000.0 + i for i in range(20)}
    sets = draw_sets(Numbers(50, 19), 10, seed=0)
    assert all(x >= 1000 for x in numbers(sets.real))
    assert all(x < 50 for x in numbers(sets.reference))
    assert len(sets.reference) == 10
    assert "training" in sets.origin


def test_of_small_data_equally_many_are_taken_on_both_sides():
    sets = draw_sets(Numbers(50, 5), 6, seed=0)
    assert len(numbers(sets.real)) == len(numbers(sets.reference)) == 5
    sets = draw_sets(Numbers(3, 5), 6, seed=0)
    assert len(numbers(sets.real)) == len(numbers(sets.reference)) == 3


def test_command_writes_figures_and_settings_and_prints_a_table(run, tmp_path):
    path = tmp_path / "figures.json"
    done = CliRunner().invoke(cli, ["eval", str(run), "-n", "8", "--steps", "2", "--seed", "3", "-o", str(path)])
    assert done.exit_code == 0, done.output
    for word in ("generated", "round trip", "real", "pitch", "1 [0.676, 1]"):
        assert word in done.output
    values = json.loads(path.read_text())
    assert {k: values[k] for k in ("clips", "seed", "steps", "step", "weights", "evaluations_per_clip")} == {
        "clips": 8,
        "seed": 3,
        "steps": 2,
        "step": 6,
        "weights": "ema",
        "evaluations_per_clip": 3.0,
    }
    assert values["packages"]["torch"] == torch.__version__.partition("+")[0]
    assert values["solver"]["type"] == "euler"
    assert values["seconds_per_clip"] > 0
    assert load(path).row("pitch").real == 1
    assert not (run / "eval.json").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--metric", "note-acuracy"], "did you mean 'note-accuracy'"),
        (["--set", "stepz=3"], "did you mean 'sample.steps'"),
        (["--controls", "--continue", "0.2"], "whole clips"),
        (["-o", "figures.txt"], "ends in .json"),
        (["--metric", "motion"], "moving-digits"),
    ],
)
def test_what_cannot_be_measured_is_refused_in_a_sentence(run, arguments, words):
    done = CliRunner().invoke(cli, ["eval", str(run), *arguments])
    assert isinstance(done.exception, UsageError)
    assert words in str(done.exception)


def test_a_config_without_metrics_says_which_there_are(run):
    generator, _ = opened(run, "eval.metrics=[]")
    with pytest.raises(UsageError, match="note-accuracy"):
        _ = generator.experiment.metrics


def test_controls_are_printed_with_what_tells_them_apart(run, tmp_path):
    path = tmp_path / "figures.json"
    options = ["-n", "32", "--steps", "2", "--metric", "note-accuracy", "--metric", "nearest-recording"]
    done = CliRunner().invoke(cli, ["eval", str(run), *options, "--controls", "-o", str(path)], catch_exceptions=False)
    result = load(path)
    assert list(result.controls) == ["one_step", "copies", "repeats", "noise", "round_trip"]
    assert "note-accuracy: pitch" in result.controls["noise"]
    assert result.controls["copies"] == ["nearest-recording: copied", "nearest-recording: distance"]
    assert "copies (training clips as they are): told apart by nearest-recording: copied" in done.output
    row = result.row("pitch")
    assert row.real == 1
    assert row.intervals["real"] == pytest.approx((0.893, 1), abs=1e-3)  # Wilson, 32 of 32
    assert row.controls["repeats"] == 1
    assert result.settings["clips"] == 32


def test_a_control_that_no_figure_tells_apart_is_said_to_pass(run):
    result = CliRunner().invoke(
        cli, ["eval", str(run), "-n", "16", "--steps", "1", "--metric", "note-accuracy", "--controls"]
    )
    assert "copies (training clips as they are): PASSES" in result.output


def test_what_a_judge_says_that_fails_on_real_clips_is_void(run):
    generator, dataset = opened(run)
    ((_, judge),) = generator.experiment.metrics
    judge._classifier.classes_[:] = judge._classifier.classes_[::-1].copy()
    clips = {c: [dataset.validation().clip(i, 0) for i in range(40)] for c in COLUMNS}
    rows = {row.name: row for row in measure("note-accuracy", judge, clips, [], seed=0)}
    assert rows["pitch"].void is None
    assert "of real clips the judge finds" in rows["timbre"].void
    assert not rows["timbre"].fails("generated")


@pytest.mark.parametrize(("value", "text"), [(None, "–"), (0.9123, "0.912"), (1027.4, "1,027"), (0.0, "0")])
def test_figures_are_short(value, text):
    assert figure(value) == text


def test_continuations_keep_the_given_part_and_are_measured(run, tmp_path):
    generator, dataset = opened(run)
    witness = Witness([])
    result = evaluate(generator, dataset, [("witness", witness)], continued=0.2)
    generated, real = (witness.calls[i][0] for i in (0, 2))
    for made, truth in zip(generated, real, strict=True):
        assert torch.equal(made.data[:, :1600], truth.data[:, :1600])
        assert made.data.shape == truth.data.shape
        assert not torch.allclose(made.data[:, 1600:], truth.data[:, 1600:], atol=1e-3)
    assert result.row("given_exact").generated == 1.0
    assert result.settings["continued_s"] == 0.2

    asked = CliRunner().invoke(cli, ["eval", str(run), "-n", "4", "--continue", "0.2"], catch_exceptions=False)
    assert "0.2 s of them given" in asked.output
    assert load(run / "eval-continue.json").row("given_exact").generated == 1.0
    with pytest.raises(UsageError, match=r"clips of 0\.5 s give less than that, got 0\.5 s"):
        evaluate(generator, dataset, [("witness", witness)], continued=0.5)

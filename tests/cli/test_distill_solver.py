"""Solvers that are fitted to a run: made, used by name, and refused where they do not belong."""

import json
import shutil

import pytest
from click.testing import CliRunner

from flowgen.cli import cli
from flowgen.errors import FlowgenError, UsageError
from flowgen.runs.distill_solver import distill_solver
from flowgen.runs.generator import Generator
from flowgen.runs.learned import LearnedTable

CHOSEN = ["sample.solver={type: learned, name: fast}"]


def ran(*arguments):
    return CliRunner().invoke(cli, [str(a) for a in arguments], catch_exceptions=True)


@pytest.fixture(scope="module")
def runs(untrained_runs, tmp_path_factory):
    """Copies of two runs, one with a solver of 2 steps named fast."""
    folder = tmp_path_factory.mktemp("solvers")
    for name in ("notes", "checkerboard", "bridge"):
        shutil.copytree(untrained_runs / "runs" / name, folder / name)
    result = ran("distill-solver", folder / "notes", "--steps", 2, "--name", "fast", "--clips", 4, "--minutes", 0.1)
    assert result.exit_code == 0, (result.output, result.exception)
    assert "distance to 64 steps" in result.output
    return folder


def test_it_is_used_by_its_name(runs, tmp_path):
    result = ran("sample", runs / "notes", "--solver", "fast", "-o", tmp_path / "note.wav")
    assert result.exit_code == 0, (result.output, result.exception)
    assert (tmp_path / "note.wav").is_file()
    generator = Generator.load(runs / "notes", overrides=[*CHOSEN, "sample.steps=2"])
    assert generator.solver(generator.config.sample).evaluations == 2
    assert len(generator.sample([{}])) == 1


@pytest.mark.parametrize(
    ("overrides", "options", "message"),
    [
        (["sample.steps=3"], {}, r"sample\.steps: 'fast' takes 2 steps, not 3; give --steps 2"),
        (["sample.guidance.scale=5"], {}, r"sample\.guidance: 'fast' was fitted under .*not .*5\.0"),
        (["sample.guidance=null"], {}, r"sample\.guidance: .* not none"),
        ([], {"weights": "raw"}, "fitted to other weights"),
    ],
)
def test_other_settings_are_refused(runs, overrides, options, message):
    generator = Generator.load(runs / "notes", overrides=[*CHOSEN, "sample.steps=2", *overrides], **options)
    with pytest.raises(UsageError, match=message):
        generator.sample([{}])


def test_another_run_is_refused(runs):
    (runs / "checkerboard" / "solvers").mkdir()
    shutil.copy(runs / "notes" / "solvers" / "fast.json", runs / "checkerboard" / "solvers" / "fast.json")
    generator = Generator.load(runs / "checkerboard", overrides=[*CHOSEN, "sample.steps=2"])
    with pytest.raises(UsageError, match="fitted to other weights"):
        generator.sample([{}])


def test_a_name_that_is_not_there_names_those_that_are(runs):
    overrides = ["sample.solver={type: learned, name: none-such}"]
    with pytest.raises(UsageError, match=r"no learned solver 'none-such' \(there: fast\)"):
        Generator.load(runs / "notes", overrides=overrides).sample([{}])


@pytest.mark.parametrize("name", ["euler", "../out", "a/b", ""])
def test_names_that_cannot_be(runs, name):
    result = ran("distill-solver", runs / "notes", "--name", name)
    assert isinstance(result.exception, UsageError) or name == ""


def test_a_bridge_is_refused(runs):
    with pytest.raises(UsageError, match="is a bridge"):
        distill_solver(Generator.load(runs / "bridge"), 2, clips=4)


@pytest.mark.parametrize(
    "change",
    [
        {"times": [0.0, 2.0, 1.0]},
        {"times": [0.0, 0.5, 0.5]},
        {"a": [1.0]},
        {"b": "none"},
        {"weights": "x"},
        {"a": ["1", 1]},
    ],
    ids=str,
)
def test_a_damaged_file_is_one_sentence(runs, tmp_path, change):
    value = json.loads((runs / "notes" / "solvers" / "fast.json").read_text())
    (tmp_path / "solvers").mkdir()
    (tmp_path / "solvers" / "fast.json").write_text(json.dumps({**value, **change}))
    with pytest.raises(FlowgenError, match="is no learned solver"):
        LearnedTable.read(tmp_path, "fast")

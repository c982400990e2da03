"""flowgen eval --straightness on a run."""

import json

import pytest
from click.testing import CliRunner

from flowgen.cli import cli
from flowgen.core.flow_map import NetworkFlowMap
from flowgen.core.paths import Linear
from flowgen.errors import UsageError
from flowgen.evaluation.straightness import straightness_row
from flowgen.runs.generator import Generator
from tests.untrained import untrained_runs  # noqa: F401


def test_the_command_line_measures_it(untrained_runs, tmp_path):  # noqa: F811
    run = untrained_runs / "runs" / "notes"
    asked = ["eval", str(run), "-n", "8", "--steps", "2", "--metric", "note-accuracy", "--straightness"]
    done = CliRunner().invoke(cli, [*asked, "-o", str(tmp_path / "e.json")], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    (row,) = [r for r in json.loads((tmp_path / "e.json").read_text())["figures"] if r["name"] == "straightness"]
    low, high = row["intervals"]["generated"]
    assert 0 < low < row["generated"] < high < 5


def test_a_flow_map_has_no_trajectories(untrained_runs, monkeypatch):  # noqa: F811
    generator = Generator.load(untrained_runs / "runs" / "notes", device="cpu")
    monkeypatch.setattr(type(generator), "flow", lambda self, x: NetworkFlowMap(self.network, Linear()))
    with pytest.raises(UsageError, match="is a flow map"):
        straightness_row(generator, [{}, {}], 0)

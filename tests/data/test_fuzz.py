"""Damaged and odd media files, tables and shards end in clips, in rows that say why not, or in one sentence."""

import importlib.util
from pathlib import Path

import pytest


@pytest.mark.slow
def test_nothing_ends_in_a_traceback_hangs_or_is_lost(tmp_path, capfd):
    path = Path(__file__).parents[2] / "benchmarks" / "fuzz_data.py"
    spec = importlib.util.spec_from_file_location("fuzz_data", path)
    fuzz = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(fuzz)
    found = list(fuzz.cases(200, 7, tmp_path / "cases"))
    assert sum(inputs for _, inputs, _ in found) >= 200
    assert [case for case in found if case[2] not in ("read", "refused")] == []
    for kind in ("media", "table", "shard"):  # it does not only refuse
        assert any(name.startswith(kind) and outcome == "read" for name, _, outcome in found)

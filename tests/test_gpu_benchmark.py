"""benchmarks/gpu.py on the CPU: every table is made, and its columns hold what they say."""

import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARK = Path(__file__).parents[1] / "benchmarks" / "gpu.py"


def test_every_table_is_made():
    pytest.importorskip("diffusers")
    command = [sys.executable, str(BENCHMARK), "--device", "cpu", "--tiny"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-4000:]
    rows = [line.split() for line in done.stdout.splitlines()]
    trained = {(row[1], row[2]): row for row in rows if row and row[0] == "tiny"}
    assert set(trained) == {(name, compiled) for name in ("flowgen", "ltx", "wan") for compiled in ("no", "yes")}
    for row in trained.values():
        forward, both, rate, share = float(row[5]), float(row[6]), float(row[7]), float(row[8].rstrip("%"))
        assert 0 < forward < both
        assert rate >= 0
        assert 0 < share < 100
    assert [trained["flowgen", compiled][-1] for compiled in ("no", "yes")] == ["1.00", "1.00"]
    sampled = {row[0]: float(row[1]) for row in rows if len(row) == 2 and row[0] in ("1", "4", "16")}
    assert sampled["1"] > sampled["4"] > sampled["16"] > 0
    assert rows[-1][-1].endswith("%")

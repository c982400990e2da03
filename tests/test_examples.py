"""The examples run."""

import subprocess
import sys
from pathlib import Path

EXAMPLES = Path(__file__).parents[1] / "examples"


def test_nano_flow_learns():
    done = subprocess.run([sys.executable, EXAMPLES / "nano_flow.py", "200"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    distances = [float(line.split()[-1]) for line in done.stdout.splitlines() if "evaluations" in line]
    assert len(distances) == 3
    assert max(distances) < 0.25  # noise itself lies at 0.35

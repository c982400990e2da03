"""The examples run."""

import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"


def test_nano_flow_learns():
    done = subprocess.run([sys.executable, EXAMPLES / "nano_flow.py", "200"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    distances = [float(line.split()[-1]) for line in done.stdout.splitlines() if "evaluations" in line]
    assert len(distances) == 3
    assert max(distances) < 0.25  # noise itself lies at 0.35


def test_a_flow_map_jumps_where_euler_goes_astray():
    done = subprocess.run([sys.executable, EXAMPLES / "flow_map.py", "600"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = [float(line.split()[-1]) for line in done.stdout.splitlines() if "evaluations" in line]
    by_map, by_euler = found[0::2], found[1::2]
    assert by_map[0] < 0.6 * by_euler[0]
    assert by_map[1] < by_euler[1]
    assert len((EXAMPLES / "flow_map.py").read_text().splitlines()) < 70


@pytest.mark.slow
def test_a_joint_clip_on_one_page(tmp_path):
    done = subprocess.run(
        [sys.executable, EXAMPLES / "joint_clip.py", "10"], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    clips = sorted(path.name for path in (tmp_path / "runs" / "joint-clip" / "samples").iterdir())
    assert clips == ["both.mp4", "picture-for-sound.mp4", "sound-for-picture.mp4"]
    assert done.stdout.count("impacts_heard") >= 1  # of ten steps nothing is asked
    assert len((EXAMPLES / "joint_clip.py").read_text().splitlines()) < 70

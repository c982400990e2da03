"""Recordings of several lengths, and a cache of their own."""

import subprocess
import sys
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import soundfile
from click.testing import CliRunner

from flowgen.cli import cli
from flowgen.errors import FlowgenError

ROOT = Path(__file__).parents[2]

AUDIO = """
name: tones
run: {folder}/run
modality: {{type: audio, sample_rate: 4000, duration_s: 0.8}}
data: {{type: audio-folder, folder: {folder}/tones, buckets: 3, held_out: 0.2}}
encoder: {{type: waveform, patch: 32, multiple: 2}}
network: {{type: transformer, width: 24, depth: 1, heads: 2, patch: [2]}}
shift: {{base: 16}}
train: {{steps: 12, batch_size: 4, micro_batch_size: 2, log_every: 1, validation: {{every: 12, clips: 4}},
         preview: {{every: 12, clips: 2}}, checkpoint: {{every: 5}}, schedule: {{decay: constant, warmup: 0}}}}
sample: {{steps: 2, solver: euler}}
loggers: [jsonl]
"""


def write_tones(folder: Path, count: int = 40) -> Path:
    """Tones of 0.2 to 1.0 s."""
    folder.mkdir(parents=True)
    for i in range(count):
        n = 800 + 3200 * i // (count - 1)
        wave = 0.5 * np.sin(2 * np.pi * (200 + 10 * i) * np.arange(n) / 4000)
        soundfile.write(folder / f"{i:02d}.wav", wave, 4000)
    return folder


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MPLCONFIGDIR", matplotlib.get_cachedir())  # its list of fonts takes half a minute to make
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture
def tones(tmp_path):
    """A config of 40 tones in three buckets; its folder is the path before the last part."""
    write_tones(tmp_path / "tones")
    path = tmp_path / "tones.yaml"
    path.write_text(AUDIO.format(folder=tmp_path))
    return path


@pytest.fixture
def flowgen():
    """Runs the command line in this process: (exit code, what it said)."""

    def run(*arguments):
        done = CliRunner().invoke(cli, [str(a) for a in arguments])
        if isinstance(done.exception, FlowgenError):
            return done.exception.exit_code, done.output + str(done.exception)
        if done.exception is not None and not isinstance(done.exception, SystemExit):
            raise done.exception
        return done.exit_code, done.output

    return run


@pytest.fixture
def program():
    """Runs the command line in processes of its own."""

    def run(*arguments):
        done = subprocess.run(
            [sys.executable, "-m", "flowgen", *map(str, arguments)], capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stderr

    return run

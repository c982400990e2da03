"""One process trains a run at a time."""

from __future__ import annotations

import subprocess
import sys

import pytest

from flowgen.errors import FlowgenError
from flowgen.runs.lock import LOCK, locked

HOLD = """
import pathlib, sys
from flowgen.runs.lock import locked
with locked(pathlib.Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_the_holder_is_named_and_a_killed_one_holds_nothing(tmp_path):
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(FlowgenError, match=rf"is being trained by process {holder.pid} on .* since .*wait for it"):
        locked(tmp_path).__enter__()
    holder.kill()
    holder.communicate()
    assert (tmp_path / LOCK).is_file()
    with locked(tmp_path), pytest.raises(FlowgenError, match="by this process already"):
        locked(tmp_path).__enter__()
    assert not (tmp_path / LOCK).exists()


def test_a_folder_in_which_nothing_began_goes_again(tmp_path):
    with locked(tmp_path / "run"):
        assert (tmp_path / "run" / LOCK).is_file()
    assert not (tmp_path / "run").exists()
    with locked(tmp_path / "run"):
        (tmp_path / "run" / "config.yaml").write_text("")
    assert [p.name for p in (tmp_path / "run").iterdir()] == ["config.yaml"]

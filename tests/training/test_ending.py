"""A process whose work is done ends, whatever its libraries wait for."""

import subprocess
import sys
import time

import pytest

PROGRAM = """
import atexit, sys, threading
from flowgen.training.ending import leave
atexit.register(lambda: open(sys.argv[1], "w").write("done"))
{waiting}
print("said", end="")
leave(patience_s=1.0)
"""


@pytest.mark.parametrize(
    "waiting", ["", "atexit.register(threading.Event().wait)"], ids=["at once", "after its patience"]
)
def test_a_process_ends_with_success_what_was_registered_done_or_given_up(waiting, tmp_path):
    began = time.monotonic()
    command = [sys.executable, "-c", PROGRAM.format(waiting=waiting), str(tmp_path / "file")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "said"), done.stderr
    assert (tmp_path / "file").exists() is (waiting == "")  # functions run from the last to the first
    assert waiting == "" or time.monotonic() - began > 1

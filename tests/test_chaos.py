"""What benchmarks/chaos.py counts as a fault of flowgen."""

from __future__ import annotations

from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
OURS = '  File "/x/flowgen/training/loggers.py", line 139, in _try\n    call(*arguments)\n'
THREAD = '  File "/python/threading.py", line 1045, in _bootstrap_inner\n    self.run()\n'
THEIRS = '  File "/x/tensorboard/event_file_writer.py", line 244, in run\n    self._run()\n'


@pytest.mark.parametrize(
    ("frames", "own"),
    [
        (OURS, True),
        (OURS + THEIRS, True),
        (THREAD + OURS, True),
        (THREAD + THEIRS, False),
        (OURS + THEIRS + THREAD + THEIRS, False),  # of a thread whose error flowgen met first
    ],
)
def test_a_traceback_counts_where_flowgen_is_at_fault(monkeypatch, frames, own):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    from chaos import own_traceback

    said = f"flowgen: warning: a logger failed\nTraceback (most recent call last):\n{frames}OSError: File too large\n"
    assert own_traceback(said) is own
    assert not own_traceback("flowgen: cannot write x")

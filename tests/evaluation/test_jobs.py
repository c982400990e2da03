"""Jobs beside each other: what `flowgen demo` trains with."""

import io
import signal
import sys
import time
from pathlib import Path

import pytest
from rich.console import Console

from flowgen.cli.jobs import Job, Stage, run_jobs
from flowgen.errors import FlowgenError


def python(label, code, **options):
    return Stage(label, [sys.executable, "-c", code], **options)


@pytest.fixture
def console():
    return Console(file=io.StringIO(), width=200)


WAIT_FOR_EACH_OTHER = """
import pathlib, time
folder = pathlib.Path({folder!r})
(folder / {own!r}).touch()
for _ in range(600):
    if (folder / {other!r}).exists():
        break
    time.sleep(0.05)
else:
    raise SystemExit("alone")
"""


def test_jobs_run_beside_each_other(tmp_path, console):
    def job(own, other):
        code = WAIT_FOR_EACH_OTHER.format(folder=str(tmp_path), own=own, other=other)
        return Job(own, [python("meeting", code)], tmp_path / f"{own}.log")

    jobs = [job("a", "b"), job("b", "a")]
    run_jobs(jobs, console, {})
    assert all(job.seconds["meeting"] > 0 for job in jobs)
    assert "a: done; b: done" in console.file.getvalue()


def test_stages_run_in_order_with_their_environment_and_log(tmp_path, console):
    code = "import os; print(os.environ['WORD'], os.environ.get('RANK'), flush=True)"
    job = Job("a", [python("one", "print('first', flush=True)"), python("two", code)], tmp_path / "new" / "a.log")
    run_jobs([job], console, {"WORD": "second"})
    assert job.log.read_text().split() == ["first", "second", "None"]
    assert list(job.seconds) == ["one", "two"]


SLEEP_UNTIL_INTERRUPTED = """
import pathlib, time
folder = pathlib.Path({folder!r})
(folder / "began").touch()
try:
    time.sleep(60)
except KeyboardInterrupt:
    (folder / "stopped").touch()
"""


@pytest.mark.parametrize("handler", [signal.default_int_handler, signal.SIG_IGN], ids=["terminal", "background"])
def test_a_failure_shows_the_log_and_stops_the_others_cleanly(tmp_path, console, handler):
    failing = (
        "import pathlib, time\nwhile not pathlib.Path({!r}).exists(): time.sleep(0.05)\nraise SystemExit('no room')"
    )
    jobs = [
        Job("good", [python("waiting", SLEEP_UNTIL_INTERRUPTED.format(folder=str(tmp_path)))], tmp_path / "good.log"),
        Job("bad", [python("breaking", failing.format(str(tmp_path / "began")))], tmp_path / "bad.log"),
    ]
    before = signal.signal(signal.SIGINT, handler)
    try:
        with pytest.raises(FlowgenError, match=r"(?s)bad: breaking failed.*bad\.log.*no room"):
            run_jobs(jobs, console, {})
    finally:
        signal.signal(signal.SIGINT, before)
    assert (tmp_path / "stopped").exists()


def test_an_interrupt_is_passed_on_and_waited_for(tmp_path):
    console = Console(file=io.StringIO(), force_terminal=True)  # which asks for progress all the time

    def progress():
        if (tmp_path / "began").exists():
            time.sleep(0.3)  # until it sleeps
            raise KeyboardInterrupt
        return 0, ""

    stage = python("waiting", SLEEP_UNTIL_INTERRUPTED.format(folder=str(tmp_path)), total=10, progress=progress)
    with pytest.raises(KeyboardInterrupt):
        run_jobs([Job("a", [stage], tmp_path / "a.log")], console, {})
    assert (tmp_path / "stopped").exists()


@pytest.mark.parametrize("terminal", [True, False])
def test_progress_tells_stage_count_note_and_time_left(tmp_path, terminal):
    console = Console(file=io.StringIO(), width=200, force_terminal=terminal, color_system=None)
    began = time.monotonic()
    counter = Path(tmp_path / "count")

    def progress():
        return (5 if time.monotonic() - began > 0.5 else 2), "loss 0.25"

    code = f"import time; time.sleep(1.5); open({str(counter)!r}, 'w').close()"
    run_jobs([Job("sound", [python("training", code, total=10, progress=progress)], tmp_path / "a.log")], console, {})
    shown = console.file.getvalue()
    for word in ("sound", "training", "2/10", "loss 0.25", *(["5/10", "left"] if terminal else [])):
        assert word in shown
    assert counter.exists()


def test_no_stages_is_no_work(tmp_path, console):
    run_jobs([Job("a", [], tmp_path / "a.log")], console, {})
    assert not (tmp_path / "a.log").exists()

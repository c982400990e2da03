"""Commands that run beside each other, each a chain of stages, and what a person sees of them."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from flowgen.errors import FlowgenError

_POLL_S = 0.3
_LINE_EVERY_S = 15.0
_LAUNCHER = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


@dataclass(frozen=True)
class Stage:
    """One command. `progress` tells how many of `total` steps are done and a word about them."""

    label: str
    command: Sequence[str]
    total: int | None = None
    progress: Callable[[], tuple[int, str]] = lambda: (0, "")


@dataclass
class Job:
    """Stages one after the other; their output goes to `log`."""

    name: str
    stages: Sequence[Stage]
    log: Path
    seconds: dict[str, float] = field(default_factory=dict)
    """How long each stage took."""


def run_jobs(jobs: Sequence[Job], console: Console, environment: Mapping[str, str]) -> None:
    """Run jobs beside each other. FlowgenError with the end of its log where one fails; the others are then stopped.

    Ctrl-C is passed on once, as the commands stop cleanly by themselves; KeyboardInterrupt is raised when they have.
    """
    running = [_Running(job, environment) for job in jobs if job.stages]
    with _terminable(), _display(console, running) as show:
        try:
            while any([r.poll() for r in running]):  # every one of them, not up to the first
                show()
                time.sleep(_POLL_S)
            show()
        except BaseException:
            _stop(running)
            raise


class _Running:
    """A job under way."""

    def __init__(self, job: Job, environment: Mapping[str, str]) -> None:
        self.job = job
        self.environment = {k: v for k, v in os.environ.items() if k not in _LAUNCHER} | dict(environment)
        self.at = -1
        self.process: subprocess.Popen[bytes] | None = None
        self.first = 0
        self.began = 0.0

    @property
    def stage(self) -> Stage | None:
        return self.job.stages[self.at] if 0 <= self.at < len(self.job.stages) else None

    def poll(self) -> bool:
        """Start the next stage when one is done; whether there is work left. FlowgenError: a stage failed."""
        if self.process is not None:
            code = self.process.poll()
            if code is None:
                return True
            stage = self.job.stages[self.at]
            if code:
                raise FlowgenError(
                    f"{self.job.name}: {stage.label} failed; the end of {self.job.log}:\n{_tail(self.job.log)}"
                )
            self.job.seconds[stage.label] = time.monotonic() - self.began
        self.process = None
        self.at += 1
        if self.stage is None:
            return False
        self.job.log.parent.mkdir(parents=True, exist_ok=True)
        self.began = time.monotonic()
        self.first, _ = self.stage.progress()
        with self.job.log.open("ab") as log, _heeding_interrupts():
            # a session of its own: Ctrl-C reaches it once, through us, and not a second time from the terminal
            self.process = subprocess.Popen(
                self.stage.command, stdout=log, stderr=log, env=self.environment, start_new_session=True
            )
        return True

    def line(self) -> str:
        """The state in plain words, with the time left."""
        if self.stage is None:
            return f"{self.job.name}: done"
        if self.stage.total is None:
            return f"{self.job.name}: {self.stage.label}"
        done, note = self.stage.progress()
        text = f"{self.job.name}: {self.stage.label} {done}/{self.stage.total}"
        if done > self.first:
            left = (time.monotonic() - self.began) / (done - self.first) * (self.stage.total - done)
            text += f", {int(left) // 60}:{int(left) % 60:02d} left"
        return text + (f", {note}" if note else "")


@contextlib.contextmanager
def _heeding_interrupts() -> Iterator[None]:
    """What starts here reacts to SIGINT, which stops it: a shell makes its background commands, and theirs, ignore it."""
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        yield
        return
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)


def _stop(running: Sequence[_Running]) -> None:
    """Ask every command to stop cleanly and wait for it; a second Ctrl-C while waiting is passed on too."""
    live = [r.process for r in running if r.process is not None and r.process.poll() is None]
    for process in live:
        process.send_signal(signal.SIGINT)
    for process in live:
        try:
            process.wait()
        except KeyboardInterrupt:
            process.send_signal(signal.SIGINT)
            process.wait()


@contextlib.contextmanager
def _terminable() -> Iterator[None]:
    """SIGTERM is a Ctrl-C: no command may outlive us."""

    def interrupt(number: int, frame: Any) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def _display(console: Console, running: Sequence[_Running]) -> Iterator[Callable[[], None]]:
    """A bar for each job, or a plain line for all of them now and then."""
    if not console.is_terminal:
        last = -_LINE_EVERY_S

        def show_line() -> None:
            nonlocal last
            if time.monotonic() - last >= _LINE_EVERY_S or all(r.stage is None for r in running):
                last = time.monotonic()
                console.print("; ".join(r.line() for r in running), highlight=False, soft_wrap=True)

        yield show_line
        return
    columns = (
        TextColumn("{task.description}", style="bold"),
        TextColumn("{task.fields[stage]}"),
        BarColumn(bar_width=30),
        TextColumn("{task.fields[count]}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=console) as bars:
        tasks: list[TaskID] = [bars.add_task(r.job.name, stage="", count="", note="", total=None) for r in running]
        stages: list[Stage | None] = [None] * len(running)

        def show_bars() -> None:
            for i, (r, task) in enumerate(zip(running, tasks, strict=True)):
                if r.stage is None:
                    bars.update(task, stage="done", total=1, completed=1, count="", note="")
                    bars.stop_task(task)
                    continue
                done, note = r.stage.progress()
                if r.stage is not stages[i]:
                    stages[i] = r.stage
                    bars.reset(task, total=r.stage.total, completed=done, stage=r.stage.label, count="", note=note)
                count = f"{done}/{r.stage.total}" if r.stage.total else ""
                bars.update(task, completed=done, count=count, note=note)

        yield show_bars


def _tail(path: Path, lines: int = 12) -> str:
    return "\n".join(path.read_text(errors="replace").splitlines()[-lines:])

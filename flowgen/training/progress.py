"""What a person sees of a run: a bar with the time left, or plain lines where there is no terminal."""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

_LINE_EVERY_S = 10.0


class ProgressDisplay:
    """Progress over `total` steps, `start` of them done before. Silent on ranks other than the first."""

    def __init__(
        self, label: str, total: int, start: int = 0, *, console: Console | None = None, visible: bool = True
    ) -> None:
        self.label, self.total, self.start, self.visible = label, total, start, visible
        self.console = console or Console(stderr=True)
        self._began = self._last = time.monotonic()
        self._bar: Progress | None = None
        self._note = ""
        if visible and self.console.is_terminal:
            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TextColumn("left"),
                TimeRemainingColumn(),
                TextColumn("{task.fields[note]}"),
            )
            self._bar = Progress(*columns, console=self.console)
            self._task = self._bar.add_task(label, total=total, completed=start, note="")

    def __enter__(self) -> ProgressDisplay:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def update(self, done: int, note: str = "") -> None:
        if self._bar is not None:
            self._note = note or self._note
            self._bar.update(self._task, completed=done, note=self._note)
            return
        now = time.monotonic()
        if self.visible and (now - self._last >= _LINE_EVERY_S or done == self.total):
            self._last = now
            left = (now - self._began) / max(done - self.start, 1) * (self.total - done)
            self.console.print(
                f"{self.label} {done}/{self.total}, {_clock(left)} left{'; ' + note if note else ''}", highlight=False
            )

    def say(self, text: str) -> None:
        """A line above the bar."""
        if self.visible:
            (self._bar.console if self._bar is not None else self.console).print(text, highlight=False, soft_wrap=True)


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{seconds:02d}" if minutes >= 60 else f"{minutes}:{seconds:02d}"

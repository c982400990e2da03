"""What a rank is doing: how its time divides by stage, and a watchdog that speaks when it stands still."""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
import time
from typing import Any

from flowgen.training.internals import store
from flowgen.training.ranks import Ranks


class Stages:
    """A clock of stages ("data", "forward", ...). The time on the host: a GPU may still be at work on what came before."""

    def __init__(self) -> None:
        self.step = 0
        self.stage = "start"
        self.since = time.monotonic()
        self.seconds: dict[str, float] = {}

    def enter(self, stage: str) -> None:
        now = time.monotonic()
        self.seconds[self.stage] = self.seconds.get(self.stage, 0.0) + now - self.since
        self.stage, self.since = stage, now

    def take(self) -> dict[str, float]:
        """Seconds by stage since they were last taken."""
        self.enter(self.stage)
        seconds, self.seconds = self.seconds, {}
        return seconds


class Watchdog(threading.Thread):
    """Says on which rank, in which stage of which step a run has stood still for `limit_s` seconds, and who lags behind.

    It ends nothing: collectives end by their own timeout. Ranks leave a sign of life in the store they met in.
    """

    def __init__(self, stages: Stages, ranks: Ranks, limit_s: float) -> None:
        super().__init__(name="flowgen-watchdog", daemon=True)
        self.stages, self.ranks, self.limit_s = stages, ranks, limit_s
        self._done = threading.Event()
        self._store: Any = store().clone() if ranks.count > 1 else None

    def __enter__(self) -> Watchdog:
        if self.limit_s > 0:
            self.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._done.set()
        if self.is_alive():
            self.join(timeout=30.0)

    def run(self) -> None:
        reported = None
        while not self._done.wait(min(self.limit_s / 4, 5.0)):
            now = (self.stages.step, self.stages.stage)
            stood = time.monotonic() - self.stages.since
            self._sign(*now)
            if stood > self.limit_s and now != reported:
                reported = now
                print(self._report(*now, stood), file=sys.stderr, flush=True)

    def _sign(self, step: int, stage: str) -> None:
        if self._store is not None:
            sign = {"step": step, "stage": stage, "at": time.time(), "host": socket.gethostname(), "pid": os.getpid()}
            try:
                self._store.set(f"flowgen/alive/{self.ranks.rank}", json.dumps(sign))
            except RuntimeError:  # whoever kept the store is gone; the collectives will say so
                self._store = None

    def _report(self, step: int, stage: str, stood: float) -> str:
        where = f"rank {self.ranks.rank} of {self.ranks.count} (process {os.getpid()} on {socket.gethostname()})"
        lines = [f"flowgen: {where} has stood for {stood:.0f} s in stage {stage!r} of step {step}"]
        for rank, sign in self._signs().items():
            silent = time.time() - sign["at"]
            if rank != self.ranks.rank and (silent > self.limit_s or sign["step"] < step):
                lines.append(
                    f"flowgen: rank {rank} (process {sign['pid']} on {sign['host']}) gave its last sign {silent:.0f} s ago, "
                    f"in stage {sign['stage']!r} of step {sign['step']}"
                )
        return "\n".join(lines)

    def _signs(self) -> dict[int, dict[str, Any]]:
        found = {}
        for rank in range(self.ranks.count) if self._store is not None else ():
            key = f"flowgen/alive/{rank}"
            try:
                if self._store.check([key]):
                    found[rank] = json.loads(self._store.get(key))
            except RuntimeError:
                return found
        return found

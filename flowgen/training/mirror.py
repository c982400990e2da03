"""A copy of a run elsewhere, by URL through fsspec (extra: remote): what a machine that starts empty goes on from."""

from __future__ import annotations

import os
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from flowgen.data.remote import asked, errors_of
from flowgen.errors import FlowgenError, UsageError
from flowgen.runs.run import Run

_OF_RUN = (".yaml", ".json", ".jsonl", ".safetensors")
_MANIFEST = "manifest.json"


class Mirror:
    """The copy of one run, for the first rank alone.

    A checkpoint is there once its manifest is, which is sent last: a copy that was cut off is passed over.

    Args:
        url: a folder of any file system that fsspec knows, of this run alone.
        run: the run here.

    Raises FlowgenError where the library of that file system is not installed, or it cannot be reached.
    """

    def __init__(self, url: str, run: Run) -> None:
        self.url, self.run = url.rstrip("/"), run
        try:
            self.store, self.root = asked(self.url, lambda store, path: (store, path))
        except OSError as error:
            raise FlowgenError(f"train.checkpoint.mirror: {self.url} cannot be reached ({error})") from None
        self._late: str | None = None

    def steps(self) -> list[str]:
        """The names of its whole checkpoints, oldest first."""
        with errors_of(self.url):
            self.store.invalidate_cache()
            there = self.store.find(f"{self.root}/checkpoints") if self.store.exists(f"{self.root}/checkpoints") else []
        found = {name.split("/")[-2] for name in there if name.endswith(f"/{_MANIFEST}")}
        return sorted((name for name in found if name.startswith("step-")), key=_age)

    def refuse_existing(self) -> None:
        """UsageError: it holds a run, and this one begins."""
        if self._steps():
            raise UsageError(
                f"train.checkpoint.mirror: {self.url} holds a run already; continue it with --resume, or choose another URL"
            )

    def fetch(self, changed: Callable[[Run], list[str]]) -> str | None:
        """Bring the newest checkpoint here, with the files of the run, where this machine has none or an older one.

        Returns its name, or None where there is nothing to bring. FlowgenError: it cannot be read. UsageError: it is another
        run; nothing here is changed.

        Args:
            changed: what differs between the config of a run and that of the run here.
        """
        there, here = self._steps(), [checkpoint.folder.name for checkpoint in self.run.checkpoints()]
        if not there or (here and _age(here[-1]) >= _age(there[-1])):
            return None
        newest, final = there[-1], self.run.checkpoints_folder / there[-1]
        partial = final.with_name(f".{newest}.partial")
        of_run = self.run.folder / ".mirror.partial"
        for left in (partial, of_run):
            shutil.rmtree(left, ignore_errors=True)
        try:
            with errors_of(self.url):
                for name in self.store.find(self.root, maxdepth=1):
                    if name.endswith(_OF_RUN):
                        self._get(name, of_run / name.rsplit("/", 1)[-1])
            if found := changed(Run(of_run)):
                raise UsageError(
                    f"train.checkpoint.mirror: the run in {self.url} is another one: its config differs in {'; '.join(found)}; "
                    f"resume without these, or give the URL of this run"
                )
            with errors_of(self.url):
                base = f"{self.root}/checkpoints/{newest}/"
                for name in self.store.find(base):
                    self._get(name, partial / name.split(f"/checkpoints/{newest}/", 1)[1])
                for path in of_run.iterdir():
                    os.replace(path, self.run.folder / path.name)
                os.replace(partial, final)
        except OSError as error:
            raise FlowgenError(f"train.checkpoint.mirror: {newest} cannot be read from {self.url} ({error})") from None
        finally:
            shutil.rmtree(of_run, ignore_errors=True)
        return newest

    def send(self) -> None:
        """Copy what is here and not there. A store that does not answer is a warning: the next call sends all that is missing."""
        try:
            self._send()
        except OSError as error:
            self._late = str(error)
            warnings.warn(
                f"{self.url} did not take the checkpoint ({error}); the next one takes it along", stacklevel=2
            )
        else:
            self._late = None

    def finish(self) -> None:
        """Send what is new since the last checkpoint. FlowgenError: the copy is not whole; the run here is."""
        self.send()
        if self._late is not None:
            raise FlowgenError(
                f"{self.url} does not hold the last checkpoint ({self._late}); it is whole in {self.run.folder}: copy it from there"
            )

    def _send(self) -> None:
        checkpoints = self.run.checkpoints()
        there = self.steps()
        with errors_of(self.url):
            for path in sorted(self.run.folder.iterdir()):
                if path.is_file() and path.suffix in _OF_RUN and not path.name.startswith("."):
                    self._put(path)
            for checkpoint in checkpoints:
                if checkpoint.folder.name not in there:
                    files = sorted(p for p in checkpoint.folder.rglob("*") if p.is_file())
                    for path in sorted(files, key=lambda p: p.name == _MANIFEST):
                        self._put(path)
            kept = [checkpoint.folder.name for checkpoint in checkpoints]
            for name in there:
                if kept and name not in kept and _age(name) < _age(kept[-1]):
                    # its manifest first: whole or gone, for one who reads it now
                    self.store.rm_file(f"{self.root}/checkpoints/{name}/{_MANIFEST}")
                    self.store.rm(f"{self.root}/checkpoints/{name}", recursive=True)

    def _steps(self) -> list[str]:
        try:
            return self.steps()
        except OSError as error:
            raise FlowgenError(f"train.checkpoint.mirror: {self.url} cannot be read ({error})") from None

    def _put(self, path: Path) -> None:
        name = f"{self.root}/{path.relative_to(self.run.folder).as_posix()}"
        self.store.makedirs(name.rsplit("/", 1)[0], exist_ok=True)
        self.store.put_file(str(path), name)

    def _get(self, name: Any, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.store.get_file(name, str(path))


def _age(name: str) -> tuple[int, str]:
    """Orders names of checkpoints by their step."""
    return len(name), name

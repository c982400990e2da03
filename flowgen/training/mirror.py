"""A copy of a run elsewhere, by URL through fsspec (extra: remote): what a machine that starts empty goes on from."""

from __future__ import annotations

import os
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path

from flowgen.data.remote import asked, errors_of
from flowgen.errors import FlowgenError, UsageError
from flowgen.runs.run import Run

_OF_RUN = (".yaml", ".json", ".jsonl", ".safetensors")
_MANIFEST = "manifest.json"
_PROBE = ".flowgen-probe"


class Mirror:
    """The copy of one run, for the first rank alone.

    A checkpoint is there once its manifest is, which is sent last: a copy that was cut off is passed over, and removed when
    newer ones are kept.

    Args:
        url: a folder of any file system that fsspec knows, of this run alone.
        run: the run here.

    Raises FlowgenError where the library of that file system is not installed, or nothing can be written there.
    """

    def __init__(self, url: str, run: Run) -> None:
        self.url, self.run = url.rstrip("/"), run
        self._late: str | None = None
        try:
            self.store, self.root = asked(self.url, lambda store, path: (store, path))
            with errors_of(self.url):
                self.store.makedirs(self.root, exist_ok=True)
                self.store.pipe_file(f"{self.root}/{_PROBE}", b"")
                beside = (run.folder / _PROBE).exists()
                self.store.rm_file(f"{self.root}/{_PROBE}")
        except OSError as error:
            raise FlowgenError(f"train.checkpoint.mirror: cannot write in {self.url} ({error})") from None
        if beside:
            raise UsageError(f"train.checkpoint.mirror: {self.url} is the run folder itself; choose another place")

    def found(self) -> dict[str, bool]:
        """The names of its checkpoints, oldest first, and whether each is whole."""
        folder = f"{self.root}/checkpoints"
        with errors_of(self.url):
            self.store.invalidate_cache()
            there = self.store.find(folder) if self.store.exists(folder) else []
        files = [name.partition(f"{folder}/")[2].partition("/") for name in there]
        whole = {step for step, _, file in files if file == _MANIFEST}
        return {step: step in whole for step in sorted({step for step, _, _ in files if step[:5] == "step-"}, key=_age)}

    def refuse_existing(self) -> None:
        """UsageError: it holds a run, and this one begins."""
        if self._whole():
            raise UsageError(
                f"train.checkpoint.mirror: {self.url} holds a run already; continue it with --resume, or choose another URL"
            )

    def fetch(self, changed: Callable[[Run], list[str]], *, earlier: bool = False) -> str | None:
        """Bring the newest checkpoint here, with the files of the run, where this machine has none or an older one.

        Returns its name, or None where there is nothing to bring. FlowgenError: it cannot be read. UsageError: it is another
        run; nothing here is changed.

        Args:
            changed: what differs between the config of a run and that of the run here.
            earlier: bring those before it, too, for the case that it is damaged.
        """
        here = [_age(checkpoint.folder.name) for checkpoint in self.run.checkpoints()]
        there = [name for name in self._whole() if not here or _age(name) > here[-1]]
        if not there:
            return None
        of_run = self.run.folder / ".mirror.partial"
        shutil.rmtree(of_run, ignore_errors=True)
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
                for step in there if earlier else there[-1:]:
                    self._get_checkpoint(step)
                for path in of_run.iterdir():
                    os.replace(path, self.run.folder / path.name)
        except OSError as error:
            raise FlowgenError(f"train.checkpoint.mirror: {self.url} cannot be read ({error})") from None
        finally:
            shutil.rmtree(of_run, ignore_errors=True)
        return there[-1]

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
        there = self.found()
        with errors_of(self.url):
            for path in sorted(self.run.folder.iterdir()):
                if path.is_file() and path.suffix in _OF_RUN and not path.name.startswith("."):
                    self._put(path)
            for checkpoint in checkpoints:
                if not there.get(checkpoint.folder.name):
                    files = sorted(p for p in checkpoint.folder.rglob("*") if p.is_file())
                    for path in sorted(files, key=lambda p: p.name == _MANIFEST):
                        self._put(path)
            kept = [checkpoint.folder.name for checkpoint in checkpoints]
            for name, whole in there.items():
                if kept and name not in kept and _age(name) < _age(kept[-1]):
                    if whole:  # its manifest first: whole or gone, for one who reads it now
                        self.store.rm_file(f"{self.root}/checkpoints/{name}/{_MANIFEST}")
                    self.store.rm(f"{self.root}/checkpoints/{name}", recursive=True)

    def _whole(self) -> list[str]:
        try:
            return [name for name, whole in self.found().items() if whole]
        except OSError as error:
            raise FlowgenError(f"train.checkpoint.mirror: {self.url} cannot be read ({error})") from None

    def _put(self, path: Path) -> None:
        name = f"{self.root}/{path.relative_to(self.run.folder).as_posix()}"
        self.store.makedirs(name.rsplit("/", 1)[0], exist_ok=True)
        self.store.put_file(str(path), name)

    def _get_checkpoint(self, step: str) -> None:
        final = self.run.checkpoints_folder / step
        partial = final.with_name(f".{step}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        for name in self.store.find(f"{self.root}/checkpoints/{step}"):
            self._get(name, partial / name.partition(f"/checkpoints/{step}/")[2])
        os.replace(partial, final)

    def _get(self, name: str, path: Path) -> None:
        if ".." in path.parts:  # a store takes any name
            raise OSError(0, f"{name} leads out of the run folder")
        path.parent.mkdir(parents=True, exist_ok=True)
        self.store.get_file(name, str(path))


def _age(name: str) -> tuple[int, str]:
    """Orders names of checkpoints by their step."""
    return len(name), name

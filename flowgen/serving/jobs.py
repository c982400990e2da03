"""Jobs and where they are kept: a folder each, whose `job.json` is written when it is accepted and when it has ended."""

from __future__ import annotations

import shutil
import threading
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from flowgen.errors import FlowgenError
from flowgen.files import errors_named, read_json, write_json

State = Literal["queued", "running", "done", "failed", "cancelled"]
PREVIEW = "preview.png"
"""The file of a job that shows its state."""
ENDED = ("done", "failed", "cancelled")


@dataclass
class Job:
    """One generation that was accepted."""

    id: str
    asked: Mapping[str, Any]
    """What the client wrote, as JSON values."""
    run: str
    clips: int
    created: float
    uploads: dict[str, str] = field(default_factory=dict)
    """File in the folder of the job, by name."""
    state: State = "queued"
    error: str = ""
    files: list[str] = field(default_factory=list)
    seconds: float = 0.0
    """How long its batch was sampled."""
    ended: float | None = None
    done_steps: int = 0
    steps: int = 0
    previews: int = 0
    """How often its preview was written."""
    growing: str = ""
    """The file that can be read while it is made."""

    @property
    def over(self) -> bool:
        return self.state in ENDED

    def shown(self) -> dict[str, Any]:
        """What a client sees of it: nothing of where it is kept."""
        links = [f"/v1/generations/{self.id}/files/{i}" for i in range(len(self.files))]
        facts: dict[str, Any] = {"id": self.id, "state": self.state, "run": self.run, "clips": self.clips}
        facts |= {"created": self.created, "progress": {"done": self.done_steps, "of": self.steps}, "files": links}
        if self.growing:
            facts["stream"] = f"/v1/generations/{self.id}/stream"
        if self.previews:
            facts["preview"] = f"/v1/generations/{self.id}/preview?{self.previews}"
        return facts | ({"error": self.error} if self.error else {}) | ({"seconds": self.seconds} if self.over else {})


def new_job(folder: Path, asked: Mapping[str, Any], run: str, clips: int, uploads: Mapping[str, Path]) -> Job:
    """A job with a folder of its own, into which the files of its uploads are moved."""
    job = Job(uuid.uuid4().hex, dict(asked), run, clips, time.time())
    place = folder / job.id
    place.mkdir()
    for i, (name, path) in enumerate(uploads.items()):
        job.uploads[name] = f"upload-{i}{path.suffix}"
        shutil.move(path, place / job.uploads[name])
    return job


class Store(Protocol):
    """Jobs that are kept, by id. Safe to use from several threads."""

    folder: Path
    """Where their files lie on this machine."""
    away: tuple[type[Exception], ...]
    """What is raised while the place where they are kept cannot be reached."""

    def new(self, asked: Mapping[str, Any], run: str, clips: int, uploads: Mapping[str, Path]) -> Job:
        """A job that is kept and not queued yet, with the files of its uploads, which are moved there."""

    def add(self, job: Job) -> None:
        """Queue a job that `new` made."""

    def discard(self, job: Job) -> None:
        """Delete the files of a job that was not queued."""

    def remove(self, job: Job) -> None:
        """Make no more of a job, and delete what is kept of it."""

    def get(self, id: str) -> Job | None:
        """A job as it is now."""

    def queued(self) -> Sequence[Job]:
        """In the order in which they came."""

    def claim(self, job: Job) -> bool:
        """Whether this server is the one to make a queued job."""

    def release(self) -> None:
        """Let go of what this server has claimed and not ended, so that it is made again."""

    def all(self) -> Iterator[Job]: ...

    def change(self, job: Job, **values: Any) -> None:
        """Set values of a job and tell who waits. A job that has ended stays as it is."""

    def place(self, job: Job) -> Path:
        """The folder of its files on this machine."""

    def file(self, job: Job, name: str) -> Path:
        """One of its files, brought to this machine where another has it."""

    def wait(self, seconds: float) -> None:
        """Until something changes, at most `seconds`."""

    def wake(self) -> None:
        """End every wait."""


class Jobs:
    """Jobs of this machine alone, kept in folders; see `Store`.

    Args:
        folder: where they are kept; jobs that are there and have not ended are queued again.
        kept: how many that have ended are kept; older ones are deleted with their files.
    """

    away: tuple[type[Exception], ...] = ()

    def __init__(self, folder: Path, kept: int = 1000) -> None:
        self.folder, self.kept = folder, kept
        self._jobs: dict[str, Job] = {}
        self.changed = threading.Condition(threading.RLock())
        with errors_named(folder):
            folder.mkdir(parents=True, exist_ok=True)
        for path in sorted(folder.glob("*/job.json")):
            try:
                job = Job(**read_json(path))
            except (FlowgenError, TypeError, ValueError):
                continue  # a folder that is not ours, or was being deleted
            if not job.over:
                job.state, job.done_steps = "queued", 0
            self._jobs[job.id] = job

    def new(self, asked: Mapping[str, Any], run: str, clips: int, uploads: Mapping[str, Path]) -> Job:
        return new_job(self.folder, asked, run, clips, uploads)

    def add(self, job: Job) -> None:
        with self.changed:
            self._write(job)
            self._jobs[job.id] = job
            self._forget()
            self.changed.notify_all()

    def discard(self, job: Job) -> None:
        shutil.rmtree(self.place(job), ignore_errors=True)

    def remove(self, job: Job) -> None:
        self.change(job, state="cancelled")
        with self.changed:
            self._jobs.pop(job.id, None)
        self.discard(job)

    def get(self, id: str) -> Job | None:
        with self.changed:
            return self._jobs.get(id)

    def queued(self) -> list[Job]:
        with self.changed:
            return sorted((j for j in self._jobs.values() if j.state == "queued"), key=lambda j: (j.created, j.id))

    def all(self) -> Iterator[Job]:
        with self.changed:
            yield from list(self._jobs.values())

    def change(self, job: Job, **values: Any) -> None:
        with self.changed:
            if job.over:
                return
            for name, value in values.items():
                setattr(job, name, value)
            if job.over:
                job.ended = time.time()
                self._write(job)  # of those that run a restart needs no more than that they were accepted
            self.changed.notify_all()

    def place(self, job: Job) -> Path:
        return self.folder / job.id

    def file(self, job: Job, name: str) -> Path:
        return self.place(job) / name

    def claim(self, job: Job) -> bool:
        self.change(job, state="running")
        return job.state == "running"

    def release(self) -> None:
        for job in self.all():
            if job.state == "running":
                self.change(job, state="queued", done_steps=0)

    def wait(self, seconds: float) -> None:
        with self.changed:
            self.changed.wait(seconds)

    def wake(self) -> None:
        with self.changed:
            self.changed.notify_all()

    def _write(self, job: Job) -> None:
        write_json(asdict(job), self.place(job) / "job.json")

    def _forget(self) -> None:
        over = sorted((j for j in self._jobs.values() if j.over), key=lambda j: j.ended or 0.0)
        for job in over[: max(0, len(over) - self.kept)]:
            del self._jobs[job.id]
            shutil.rmtree(self.place(job), ignore_errors=True)

"""Jobs that several servers share through a Redis, so that any of them takes and answers any job.

Job queues of others (rq, arq, celery) hand a worker one job at a time; the sampler makes those together that agree in shape, so
that it looks at the queue and claims from it. What that takes of Redis is a sorted set, a lease and a transaction.
"""

from __future__ import annotations

import json
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import redis

from flowgen.errors import UsageError
from flowgen.files import errors_named
from flowgen.serving.jobs import PREVIEW, Job, new_job

LEASE_S = 20
"""After which the jobs of a server that says nothing are queued again."""
_KEPT_S = 24 * 3600
_PREFIX = "flowgen"
_NAMES = {field.name for field in fields(Job)}


class SharedJobs:
    """See `flowgen.serving.jobs.Store`. Jobs that ended are kept for a day.

    Args:
        folder: of this server alone, for files while they are made and sent.
        url: of the Redis, as in redis://host:6379/0.

    UsageError: the Redis cannot be reached.
    """

    away: tuple[type[Exception], ...] = (redis.RedisError,)

    def __init__(self, folder: Path, url: str) -> None:
        self.folder = folder
        with errors_named(folder):
            folder.mkdir(parents=True, exist_ok=True)
        self.changed = threading.Condition()
        try:
            self._redis: Any = redis.Redis.from_url(url, socket_connect_timeout=5, health_check_interval=30)
            self._redis.ping()
        except (redis.RedisError, ValueError) as error:
            place = urlsplit(url).hostname or "what --redis names"  # the address may hold a password
            raise UsageError(
                f"--redis: {place} cannot be reached as a Redis ({type(error).__name__}: {error})"
            ) from None
        self._claimed: set[str] = set()
        self._looked = 0.0
        for work in (self._listen, self._renew):
            threading.Thread(target=work, name="shared jobs", daemon=True).start()

    # What is asked for

    def new(self, asked: Mapping[str, Any], run: str, clips: int, uploads: Mapping[str, Path]) -> Job:
        return new_job(self.folder, asked, run, clips, uploads)

    def add(self, job: Job) -> None:
        for name in job.uploads.values():
            self._redis.set(self._file_key(job.id, name), (self.place(job) / name).read_bytes(), ex=_KEPT_S)
        self._redis.set(self._key(job.id), json.dumps(asdict(job)))
        self._redis.zadd(f"{_PREFIX}:queue", {job.id: job.created})
        self._redis.sadd(f"{_PREFIX}:open", job.id)
        self._tell()

    def discard(self, job: Job) -> None:
        shutil.rmtree(self.place(job), ignore_errors=True)

    def remove(self, job: Job) -> None:
        self.change(job, state="cancelled")
        names = [*job.uploads.values(), *job.files, PREVIEW]
        self._redis.delete(self._key(job.id), *(self._file_key(job.id, name) for name in names))
        self.discard(job)

    def get(self, id: str) -> Job | None:
        found = self._redis.get(self._key(id)) if id.isalnum() else None
        return None if found is None else _read(found)

    def queued(self) -> Sequence[Job]:
        self._recover()
        ids = [id.decode() for id in self._redis.zrange(f"{_PREFIX}:queue", 0, -1)]
        return [job for job in self._read_all(ids) if job.state == "queued"]

    def all(self) -> Iterator[Job]:
        ids = [key.decode().rpartition(":")[2] for key in self._redis.scan_iter(f"{_PREFIX}:job:*", count=1000)]
        yield from self._read_all(ids)

    # What is made

    def claim(self, job: Job) -> bool:
        if not self._redis.zrem(f"{_PREFIX}:queue", job.id):
            return False  # another server was faster
        self._redis.set(self._lease(job.id), "1", ex=LEASE_S)
        self._claimed.add(job.id)
        self.change(job, state="running")
        if job.state != "running":
            self._claimed.discard(job.id)
        return job.state == "running"

    def release(self) -> None:
        self._claimed.clear()  # their leases end, and any server queues them again

    def change(self, job: Job, **values: Any) -> None:
        if "previews" in values:
            self._send(job, [PREVIEW])
        if values.get("state") == "done":
            self._send(job, values["files"])

        def changed(now: Job) -> bool:
            if now.over:
                return False
            for name, value in values.items():
                setattr(now, name, value)
            now.ended = time.time() if now.over else None
            return True

        self._update(job, changed)
        self._tell()

    def place(self, job: Job) -> Path:
        return self.folder / job.id

    def file(self, job: Job, name: str) -> Path:
        path = self.place(job) / name
        if (path.exists() and name != PREVIEW) or job.id in self._claimed:
            return path
        if (data := self._redis.get(self._file_key(job.id, name))) is not None:
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(data)
        return path

    def wait(self, seconds: float) -> None:
        with self.changed:
            self.changed.wait(seconds)

    def wake(self) -> None:
        with self.changed:
            self.changed.notify_all()

    # In Redis

    def _update(self, job: Job, changed: Callable[[Job], bool]) -> None:
        """Change what is kept, in one transaction, and make `job` what is kept. One that is gone counts as cancelled."""
        key = self._key(job.id)
        while True:
            with self._redis.pipeline() as pipe:
                try:
                    pipe.watch(key)
                    found = pipe.get(key)
                    now = Job(job.id, job.asked, job.run, job.clips, job.created, state="cancelled")
                    now = now if found is None else _read(found)
                    if found is not None and changed(now):
                        pipe.multi()
                        self._write(pipe, now)
                        pipe.execute()
                    break
                except redis.WatchError:
                    continue
        for name in _NAMES:
            setattr(job, name, getattr(now, name))
        if job.state != "running":
            self._claimed.discard(job.id)

    def _write(self, pipe: Any, job: Job) -> None:
        pipe.set(self._key(job.id), json.dumps(asdict(job)), ex=_KEPT_S if job.over else None)
        if job.state == "queued":
            pipe.zadd(f"{_PREFIX}:queue", {job.id: job.created})
            pipe.delete(self._lease(job.id))
        if job.over:
            pipe.zrem(f"{_PREFIX}:queue", job.id)
            pipe.srem(f"{_PREFIX}:open", job.id)
            pipe.delete(self._lease(job.id))

    def _recover(self) -> None:
        """Queue again what a server that is gone has claimed, and forget files of jobs that are."""
        if time.monotonic() - self._looked < LEASE_S / 4:
            return
        self._looked = time.monotonic()
        for id in (id.decode() for id in self._redis.smembers(f"{_PREFIX}:open")):
            job = self.get(id)
            if job is None:
                self._redis.srem(f"{_PREFIX}:open", id)
            elif not self._redis.exists(self._lease(id)) and not self._redis.zscore(f"{_PREFIX}:queue", id):

                def lost(now: Job) -> bool:
                    alive = now.over or bool(self._redis.exists(self._lease(now.id)))
                    now.state, now.done_steps = now.state if alive else "queued", 0
                    return not alive

                self._update(job, lost)
        for path in self.folder.iterdir():
            if path.stat().st_mtime < time.time() - _KEPT_S:
                shutil.rmtree(path, ignore_errors=True)

    def _send(self, job: Job, names: Sequence[str]) -> None:
        for name in names:
            self._redis.set(self._file_key(job.id, name), (self.place(job) / name).read_bytes(), ex=_KEPT_S)

    def _read_all(self, ids: Sequence[str]) -> list[Job]:
        found = self._redis.mget([self._key(id) for id in ids]) if ids else []
        return [_read(text) for text in found if text is not None]

    def _tell(self) -> None:
        self._redis.publish(f"{_PREFIX}:changed", "")
        self.wake()

    def _listen(self) -> None:
        while True:
            try:
                with self._redis.pubsub(ignore_subscribe_messages=True) as channel:
                    channel.subscribe(f"{_PREFIX}:changed")
                    for _ in channel.listen():
                        self.wake()
            except redis.RedisError:
                time.sleep(1.0)  # it is being started again, or the network is gone: waits end by themselves

    def _renew(self) -> None:
        while True:
            time.sleep(LEASE_S / 4)
            for id in list(self._claimed):
                try:
                    self._redis.set(self._lease(id), "1", ex=LEASE_S)
                except redis.RedisError:
                    break

    @staticmethod
    def _key(id: str) -> str:
        return f"{_PREFIX}:job:{id}"

    @staticmethod
    def _lease(id: str) -> str:
        return f"{_PREFIX}:lease:{id}"

    @staticmethod
    def _file_key(id: str, name: str) -> str:
        return f"{_PREFIX}:file:{id}:{name}"


def _read(text: bytes) -> Job:
    return Job(**{name: value for name, value in json.loads(text).items() if name in _NAMES})

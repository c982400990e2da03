"""The one thread that samples: it takes jobs in their order, makes those together that agree in shape, and writes their files."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeAlias

from flowgen.errors import FlowgenError, UsageError, unknown
from flowgen.media.clip import Clip
from flowgen.media.conditions import Conditioner, encode_conditions
from flowgen.media.interfaces import Levelled, TakesFile, WritesGrowing
from flowgen.plugins.media import Media
from flowgen.runs.generator import Generator
from flowgen.runs.requests import FromNoise, Long, SampleRequest
from flowgen.runs.sampling import Watch
from flowgen.runs.ways import make
from flowgen.serving.jobs import PREVIEW, Job, Store
from flowgen.serving.loaded import Loaded
from flowgen.serving.wire import Asked, Watched, parse, settings_with

log = logging.getLogger("flowgen.serving")
OnState: TypeAlias = Callable[[float, Callable[[], list[Clip]]], None]
_IDLE_S, _PAUSE_S = 0.5, 2.0
_OURS = "an error of the server; its log has more"
_SHOWN, _PREVIEW_S = 8, 0.5
"""Clips on a preview, and seconds between two; they take a fifth of the time at the most."""
_LAST_S = 20.0
"""For a step of a solver to end, after which a batch is given up."""


class Cancelled(Exception):
    """Nobody wants what is being sampled any more."""


class Busy(Exception):
    """The queue is full."""


@dataclass(frozen=True)
class Prepared:
    """A job with what it asks for."""

    job: Job
    asked: Asked
    request: SampleRequest
    generator: Generator
    suffix: str

    @property
    def shape(self) -> object:
        """What jobs that are sampled together have in common; None: it is sampled alone."""
        r = self.request
        if not isinstance(r, FromNoise) or r.negative is not None or self.generator.pairs is not None:
            return None
        return self.job.run, self.asked.step, repr(self.asked.put), repr(r.settings), r.seconds is None


@dataclass
class Sampler:
    """Samples queued jobs until it is told to stop.

    Args:
        batch: clips that are made together at the most; the batch size of a run's own settings where that is smaller.
    """

    jobs: Store
    loaded: Loaded
    batch: int = 64
    rate: dict[str, float] = field(default_factory=dict)
    """Seconds a clip of each run took, of late."""
    made: int = 0
    """Clips that were made since the start."""

    def __post_init__(self) -> None:
        self._stop, self._hurry = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._work, name="sampler", daemon=True)
        self._writer = ThreadPoolExecutor(1, "writer")
        self._writing: Future[None] | None = None

    def start(self) -> None:
        self._thread.start()

    def stop(self, patience_s: float) -> None:
        """Sample no further job. What is being sampled ends within the patience, or is queued again for the next start."""
        self._stop.set()
        self.jobs.wake()
        self._thread.join(patience_s)
        self._hurry.set()
        self._thread.join(_LAST_S)

    def seconds_left(self) -> float:
        """Until what is queued and running now is made, by what clips of these runs took of late (1 s before that is known)."""
        return sum(job.clips * self.rate.get(job.run, 1.0) for job in self.jobs.all() if not job.over)

    def accept(self, value: Any, uploads: Mapping[str, Path], most: int) -> Job:
        """Queue what a client asks for, with the files of its uploads, which are moved away.

        UsageError, FlowgenError: it cannot be made. Busy: `most` jobs wait already.
        """
        asked = parse(value)
        name = asked.run
        if name is None:
            if len(self.loaded.folders) > 1:
                raise UsageError(f"run: name one of {', '.join(sorted(self.loaded.folders))}")
            name = next(iter(self.loaded.folders))
        needed = asked.uploads() | _in_conditions(asked, self.loaded.get(name).conditioners)
        if missing := needed - uploads.keys():
            raise UsageError(f"no file was uploaded under the name {min(missing)!r}")
        if unused := uploads.keys() - needed:
            raise UsageError(f"the file {min(unused)!r} is named by no field; leave it out")
        if len(self.jobs.queued()) >= most:
            raise Busy
        job = self.jobs.new(asked.model_dump(mode="json", exclude_unset=True), name, len(asked.rows()), uploads)
        try:
            self.prepare(job)
        except BaseException as error:
            self.jobs.discard(job)
            if isinstance(error, FlowgenError):
                raise type(error)(self._said(job, error)) from error
            raise
        self.jobs.add(job)
        return job

    def prepare(self, job: Job) -> Prepared:
        """UsageError, FlowgenError: it cannot be made."""
        asked = parse(dict(job.asked))
        generator = self.loaded.get(job.run, asked.step, asked.put)

        def read(name: str) -> Path:
            if name not in job.uploads:
                raise UsageError(f"no file was uploaded under the name {name!r}")
            return self.jobs.file(job, job.uploads[name])

        if generator.experiment.reconstructs:
            raise UsageError(f"{job.run} is an autoencoder, which generates nothing")
        files = _files(generator.conditioners)

        def with_files(row: Mapping[str, Any]) -> dict[str, Any]:
            return {k: str(read(str(v))) if k in files and v is not None else v for k, v in row.items()}

        rows = [with_files(row) for row in asked.rows()]
        encode_conditions(generator.conditioners, rows)
        negative = None if asked.negative is None else with_files(asked.negative)
        common = {"conditions": rows, "seed": asked.seed, "negative": negative}
        common["settings"] = settings_with(generator.config.sample, asked.settings)
        media = Media(generator.config.modality.type, generator.modality)
        suffix = next(iter(media.formats)) if asked.format is None else f".{asked.format.lstrip('.')}"
        if suffix not in media.formats:
            raise UsageError(unknown("format", suffix, media.formats))
        if asked.normalise and not isinstance(generator.modality, Levelled):
            raise UsageError(f"normalise: the modality {generator.config.modality.type!r} has no loudness")
        return Prepared(job, asked, asked.request(common, read), generator, suffix)

    # The thread

    def _work(self) -> None:
        while not self._stop.is_set():
            try:
                self._turn()
            except Exception:  # the place where jobs are kept is gone for a while
                log.exception("the sampler goes on in %g s", _PAUSE_S)
                self._let_go()
                self._stop.wait(_PAUSE_S)
        self._finish_writing()

    def _let_go(self) -> None:
        try:
            self._finish_writing()
        except Exception:
            log.exception("what was being written is made again")
        self.jobs.release()

    def _turn(self) -> None:
        if queued := self.jobs.queued():
            self._next(queued)
        else:
            self._finish_writing()
            self.jobs.wait(_IDLE_S)

    def _next(self, queued: Sequence[Job]) -> None:
        """Make the first job, with those behind it that agree in shape."""
        group: list[Prepared] = []
        room = self.batch
        for job in queued:
            if group and (group[0].shape is None or job.run != group[0].job.run or job.clips > room):
                continue
            prepared = self._prepared(job)
            if prepared is None or (group and prepared.shape != group[0].shape):
                continue
            if not self.jobs.claim(job):
                continue
            if not group:
                room = min(room, prepared.generator.config.sample.batch_size)
            group.append(prepared)
            room -= job.clips
            if group[0].shape is None or room <= 0:
                break
        if group:
            self._make(group)

    def _prepared(self, job: Job) -> Prepared | None:
        try:
            return self.prepare(job)
        except FlowgenError as error:
            self.jobs.change(job, state="failed", error=self._said(job, error))
        except Exception:
            log.exception("job %s", job.id)
            self.jobs.change(job, state="failed", error=_OURS)
        return None

    def _make(self, group: Sequence[Prepared]) -> None:
        jobs, generator = [p.job for p in group], group[0].generator

        def on_step(done: int, total: int) -> None:
            for job in jobs:
                self.jobs.change(job, done_steps=done, steps=total)
            if all(job.over for job in jobs) or self._hurry.is_set():
                raise Cancelled

        began = time.perf_counter()
        try:
            if (name := _growing(group[0])) is not None:
                self._grow(group[0], name, on_step)
                return
            clips = make(generator, together(group), Watch(on_step, self._preview(group)))
            seconds = time.perf_counter() - began
            self._learn(jobs, seconds)
            self._finish_writing()
            self._writing = self._writer.submit(self._write_all, group, clips, seconds)
        except Cancelled:
            for job in jobs:  # those that were not cancelled are made after the next start
                self.jobs.change(job, state="queued", done_steps=0)
        except FlowgenError as error:
            for job in jobs:
                self.jobs.change(job, state="failed", error=self._said(job, error))
        except Exception:
            log.exception("jobs %s", ", ".join(job.id for job in jobs))
            for job in jobs:
                self.jobs.change(job, state="failed", error=_OURS)

    def _grow(self, prepared: Prepared, name: str, on_step: Callable[[int, int], None]) -> None:
        """Make a long clip, which can be read while it is made; no more is held than one window."""
        request, generator, modality = prepared.request, prepared.generator, prepared.generator.modality
        assert isinstance(request, Long)
        assert isinstance(modality, WritesGrowing)
        began, place = time.perf_counter(), self.jobs.place(prepared.job)
        described = generator.describe(request, run=prepared.job.run)
        metadata = _without_places({**described, "conditions": dict(request.conditions[0])}, prepared.job)
        (place / name).unlink(missing_ok=True)  # of a start before
        self.jobs.change(prepared.job, growing=name)
        parts = generator.stream(request, on_step=on_step)
        modality.write_growing((part[0] for part in parts), place / name, metadata)
        self.made += 1
        self.jobs.change(prepared.job, state="done", files=[name], seconds=time.perf_counter() - began)

    def _preview(self, group: Sequence[Prepared]) -> OnState | None:
        """What draws the first clips of a job as they are made, where it asks for that and is made alone."""
        asked, job = group[0].asked, group[0].job
        if len(group) > 1 or not isinstance(asked, Watched) or not asked.preview:
            return None
        due = 0.0

        def draw(t: float, decode: Callable[[], list[Clip]]) -> None:
            nonlocal due
            began = time.monotonic()
            if began < due:
                return
            clips = decode()[:_SHOWN]
            picture = self.jobs.place(job) / PREVIEW
            unfinished = picture.with_name(f"new-{PREVIEW}")
            group[0].generator.modality.sheet(clips, unfinished)
            unfinished.replace(picture)
            self.jobs.change(job, previews=job.previews + 1)
            ended = time.monotonic()
            due = ended + max(_PREVIEW_S, 4 * (ended - began))

        return draw

    def _write_all(self, group: Sequence[Prepared], clips: list[Clip], seconds: float) -> None:
        """The files of a batch, while the next is sampled."""
        for prepared in group:
            own, clips = clips[: prepared.job.clips], clips[prepared.job.clips :]
            if prepared.job.over:
                continue
            try:
                files = self._write(prepared, own)
            except FlowgenError as error:
                self.jobs.change(prepared.job, state="failed", error=self._said(prepared.job, error))
            except Exception:
                log.exception("job %s", prepared.job.id)
                self.jobs.change(prepared.job, state="failed", error=_OURS)
            else:
                self.made += len(own)
                self.jobs.change(prepared.job, state="done", files=files, seconds=seconds)

    def _finish_writing(self) -> None:
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()

    def _said(self, job: Job, error: Exception) -> str:
        """An error in which uploads have the names that the client gave them."""
        text = str(error)
        for name, file in job.uploads.items():
            text = text.replace(str(self.jobs.place(job) / file), name)
        return " ".join(text.split())

    def _learn(self, jobs: Sequence[Job], seconds: float) -> None:
        each = seconds / sum(job.clips for job in jobs)
        before = self.rate.get(jobs[0].run, each)
        self.rate[jobs[0].run] = 0.7 * before + 0.3 * each

    def _write(self, prepared: Prepared, clips: Sequence[Clip]) -> list[str]:
        """The files of a job, by name in its folder."""
        generator, modality = prepared.generator, prepared.generator.modality
        media = Media(generator.config.modality.type, modality)
        request = replace(prepared.request, conditions=[clip.conditions for clip in clips])
        metadata = generator.describe(request, run=prepared.job.run)
        if prepared.asked.normalise and isinstance(modality, Levelled):
            clips = [modality.normalise(clip) for clip in clips]
        each = [[clip] for clip in clips] if media.clips_per_file is not None else [list(clips)]
        names = []
        for i, own in enumerate(each):
            name = f"clip-{i}{prepared.suffix}"
            facts = {"index": i, "conditions": dict(own[0].conditions)} if len(own) == 1 else {}
            named = _without_places({**metadata, **facts}, prepared.job)
            media.write(own, self.jobs.place(prepared.job) / name, named)
            names.append(name)
        return names


def _growing(prepared: Prepared) -> str | None:
    """The name of a file that is written while it is made; None: it is written when it is whole."""
    modality = prepared.generator.modality
    if not isinstance(prepared.request, Long) or prepared.asked.normalise or not isinstance(modality, WritesGrowing):
        return None
    return f"clip-0{prepared.suffix}" if prepared.suffix in modality.growing else None


def together(group: Sequence[Prepared]) -> SampleRequest:
    """One request for the clips of all, each with the noise that it has alone."""
    if len(group) == 1:
        return group[0].request
    first = group[0].request
    assert isinstance(first, FromNoise)
    conditions: list[Any] = []
    draws: list[tuple[int, int]] = []
    seconds: list[float] = []
    for prepared in group:
        own = prepared.request
        assert isinstance(own, FromNoise)
        conditions += own.conditions
        draws += [(own.seed, row) for row in range(len(own.conditions))]
        seconds += [own.seconds] * len(own.conditions) if isinstance(own.seconds, (int, float)) else []
    return FromNoise(conditions=conditions, draws=draws, settings=first.settings, seconds=seconds or None)


def _files(conditioners: Mapping[str, Conditioner]) -> set[str]:
    """The names of the conditions whose values are files."""
    return {name for name, conditioner in conditioners.items() if isinstance(conditioner, TakesFile)}


def _in_conditions(asked: Asked, conditioners: Mapping[str, Conditioner]) -> set[str]:
    """The names of the uploads that conditions are made of."""
    rows = [*asked.rows(), asked.negative or {}]
    return {str(row[k]) for row in rows for k in _files(conditioners) & row.keys() if row[k] is not None}


def _without_places(metadata: dict[str, Any], job: Job) -> dict[str, Any]:
    """Metadata that name uploads by the names that the client gave them, and nothing of the server's folders."""
    places = {file: name for name, file in job.uploads.items()}

    def shown(value: Any) -> Any:
        if isinstance(value, dict):
            return {k: shown(v) for k, v in value.items()}
        if isinstance(value, (list, tuple)):
            return [shown(v) for v in value]
        return places.get(Path(value).name, value) if isinstance(value, (str, Path)) else value

    return {k: shown(v) for k, v in metadata.items()}

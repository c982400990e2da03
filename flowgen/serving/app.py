"""The HTTP side: what each path does."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from fastapi import FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse, Response, StreamingResponse
from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

from flowgen import __version__
from flowgen.errors import FlowgenError, UsageError
from flowgen.plugins.media import Media
from flowgen.serving.bodies import body
from flowgen.serving.gate import Gate, Refused
from flowgen.serving.jobs import ENDED, PREVIEW, Job, Store
from flowgen.serving.loaded import Loaded, described
from flowgen.serving.openai_shapes import add_openai_shapes
from flowgen.serving.sampler import Busy, Sampler

log = logging.getLogger("flowgen.serving")
_POLL_S = 0.02


@dataclass(frozen=True)
class Limits:
    """What the server takes.

    Args:
        queue: jobs that may wait.
        upload_mb: of a request with its files.
        patience_s: for what is being sampled when the server is told to stop.
    """

    queue: int = 256
    upload_mb: float = 64.0
    patience_s: float = 30.0


def make_app(jobs: Store, loaded: Loaded, sampler: Sampler, limits: Limits, token: str | None) -> Any:
    """The ASGI application. It starts the sampler, and stops it when the server stops."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        sampler.start()
        yield
        await run_in_threadpool(sampler.stop, limits.patience_s)

    app = FastAPI(title="flowgen", version=__version__, lifespan=lifespan, docs_url=None, redoc_url=None)
    metrics = _Metrics(jobs, sampler)

    @app.exception_handler(FlowgenError)
    async def refused(request: Request, error: Exception) -> JSONResponse:
        return JSONResponse({"error": str(error)}, 422 if isinstance(error, UsageError) else 500)

    @app.exception_handler(HTTPException)
    async def failed(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)
        return JSONResponse({"error": str(error.detail)}, error.status_code, error.headers)

    @app.exception_handler(RequestValidationError)
    async def misspelt(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)
        first = error.errors()[0]
        return JSONResponse({"error": f"{'.'.join(map(str, first['loc'][1:]))}: {first['msg']}"[:300]}, 422)

    @app.exception_handler(Refused)
    async def cut_off(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, Refused)
        return JSONResponse({"error": str(error)}, error.status, {"Connection": "close"})

    @app.exception_handler(Busy)
    async def busy(request: Request, error: Exception) -> JSONResponse:
        wait = max(1, round(sampler.seconds_left()))
        sentence = f"the queue is full; it will have been worked through in about {wait} s: ask again then"
        return JSONResponse({"error": sentence, "wait_s": wait}, 429, {"Retry-After": str(wait)})

    async def away(request: Request, error: Exception) -> JSONResponse:
        return JSONResponse({"error": "the jobs that this server shares cannot be reached; try again"}, 503)

    for kind in jobs.away:
        app.add_exception_handler(kind, away)

    @app.get("/health")
    def health() -> dict[str, str]:
        return {"state": "ok", "version": __version__}

    @app.get("/metrics")
    def figures() -> Response:
        return Response(metrics.text(), media_type="text/plain; version=0.0.4")

    @app.get("/v1/runs")
    def runs() -> dict[str, Any]:
        return {"runs": [described(name, loaded) for name in loaded.folders]}

    @app.post("/v1/generations", status_code=202)
    async def generate(request: Request) -> dict[str, Any]:
        value, folder, uploads = await body(request)
        try:
            return await run_in_threadpool(accept, value, uploads)
        finally:
            await run_in_threadpool(folder.cleanup)

    def accept(value: Any, uploads: dict[str, Path]) -> dict[str, Any]:
        job = sampler.accept(value, uploads, limits.queue)
        metrics.accepted.inc()
        log.info(
            json.dumps({"event": "accepted", "job": job.id, "run": job.run, "way": job.asked.get("way", "sample")})
        )
        return {**job.shown(), "wait_s": round(sampler.seconds_left(), 1)}

    def found(id: str) -> Job:
        job = jobs.get(id)
        if job is None:
            raise HTTPException(404, "there is no such generation")
        return job

    @app.get("/v1/generations/{id}")
    async def state(id: str, wait_s: Annotated[float, Query(ge=0, le=60)] = 0.0) -> dict[str, Any]:
        job, until = found(id), time.monotonic() + wait_s
        while not job.over and time.monotonic() < until:
            await asyncio.sleep(0.05)
            job = found(id)
        return job.shown()

    @app.delete("/v1/generations/{id}")
    def cancel(id: str) -> dict[str, Any]:
        job = found(id)
        jobs.change(job, state="cancelled")
        return job.shown()

    @app.get("/v1/generations/{id}/files/{index}")
    def file(id: str, index: int) -> FileResponse:
        job = found(id)
        if job.state != "done":
            raise HTTPException(409, f"the generation is {job.state}, and has no files")
        if not 0 <= index < len(job.files):
            raise HTTPException(404, f"the generation has {len(job.files)} files, counted from 0")
        generator = loaded.get(job.run)
        path = jobs.file(job, job.files[index])
        kinds = Media(generator.config.modality.type, generator.modality).formats
        return FileResponse(path, media_type=kinds.get(path.suffix, "application/octet-stream"), filename=path.name)

    @app.get("/v1/generations/{id}/stream")
    async def stream(id: str) -> StreamingResponse:
        job = found(id)
        while not job.growing and not job.over:
            await asyncio.sleep(_POLL_S)
            job = found(id)
        if not job.growing or (job.over and job.state != "done"):
            raise HTTPException(409, f"the generation is {job.state}, and no clip that grows while it is made")
        path = jobs.place(job) / job.growing if not job.over else jobs.file(job, job.growing)
        if not path.parent.is_dir():
            raise HTTPException(409, "another server makes this clip; ask for its file when it is done")
        kinds = Media(loaded.get(job.run).config.modality.type, loaded.get(job.run).modality).formats
        return StreamingResponse(
            _growing(jobs, job, path), media_type=kinds[path.suffix], headers={"Cache-Control": "no-store"}
        )

    @app.get("/v1/generations/{id}/preview")
    def preview(id: str) -> FileResponse:
        job = found(id)
        if not job.previews:
            raise HTTPException(404, "the generation has no preview; ask for one with preview: true")
        return FileResponse(jobs.file(job, PREVIEW), media_type="image/png", headers={"Cache-Control": "no-store"})

    @app.get("/v1/generations/{id}/events")
    async def events(id: str, request: Request) -> StreamingResponse:
        found(id)

        async def changes() -> AsyncIterator[str]:
            before = None
            while not await request.is_disconnected() and (job := jobs.get(id)) is not None:
                now = json.dumps(job.shown())
                if now != before:
                    yield f"event: {job.state}\ndata: {now}\n\n"
                if job.state in ENDED:
                    return
                before = now
                await asyncio.sleep(0.1)

        return StreamingResponse(changes(), media_type="text/event-stream", headers={"Cache-Control": "no-store"})

    add_openai_shapes(app, jobs, sampler, limits.queue)
    return Gate(app, token, int(limits.upload_mb * 1e6))


async def _growing(jobs: Store, job: Job, path: Path) -> AsyncIterator[bytes]:
    """What is in a file, and what comes until its job has ended."""
    while not path.exists():
        if (jobs.get(job.id) or job).over:
            return
        await asyncio.sleep(_POLL_S)
    with open(path, "rb") as file:
        while True:
            over = (jobs.get(job.id) or job).over  # asked before the read, so that nothing is missed
            if data := file.read(1 << 16):
                yield data
            elif over:
                return
            else:
                await asyncio.sleep(_POLL_S)


class _Metrics:
    """For Prometheus."""

    def __init__(self, jobs: Store, sampler: Sampler) -> None:
        self.registry = CollectorRegistry()
        self.accepted = Counter("flowgen_jobs_accepted", "Jobs that were accepted.", registry=self.registry)
        states = Gauge("flowgen_jobs", "Jobs that are kept, by state.", ["state"], registry=self.registry)
        for state in ("queued", "running", *ENDED):
            states.labels(state).set_function(partial(_count, jobs, state))
        made = Gauge("flowgen_clips_made", "Clips made since the start.", registry=self.registry)
        made.set_function(lambda: sampler.made)
        left = Gauge("flowgen_seconds_left", "Until what is asked for is made, in seconds.", registry=self.registry)
        left.set_function(sampler.seconds_left)

    def text(self) -> bytes:
        return generate_latest(self.registry)


def _count(jobs: Store, state: str) -> int:
    return sum(job.state == state for job in jobs.all())

"""The shapes that clients of OpenAI's `/v1/audio/speech` and `/v1/videos` speak, over the same jobs.

`model` is the name of a run; `input` and `prompt` are its text condition, or the value of a class that has it.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from fastapi.responses import FileResponse, JSONResponse, Response
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile
from starlette.requests import Request

from flowgen.errors import FlowgenError, UsageError
from flowgen.media.conditions import ClassCondition, text_conditions
from flowgen.plugins.media import Media
from flowgen.runs.generator import Generator
from flowgen.serving.bodies import parsed, saved
from flowgen.serving.jobs import Job, Store
from flowgen.serving.sampler import Busy, Sampler

_STATUS = {"queued": "queued", "running": "in_progress", "done": "completed", "failed": "failed", "cancelled": "failed"}
_SPEECH = {"model", "input", "voice", "response_format", "speed", "seed", "conditions"}
_VIDEO = {"model", "prompt", "seconds", "size", "input_reference", "seed", "conditions"}
_VOICES = ("voice", "speaker")
_NO_VOICE = ("", "default", "none")
_WAIT_S = 0.1


def add_openai_shapes(app: FastAPI, jobs: Store, sampler: Sampler, most: int) -> None:
    """Give an application these paths. most: jobs that may wait."""

    @app.get("/v1/models")
    def models() -> dict[str, Any]:
        made = [{"id": name, "object": "model", "created": 0, "owned_by": "flowgen"} for name in sampler.loaded.folders]
        return {"object": "list", "data": made}

    @app.post("/v1/audio/speech")
    async def speech(request: Request) -> Response:
        try:
            value = parsed(await request.body())
            job = await run_in_threadpool(lambda: sampler.accept(_speech(sampler, value), {}, most))
        except (FlowgenError, Busy) as error:
            return _refused(error, sampler)
        while not job.over:
            if await request.is_disconnected():
                jobs.change(job, state="cancelled")
            await asyncio.sleep(_WAIT_S)  # a wait in a thread would keep one from all others
            found = await run_in_threadpool(jobs.get, job.id)
            job = found or job
        return _content(sampler, jobs, job)

    @app.post("/v1/videos")
    async def video(request: Request) -> Response:
        with tempfile.TemporaryDirectory(prefix="flowgen-upload-") as folder:
            try:
                value, uploads = await _form(request, Path(folder))
                job = await run_in_threadpool(lambda: sampler.accept(_video(sampler, value, uploads), uploads, most))
            except (FlowgenError, Busy) as error:
                return _refused(error, sampler)
        return JSONResponse(_shown(sampler, job))

    @app.get("/v1/videos")
    def videos() -> dict[str, Any]:
        made = [_shown(sampler, job) for job in jobs.all() if _is_video(sampler, job)]
        made.sort(key=lambda one: one["created_at"], reverse=True)
        return {"object": "list", "data": made, "has_more": False}

    @app.get("/v1/videos/{id}")
    def one(id: str) -> Response:
        job = jobs.get(id)
        return _missing() if job is None else JSONResponse(_shown(sampler, job))

    @app.get("/v1/videos/{id}/content")
    def content(id: str) -> Response:
        job = jobs.get(id)
        return _missing() if job is None else _content(sampler, jobs, job)

    @app.delete("/v1/videos/{id}")
    def delete(id: str) -> Response:
        job = jobs.get(id)
        if job is None:
            return _missing()
        jobs.remove(job)
        return JSONResponse({"id": id, "object": "video.deleted", "deleted": True})


def _speech(sampler: Sampler, value: Any) -> dict[str, Any]:
    """What `/v1/audio/speech` asks for, as a generation."""
    given = _known(value, _SPEECH)
    generator = _run(sampler, given)
    if given.get("speed", 1) != 1:
        raise UsageError("speed: only 1; ask for a length by a condition of the run, where it has one")
    conditions = _conditions(generator, given, "input")
    voice = str(given.get("voice") or "")
    own = next((name for name in _VOICES if name in generator.conditioners), None)
    if own is not None and voice not in _NO_VOICE:
        conditions[own] = voice
    elif voice not in _NO_VOICE:
        raise UsageError(f"voice: {given['model']} has no condition voice or speaker; give the voice 'default'")
    format = str(given.get("response_format", "mp3"))
    return _generation(given, conditions) | {"format": format}


def _video(sampler: Sampler, value: Any, uploads: Mapping[str, Path]) -> dict[str, Any]:
    """What `/v1/videos` asks for, as a generation."""
    given = _known(value, _VIDEO)
    generator = _run(sampler, given)
    asked = _generation(given, _conditions(generator, given, "prompt"))
    if given.get("size") not in (None, size := _size(generator)):
        raise UsageError(f"size: {given['model']} makes {size or 'no pictures'}; leave it out")
    if given.get("seconds") is not None:
        try:
            asked["seconds"] = float(given["seconds"])
        except (TypeError, ValueError):
            raise UsageError(f"seconds: expected a number, got {given['seconds']!r}") from None
    return asked | ({"way": "animate", "first": "input_reference"} if uploads else {})


def _known(value: Any, names: set[str]) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise UsageError("the request is no JSON object")
    if strangers := value.keys() - names:
        raise UsageError(f"{min(strangers)}: is no field that this server takes (known: {', '.join(sorted(names))})")
    return value


def _run(sampler: Sampler, given: Mapping[str, Any]) -> Generator:
    if not isinstance(given.get("model"), str):
        raise UsageError(f"model: name one of {', '.join(sorted(sampler.loaded.folders))}")
    return sampler.loaded.get(given["model"])


def _generation(given: Mapping[str, Any], conditions: Mapping[str, Any]) -> dict[str, Any]:
    seed = {"seed": given["seed"]} if given.get("seed") is not None else {}
    return {"run": given["model"], "conditions": dict(conditions), **seed}


def _conditions(generator: Generator, given: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The text as the condition that takes it, with those of `conditions`."""
    others = given.get("conditions") or {}
    if not isinstance(others, dict):
        raise UsageError('conditions: expected an object, as in {"digit": "3"}')
    text = given.get(name)
    if not isinstance(text, str):
        raise UsageError(f"{name}: expected a text")
    if not text:
        return dict(others)
    texts = text_conditions(generator.conditioners)
    taken = texts or [
        own for own, c in generator.conditioners.items() if isinstance(c, ClassCondition) and text in c.names
    ]
    if len(taken) != 1:
        raise UsageError(
            f"{name}: {given['model']} has {'several' if taken else 'no'} conditions that take {text[:40]!r}; "
            f"leave it empty, and give conditions: {', '.join(generator.conditioners) or 'it has none'}"
        )
    return {taken[0]: text, **others}


def _size(generator: Generator) -> str | None:
    """WIDTHxHEIGHT of what a run makes, where its config says so."""
    options = generator.config.modality.options
    return f"{options['width']}x{options['height']}" if {"width", "height"} <= options.keys() else None


def _is_video(sampler: Sampler, job: Job) -> bool:
    if job.run not in sampler.loaded.folders:
        return False  # of a start before, with other runs
    generator = sampler.loaded.get(job.run)
    formats = Media(generator.config.modality.type, generator.modality).formats
    return next(iter(formats.values())).startswith("video/")


def _shown(sampler: Sampler, job: Job) -> dict[str, Any]:
    asked, generator = job.asked, sampler.loaded.get(job.run)
    texts = text_conditions(generator.conditioners)
    conditions = asked.get("conditions") or {}
    facts: dict[str, Any] = {"id": job.id, "object": "video", "model": job.run, "status": _STATUS[job.state]}
    facts |= {"created_at": int(job.created), "progress": round(100 * job.done_steps / job.steps) if job.steps else 0}
    facts |= {"seconds": str(asked.get("seconds", generator.lengths.window_s)), "size": _size(generator) or ""}
    facts |= {"prompt": next((str(conditions[t]) for t in texts if t in conditions), None)}
    facts |= {"completed_at": int(job.ended) if job.state == "done" and job.ended else None, "expires_at": None}
    failed = {"code": job.state, "message": job.error or "it was cancelled"}
    return facts | {"error": failed if _STATUS[job.state] == "failed" else None, "remixed_from_video_id": None}


def _content(sampler: Sampler, jobs: Store, job: Job) -> Response:
    if job.state != "done":
        return _error(409 if not job.over else 500, job.error or f"the generation is {job.state}, and has no file")
    generator = sampler.loaded.get(job.run)
    path = jobs.file(job, job.files[0])
    kinds = Media(generator.config.modality.type, generator.modality).formats
    return FileResponse(path, media_type=kinds.get(path.suffix, "application/octet-stream"), filename=path.name)


async def _form(request: Request, folder: Path) -> tuple[Any, dict[str, Path]]:
    """Fields of a form, or of JSON, and the picture to begin with."""
    if request.headers.get("content-type", "").startswith("application/json"):
        return parsed(await request.body()), {}
    async with request.form(max_files=1, max_fields=16) as form:
        fields, uploads = {}, {}
        for name, part in form.multi_items():
            if not isinstance(part, UploadFile):
                fields[name] = parsed(part.encode()) if name == "conditions" else part
            elif name != "input_reference":
                raise UsageError(
                    f"{name}: is no file that this server takes; the picture to begin with is input_reference"
                )
            else:
                uploads[name] = await saved(part, folder / "0")
        if "seed" in fields:
            fields["seed"] = parsed(str(fields["seed"]).encode())
        return fields, uploads


def _refused(error: Exception, sampler: Sampler) -> Response:
    if isinstance(error, Busy):
        wait = max(1, round(sampler.seconds_left()))
        return _error(429, f"the queue is full; ask again in {wait} s", {"Retry-After": str(wait)})
    return _error(400 if isinstance(error, UsageError) else 500, str(error))


def _missing() -> Response:
    return _error(404, "there is no such video")


def _error(status: int, sentence: str, headers: Mapping[str, str] | None = None) -> Response:
    kind = "server_error" if status >= 500 else "rate_limit_error" if status == 429 else "invalid_request_error"
    facts = {"message": sentence, "type": kind, "param": None, "code": None}
    return JSONResponse({"error": facts}, status, dict(headers or {}))

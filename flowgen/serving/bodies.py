"""Bodies of requests: JSON, and uploads, which are kept under names of the server."""

from __future__ import annotations

import json
import re
import tempfile
from pathlib import Path
from typing import Any

from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import Request

from flowgen.errors import UsageError

_SUFFIX = re.compile(r"\.[A-Za-z0-9]{1,8}")
_MOST_UPLOADS = 32


async def body(request: Request) -> tuple[Any, tempfile.TemporaryDirectory[str], dict[str, Path]]:
    """The JSON of a request, and its uploads as files in a folder that the caller deletes."""
    folder = tempfile.TemporaryDirectory(prefix="flowgen-upload-")
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    try:
        if kind == "application/json":
            return parsed(await request.body()), folder, {}
        if kind != "multipart/form-data":
            raise HTTPException(
                415, "send application/json, or multipart/form-data with a part 'request' and the files"
            )
        uploads: dict[str, Path] = {}
        async with request.form(max_files=_MOST_UPLOADS, max_fields=1) as form:
            text = form.get("request")
            if not isinstance(text, str):
                raise UsageError("the part 'request' is missing: the JSON of what is asked for")
            for name, part in form.multi_items():
                if not isinstance(part, UploadFile):
                    continue
                if name in uploads:
                    raise UsageError(f"two files have the name {name[:64]!r}")
                uploads[name] = await saved(part, Path(folder.name) / f"{len(uploads)}")
        return parsed(text.encode()), folder, uploads
    except BaseException:
        folder.cleanup()
        raise


async def saved(part: UploadFile, path: Path) -> Path:
    """The content of an upload at a place of the server's, with the extension that its name has."""
    ending = Path(part.filename or "").suffix
    path = path.with_suffix(ending.lower()) if _SUFFIX.fullmatch(ending) else path
    path.write_bytes(await part.read())
    return path


def parsed(text: bytes) -> Any:
    """JSON values. UsageError: it is none."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise UsageError("the request is no JSON") from None

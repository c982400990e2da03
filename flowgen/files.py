"""Files that are whole or not there."""

from __future__ import annotations

import contextlib
import json
import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from flowgen.errors import FlowgenError


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` with the same suffix, which takes its place when the block ends without an error.

    Raises FlowgenError where the folder cannot be written or the disk is full; nothing half-written is left.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.stem}.{uuid.uuid4().hex[:8]}{path.suffix}")
    try:
        with errors_named(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            yield temporary
            os.replace(temporary, path)
    finally:
        if temporary.exists():  # not where the folder is no folder
            temporary.unlink()


@contextlib.contextmanager
def errors_named(path: Path) -> Iterator[None]:
    """What the system says about a file, as one sentence that names it."""
    try:
        yield
    except OSError as error:
        raise FlowgenError(
            f"cannot write {path}: {error.strerror or error}; choose another place or make room"
        ) from error


def write_json(value: Any, path: Path) -> None:
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2) + "\n")

"""Files that are whole or not there."""

from __future__ import annotations

import contextlib
import json
import os
import stat
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from flowgen.errors import FlowgenError, UsageError


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


def read_small(path: Path, limit: int) -> str:
    """The text of a file written by hand, or by a stranger.

    UsageError: it cannot be read, is no regular file (a pipe would never end), is larger than `limit` bytes or not UTF-8.
    """
    try:
        # not blocked by a pipe that nobody writes to
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise UsageError(f"cannot read {path}: it is no regular file")
            content = file.read(limit + 1)
    except (OSError, ValueError) as error:  # ValueError: NUL in the name
        raise UsageError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from None
    if len(content) > limit:
        raise UsageError(f"{path} is larger than {limit / 1e6:g} MB, which no such file is")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise UsageError(f"{path}: not a text file in UTF-8") from None

"""Files that are whole or not there."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import stat
import uuid
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from flowgen.errors import FlowgenError, UsageError

_SHOWN = 40
"""Of a name, what is kept in that of its temporary: longer ones may be as long as a name can be."""


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` with the same suffix, which takes its place when the block ends without an error.

    Raises FlowgenError where the folder cannot be written, the disk is full, or there is something of that name that is no
    file (a folder, a device); nothing half-written is left.
    """
    path = Path(path)
    with errors_named(path):
        if path.exists() and not path.is_file():
            kind = "a folder" if path.is_dir() else "a device, a pipe or a socket"
            raise FlowgenError(f"cannot write {path}: it is {kind}, no file; choose another name")
    temporary = path.with_name(f".{path.stem[:_SHOWN]}.{uuid.uuid4().hex[:8]}{path.suffix}")
    try:
        with errors_named(path):
            if not path.parent.is_dir():
                path.parent.mkdir(parents=True, exist_ok=True)
            yield temporary
            os.replace(temporary, path)
    finally:
        with contextlib.suppress(OSError):  # the folder is no folder, or the name is none that a file may have
            temporary.unlink()


@contextlib.contextmanager
def replacing_folder(folder: Path, own: str) -> Iterator[Path]:
    """A temporary folder beside `folder`, which takes its place when the block ends without an error.

    `own`: the pattern of the names of files that may be replaced. Raises FlowgenError where there is a file of the folder's
    name or anything else in it, or the place cannot be written; nothing half-written is left.
    """
    folder = Path(folder)
    temporary = folder.with_name(f".{folder.name[:_SHOWN]}.{uuid.uuid4().hex[:8]}")
    before = folder.with_name(f"{temporary.name}.before")
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise FlowgenError(f"{folder}: there is something that is no folder; choose another place, or move it away")
    if folder.is_dir() and (other := next((p.name for p in folder.iterdir() if not re.fullmatch(own, p.name)), None)):
        raise FlowgenError(f"{folder} holds other things, such as {other}; choose another place, or move them away")
    try:
        with errors_named(folder):
            temporary.mkdir(parents=True)
            yield temporary
            if folder.exists():
                os.replace(folder, before)
            os.replace(temporary, folder)
    finally:
        if before.exists() and not folder.exists():
            os.replace(before, folder)
        for left in (temporary, before):
            shutil.rmtree(left, ignore_errors=True)


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


def read_json(path: Path, limit: int = 20_000_000) -> Any:
    """The value in a JSON file. UsageError: as `read_small`, or it is no JSON."""
    text = read_small(path, limit)
    try:
        return json.loads(text)
    except RecursionError:
        raise UsageError(f"cannot read {path}: it is nested too deeply") from None
    except json.JSONDecodeError as error:
        raise UsageError(f"cannot read {path}:{error.lineno}: not valid JSON: {error.msg}") from None
    except ValueError:
        raise UsageError(f"cannot read {path}: it holds a number of thousands of digits") from None


def refuse_links_out(folder: Path, but: str = "") -> None:
    """UsageError: a link below a folder leads out of it, where reading would tell and writing would change what it should not.

    Links whose path below the folder matches the pattern `but` may lead anywhere: nothing follows them.
    """
    root = folder.resolve()
    for place, folders, files in os.walk(folder):
        for name in (*folders, *files):
            path = Path(place, name)
            if path.is_symlink() and not fnmatch(path.relative_to(folder).as_posix(), but):
                try:
                    inside = path.resolve().is_relative_to(root)
                except (OSError, RuntimeError):  # links that run in a circle
                    inside = False
                if not inside:
                    raise UsageError(
                        f"{path} is a link that leads out of {folder}; put what it leads to in its place, or leave it out"
                    )


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

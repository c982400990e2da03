"""Files elsewhere, named by URL: object stores and web servers, read where they lie through fsspec (extra: remote).

Any URL that fsspec knows is one: s3://, gs://, http://, memory://, and chains such as simplecache::s3://, which keeps what was read.
"""

from __future__ import annotations

import glob
import hashlib
import io
import os
import posixpath
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from types import SimpleNamespace
from typing import Any, BinaryIO

from flowgen.errors import FlowgenError, UsageError

_BLOCK = 1 << 20
_CHANGING = ("mtime", "LastModified", "last_modified", "updated", "created", "ETag", "etag", "version_id")
"""What file systems call what changes with a file."""


def is_url(name: Any) -> bool:
    """Whether a place is named by URL."""
    return "://" in str(name)


@dataclass(frozen=True, order=True)
class Remote:
    """A file or a folder elsewhere: what those who read a `Path` ask of it."""

    url: str
    known: Any = field(default=None, compare=False, repr=False)
    """What a listing said of it."""

    def __str__(self) -> str:
        return self.url

    def __truediv__(self, name: str) -> Remote:
        return Remote(f"{self.url.rstrip('/')}/{name}")

    @property
    def name(self) -> str:
        return posixpath.basename(self.url.partition("?")[0].rstrip("/"))

    @property
    def suffix(self) -> str:
        return PurePosixPath(self.name).suffix

    @property
    def parent(self) -> Remote:
        return Remote(posixpath.dirname(self.url.rstrip("/")))

    def absolute(self) -> PurePosixPath:
        """A name that no other file has."""
        return PurePosixPath("/" + self.url.replace("://", "/", 1))

    def is_file(self) -> bool:
        try:
            return self._info().get("type") != "directory"
        except OSError:
            return False

    def is_dir(self) -> bool:
        return self.known is None and self.suffix == "" and asked(self.url, lambda fs, path: fs.isdir(path))

    def stat(self) -> Any:
        """Its size, and a time that is another one when it changes. OSError: it cannot be reached."""
        info = self._info()
        mark = repr([info.get(name) for name in _CHANGING]).encode()
        time = int.from_bytes(hashlib.blake2b(mark, digest_size=6).digest(), "little")
        return SimpleNamespace(st_size=info.get("size") or 0, st_mtime_ns=time, st_ctime_ns=time)

    def open(self, mode: str = "rb", buffering: int = -1) -> BinaryIO:
        """The file for reading at any place; whole in memory where its server has no parts of files."""
        found = asked(self.url, lambda fs, path: fs.open(path, "rb", block_size=_BLOCK))
        if not found.seekable():
            with errors_of(self.url), found:
                return io.BytesIO(found.read())
        return io.BufferedReader(_Reading(self.url, found), _BLOCK)

    def read_bytes(self) -> bytes:
        with self.open() as file:
            return file.read()

    def _info(self) -> dict[str, Any]:
        return self.known or asked(self.url, lambda fs, path: fs.info(path))


def matching(pattern: str) -> list[Remote]:
    """The files that a URL names, which may have *, ? and [] in its path."""
    if not glob.has_magic(pattern.partition("?")[0] if "*" not in pattern and "[" not in pattern else pattern):
        found = Remote(pattern)
        return [found] if found.is_file() else []
    return asked(pattern, lambda fs, path: [Remote(fs.unstrip_protocol(name)) for name in sorted(fs.glob(path))])


def listed(root: Remote) -> Iterator[tuple[str, Remote]]:
    """Every file below a folder, by its name there. UsageError: there is no such folder."""
    try:
        found, base, url = asked(root.url, lambda fs, path: (fs.find(path, detail=True), path, fs.unstrip_protocol))
    except OSError as error:
        raise UsageError(f"{root}: cannot be listed ({error}); give a folder that can be read") from None
    for path, info in sorted(found.items()):
        name = posixpath.relpath(path, base)
        yield name, Remote(url(path), info if info.get("size") is not None else None)


class _Reading(io.RawIOBase):
    """A file of fsspec, whose errors are all OSErrors that name it."""

    def __init__(self, url: str, file: Any) -> None:
        self._url, self._file = url, file

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return int(self._file.seek(offset, whence))

    def readinto(self, buffer: Any) -> int:
        with errors_of(self._url):
            at = self._file.tell()
            try:
                found = self._file.read(len(buffer))
            except ValueError:  # its server has no parts of files, and did not say so
                self._file = io.BytesIO(asked(self._url, lambda fs, path: fs.cat_file(path)))
                self._file.seek(at)
                found = self._file.read(len(buffer))
        buffer[: len(found)] = found
        return len(found)

    def close(self) -> None:
        self._file.close()
        super().close()


def asked(url: str, ask: Any) -> Any:
    """What a file system says of a path. OSError: it cannot be reached; FlowgenError: there is no library for it."""
    try:
        from fsspec.core import url_to_fs
    except ImportError:
        raise FlowgenError(f"{url}: reading URLs needs fsspec: pip install 'flowgen[remote]'") from None
    with errors_of(url):
        return ask(*url_to_fs(url))


@contextmanager
def errors_of(url: str) -> Iterator[None]:
    """Every library has errors of its own; here they are OSErrors."""
    try:
        yield
    except OSError as error:
        if error.strerror or not str(error):
            raise
        raise OSError(0, str(error).splitlines()[0][:200]) from error
    except ImportError as error:
        raise FlowgenError(f"{url}: {error}; install it beside flowgen[remote]") from None
    except Exception as error:
        text = str(error).splitlines()
        raise OSError(0, text[0][:200] if text else type(error).__name__) from error


def place(value: str) -> Path | Remote:
    """What an option names: a path, ~ being the home of the user, or a URL."""
    return Remote(value) if is_url(value) else Path(value).expanduser()


def absolute(value: str) -> str:
    """A place in words that hold in any folder."""
    return value if is_url(value) else os.path.abspath(os.path.expanduser(value))


def below(root: str, name: str, allow_outside: bool, where: str) -> Path | Remote:
    """The place that a table names, below its folder. UsageError: it leads out of it, and that is not allowed."""
    if is_url(root) or is_url(name):
        outside = not name.startswith(f"{root.rstrip('/')}/") if is_url(name) else name.startswith("/")
    else:
        name = os.path.expanduser(name)
        base = os.path.abspath(root)
        outside = os.path.isabs(name) and os.path.commonpath([base, os.path.normpath(name)]) != base
    if not allow_outside and (outside or os.path.normpath(name).startswith("..")):
        raise UsageError(f"{where}: {name} lies outside {root or '.'}; give data.allow_outside=true if that is meant")
    if is_url(name):
        return Remote(name)
    return Remote(root) / name if is_url(root) and not os.path.isabs(name) else Path(root, name)

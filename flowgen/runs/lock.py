"""One process trains a run at a time."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import shlex
import socket
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from flowgen.errors import FlowgenError
from flowgen.files import errors_named

LOCK = ".lock"
_held: set[Path] = set()
"""Of this process: the system lets a process lock a file that it holds already, and frees it with the first that is closed."""


@contextlib.contextmanager
def locked(folder: Path, doing: str = "trained", otherwise: str = "") -> Iterator[None]:
    """Hold the lock of a run folder, which is made where it is missing, and goes again if nothing was written into it.

    Args:
        doing, otherwise: for who is refused, what is being done to the folder, and what else there is to do than to wait.

    The system frees the lock when its process ends, however it ends: the file that a killed one leaves behind locks nothing.
    A child of the process (a loader of data) does not hold it. FlowgenError names the process that does.
    """
    path = folder.absolute() / LOCK
    if path in _held:
        raise FlowgenError(f"{folder} is being {doing} by this process already")
    with errors_named(path):
        folder.mkdir(parents=True, exist_ok=True)
        file = _open(folder, path, doing, otherwise or f"or choose another folder with run={folder}-2")
    _held.add(path)
    try:
        yield
    finally:
        _held.discard(path)
        with contextlib.suppress(OSError):
            path.unlink()  # before the lock is free, so that nobody has taken it
            folder.rmdir()
        file.close()


def _open(folder: Path, path: Path, doing: str, otherwise: str) -> TextIO:
    """The lock file, locked, with who holds it."""
    while True:
        file = path.open("a+", encoding="utf-8")
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            with file:
                if error.errno not in (errno.EACCES, errno.EAGAIN):
                    warnings.warn(
                        f"{folder} cannot be locked ({error.strerror}); let one process alone write it", stacklevel=3
                    )
                    return path.open("a+", encoding="utf-8")
                file.seek(0)
                raise FlowgenError(
                    f"{folder} is being {doing} by {_holder(file.read(10_000))}; wait for it or end it, {otherwise}"
                ) from None
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file.fileno()), path.stat()):  # else its holder removed it just now
                break
        file.close()
    file.truncate(0)
    owner = {"pid": os.getpid(), "host": socket.gethostname(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}
    json.dump({**owner, "command": shlex.join(sys.argv)[:1000]}, file)
    file.flush()
    return file


def _holder(text: str) -> str:
    """Who holds the lock, as a part of a sentence."""
    try:
        owner = json.loads(text)
        return f"process {owner['pid']} on {owner['host']} since {owner['since']} ({owner['command']})"
    except (ValueError, LookupError, TypeError):  # its holder has not written yet
        return "another process"

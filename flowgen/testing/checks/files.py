"""How files are written: whole or not at all, and closed."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path


def written_whole(suffix: str, write: Callable[[Path], object], word: str = "") -> str | None:
    """What is wrong with how `write(path)` writes a file: it holds `word`, takes the place of the one before, and is not
    there, or as it was, when the disk is full."""
    with tempfile.TemporaryDirectory(prefix="conformance-") as place:
        path, kept = Path(place) / f"file{suffix}", Path(place) / "kept"
        path.write_bytes(b"what was there before")
        os.link(path, kept)
        write(path)
        if not path.is_file() or not path.stat().st_size:
            return f"it made no file for {suffix!r}"
        content = path.read_bytes()
        if kept.read_bytes() != b"what was there before":
            return f"it writes into the {suffix!r} file that is there, which others may be reading; use flowgen.files.replacing"
        if word and not any(word.encode(code) in content for code in ("utf-8", "utf-16-le", "utf-16-be")):
            return f"the {suffix!r} file does not hold the metadata"
        path.unlink()
        with _full_disk(len(content) // 2), contextlib.suppress(Exception):
            write(path)
        if path.is_file() and path.stat().st_size < len(content):
            return f"on a full disk it leaves half a {suffix!r} file; use flowgen.files.replacing"
        left = sorted(p.name for p in Path(place).iterdir() if p not in (path, kept))
        if left:
            return f"on a full disk it leaves {left[0]} behind"
    return None


@contextlib.contextmanager
def _full_disk(size: int) -> Iterator[None]:
    """A block in which no file grows beyond `size` bytes, as on a disk with so much room."""
    import resource
    import signal

    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.getsignal(signal.SIGXFSZ)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (max(size, 1), before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


def open_files(below: Path) -> list[str]:
    """The files of a folder that this process holds open; none where the system does not tell."""
    found = []
    for link in Path("/proc/self/fd").iterdir() if Path("/proc/self/fd").is_dir() else []:
        with contextlib.suppress(OSError):
            target = os.readlink(link)
            if target.startswith(str(below)):
                found.append(Path(target).name)
    return found

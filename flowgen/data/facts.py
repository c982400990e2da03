"""What was found out about files, kept in the user's cache folder until they change."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from flowgen.data.progress import progress
from flowgen.data.remote import is_url
from flowgen.errors import FlowgenError
from flowgen.files import replacing

T = TypeVar("T", bound=Any)
_KEEP_S, _PART, _ASKED = 60.0, 1024, 32


def cached(
    kind: str, sources: Iterable[T], look: Callable[[T], Any], threads: int | None = None, what: str = ""
) -> dict[T, Any]:
    """What `look` says of each source, as JSON values; one that has the size and the time it had then is not looked at again.

    Several are looked at at once. What is known by then is kept every minute, so that a long look that is stopped goes on.

    Args:
        kind: names the folder, up to its first dash, and all else that `look` depends on: versions, options.
        sources: paths, or what has their `absolute` and `stat`.
        threads: by default as many as there are cores, 16 at the most.
        what: is done, for the line that says how long it still takes.
    """
    unique = sorted(set(sources), key=str)
    names = {source: str(source.absolute()) for source in unique}
    stamps = dict(at_once(_stamp, unique))
    file = _file(kind, list(names.values()))
    stored = _load(file)
    entries = {source: stored.get(names[source]) for source in unique}
    known = {s: entry["facts"] for s, entry in entries.items() if entry and entry["stamp"] == stamps[s]}
    new = [source for source in unique if source not in known]
    if not new:
        return known
    found: dict[T, Any] = {}
    took, kept = 0.0, time.monotonic()
    try:
        for source, facts in progress(_looked(look, new, threads or cores()), len(new), what or kind.partition("-")[0]):
            found[source] = facts
            stored[names[source]] = {"stamp": stamps[source], "facts": facts}
            if (now := time.monotonic()) - kept > max(_KEEP_S, 20 * took):
                _keep(stored, file)
                kept = time.monotonic()
                took = kept - now
    finally:
        _keep(stored, file)
    return {source: known[source] if source in known else found[source] for source in unique}


def cores() -> int:
    """Cores that this process may use, 16 at the most."""
    return min(16, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)


def at_once(ask: Callable[[T], Any], sources: Iterable[T]) -> Iterator[tuple[T, Any]]:
    """Each source with what a quick question says of it: files elsewhere are asked many at a time."""
    here: list[T] = []
    elsewhere: list[T] = []
    for source in sources:
        (elsewhere if is_url(source) else here).append(source)
    yield from ((source, ask(source)) for source in here)
    if elsewhere:
        yield from _looked(ask, elsewhere, _ASKED)


def _looked(look: Callable[[T], Any], sources: Sequence[T], threads: int) -> Iterator[tuple[T, Any]]:
    """Each source with what is seen, in their order; a part at a time, for a million waiting tasks take memory."""
    with ThreadPoolExecutor(max_workers=threads) as pool:
        for start in range(0, len(sources), _PART):
            part = sources[start : start + _PART]
            yield from zip(part, pool.map(look, part), strict=True)


def _keep(stored: dict[str, Any], file: Path) -> None:
    try:
        with replacing(file) as temporary:
            temporary.write_text(json.dumps(stored), encoding="utf-8")
    except FlowgenError:
        pass  # a cache that cannot be written costs time, not correctness


def _file(kind: str, names: list[str]) -> Path:
    """One for all files below one folder."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    root = os.path.commonpath([os.path.dirname(name) for name in names]) if names else ""
    key = hashlib.sha256(f"{kind}\x1f{root}".encode()).hexdigest()[:16]
    return home / "flowgen" / kind.partition("-")[0] / f"{key}.json"


def _load(file: Path) -> dict[str, Any]:
    try:
        stored = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return stored if isinstance(stored, dict) else {}


def _stamp(source: Any) -> list[int]:
    """What changes when a file does: its size, its time, and the time at which its permissions or its name changed."""
    try:
        stat = source.stat()
        stamp = [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns]
        if source.is_dir():  # a folder of pictures changes with them
            inside = sorted((entry.name, *_stamp(Path(entry.path))) for entry in os.scandir(source) if entry.is_file())
            stamp.append(int.from_bytes(hashlib.blake2b(repr(inside).encode(), digest_size=6).digest(), "little"))
    except OSError:
        return []
    return stamp

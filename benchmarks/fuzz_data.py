"""Damaged and odd media files, tables and shards: how many end in a traceback, hang, or are lost without a word.

    python benchmarks/fuzz_data.py [INPUTS] [SEED]

Every input is a function of the seed. A data set is built on each handful, reported, described and read clip by clip. Allowed are
clips, rows that say what is left out and why, and a refusal of one sentence that names the place. The suite runs 200 inputs.
"""

from __future__ import annotations

import csv
import io
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from flowgen_audio.folder import AudioFolder
from flowgen_audio.manifest import AudioManifest
from flowgen_audio.modality import Audio
from flowgen_audio.shards import AudioShards
from flowgen_video.folders import VideoFolder
from flowgen_video.manifests import VideoManifest
from flowgen_video.modality import Video
from flowgen_video.shards import VideoShards

from flowgen.errors import FlowgenError

LIMIT_S, A_CASE = 10, 5
AUDIO, VIDEO = Audio(8000, 1, 0.3), Video(fps=8, frames=4, height=16, width=16)
SOUNDS = ("wav", "flac", "mp3", "ogg", "opus", "m4a", "aiff", "au", "w64", "caf", "wma", "mka", "ac3", "aac", "mp4")
FILMS = ("mp4", "mkv", "webm", "avi", "gif", "mpg", "ts", "flv", "mov", "m4v", "ogv")
NAMES = (
    "a",
    "b c",
    "ü",
    "日本",
    "x%20y",
    "-v",
    "a'b",
    'a"b',
    "a,b",
    "a\tb",
    "a\nb",
    "#1",
    "é" * 60,
    "[0-9]",
    "a.b.c",
    "CON",
)
VALUES = (
    *(
        "",
        "nan",
        "NaN",
        "-1",
        "1e400",
        "inf",
        "0",
        "00",
        "1,5",
        "../a.wav",
        "/etc/passwd",
        "~",
        "a\0b",
        "\u2028",
        '"',
        "'",
    ),
    *(
        "x" * 70000,
        "\ufeff",
        "=1+1",
        "null",
        "true",
        "[1]",
        "{}",
        "http://127.0.0.1:9/a.wav",
        "None",
        " ",
        "\r",
        "é",
        "0.1",
    ),
)


class Hang(BaseException):
    """A case took more than its time."""


def make_sources(folder: Path) -> dict[str, list[bytes]]:
    """Whole files of every format, by its suffix."""
    found: dict[str, list[bytes]] = {}
    sources = [
        (SOUNDS, ("-f", "lavfi", "-i", "sine=f=300:d=0.5:r=8000")),
        (FILMS, ("-f", "lavfi", "-i", "testsrc=s=32x24:r=8:d=1")),
    ]
    for suffixes, source in sources:
        for suffix in suffixes:
            path = folder / f"source.{suffix}"
            rate = ("-ar", "16000") if suffix in ("opus", "ac3") else ("-r", "25") if suffix in ("mpg",) else ()
            done = subprocess.run(["ffmpeg", "-v", "quiet", "-y", *source, *rate, path], check=False)
            if done.returncode == 0 and path.stat().st_size:
                found.setdefault(suffix, []).append(path.read_bytes())
    return found


def damaged(content: bytes, rng: random.Random) -> bytes:
    """Content cut off, overwritten, repeated, emptied, or with single bits that are other ones."""
    data = bytearray(content)
    at, length = rng.randrange(len(data) + 1), rng.choice((1, 4, 16, 256, 4096))
    match rng.randrange(8):
        case 0:
            return bytes(data[:at])
        case 1:
            data[at : at + length] = rng.randbytes(length)
        case 2:
            data[at : at + length] = bytes(length)
        case 3:
            for _ in range(rng.choice((1, 3, 30))):
                if data:
                    data[rng.randrange(min(len(data), rng.choice((64, 1 << 30))))] ^= 1 << rng.randrange(8)
        case 4:
            data[at:at] = data[:length]
        case 5:
            del data[at : at + length]
        case 6:
            return rng.choice((b"", b"\0" * 100, rng.randbytes(300), b"RIFF", b"hello\n" * 20))
        case _:
            data += rng.randbytes(length)
    return bytes(data)


def media_case(folder: Path, sources: dict[str, list[bytes]], rng: random.Random) -> tuple[Callable[[], Any], set[str]]:
    """A folder of two whole files and some damaged ones; some have the suffix of another format."""
    sound = rng.random() < 0.6
    suffixes = [s for s in (SOUNDS if sound else FILMS) if s in sources]
    names = set()
    for i in range(A_CASE + 2):
        suffix = rng.choice(suffixes)
        content = rng.choice(sources[suffix])
        if i < A_CASE:
            content = damaged(content, rng)
            suffix = rng.choice(suffixes) if rng.random() < 0.2 else suffix
        name = f"{i}{rng.choice(NAMES) if rng.random() < 0.3 else ''}.{suffix}"
        (folder / name).write_bytes(content)
        names.add(name)
    if rng.random() < 0.2:
        (folder / f"{sorted(names)[0].rpartition('.')[0]}.txt").write_bytes(damaged(b"a caption\n", rng))
    kind: Any = AudioFolder if sound else VideoFolder
    options = {"trim_db": -50.0} if sound and rng.random() < 0.3 else {}
    modality = AUDIO if sound else VIDEO
    return lambda: kind(modality, str(folder), held_out=0, max_bad_share=1.0, **options), names


def table_case(folder: Path, sources: dict[str, list[bytes]], rng: random.Random) -> tuple[Callable[[], Any], set[str]]:
    """A table with odd values, other encodings, and damage to its bytes."""
    sound = rng.random() < 0.6
    suffix = "wav" if sound else "mp4"
    for i in range(3):
        (folder / f"{i}.{suffix}").write_bytes(sources[suffix][0])
    columns = ["file", "label", "start", "duration", "caption"]
    rows = [[f"{i % 3}.{suffix}", "ab"[i % 2], "0.1", "0.3", f"text {i}"] for i in range(5)]
    for _ in range(rng.choice((0, 1, 2))):
        rows[rng.randrange(5)][rng.randrange(5)] = rng.choice(VALUES)
    if rng.random() < 0.1:
        rows[rng.randrange(5)].append("more")
    kind = rng.choice(("csv", "tsv", "jsonl", "parquet"))
    path = folder / f"t.{kind}"
    if kind == "parquet":
        import pyarrow
        from pyarrow import parquet

        columns_ = {
            name: [row[k].encode("utf-8", "replace").decode() for row in rows] for k, name in enumerate(columns)
        }
        parquet.write_table(pyarrow.table(columns_), path)
        content = path.read_bytes()
    else:
        text = io.StringIO(newline="")
        if kind == "jsonl":
            text.writelines(
                json.dumps(dict(zip(columns, row, strict=False)), ensure_ascii=False) + "\n" for row in rows
            )
        else:
            csv.writer(text, delimiter="\t" if kind == "tsv" else ",").writerows([columns, *rows])
        encoding = rng.choice(("utf-8", "utf-8-sig", "utf-16", "latin-1", "utf-8"))
        content = text.getvalue().encode(encoding, "replace")
    path.write_bytes(damaged(content, rng) if rng.random() < 0.4 else content)
    made: Any = AudioManifest if sound else VideoManifest
    given = {"start": "start", "duration": "duration"} if rng.random() < 0.7 else {}
    modality = AUDIO if sound else Video(fps=8, frames=2, height=16, width=16)
    return lambda: made(modality, str(path), held_out=0, max_bad_share=1.0, **given), set()


def shard_case(folder: Path, sources: dict[str, list[bytes]], rng: random.Random) -> tuple[Callable[[], Any], set[str]]:
    """A shard with damaged members, odd texts, and damage to its own bytes."""
    sound = rng.random() < 0.6
    suffixes = [s for s in (SOUNDS if sound else FILMS) if s in sources]
    out = io.BytesIO()
    with tarfile.open(
        fileobj=out, mode="w", format=rng.choice((tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT))
    ) as tar:
        for i in range(5):
            suffix = rng.choice(suffixes)
            content = rng.choice(sources[suffix])
            members = {suffix: damaged(content, rng) if rng.random() < 0.4 else content}
            members["cls"] = rng.choice((b"a", b"b", b"\xff", b""))
            members["json"] = rng.choice((b'{"n": 1}', b"{", b"[1]", b'{"n": NaN}', b"[" * 3000))
            for extension, data in members.items():
                if rng.random() < 0.9:
                    entry = tarfile.TarInfo(f"{rng.choice(('', 'd/', './'))}{i}.{extension}")
                    entry.size = len(data)
                    tar.addfile(entry, io.BytesIO(data))
    content = out.getvalue()
    (folder / "s.tar").write_bytes(damaged(content, rng) if rng.random() < 0.5 else content)
    made: Any = AudioShards if sound else VideoShards
    modality = AUDIO if sound else VIDEO
    return lambda: made(modality, str(folder / "s.tar"), held_out=0, max_bad_share=1.0), set()


def outcome(make: Callable[[], Any], names: set[str], folder: Path) -> str:
    """What becomes of a case: "read", "refused", or what is wrong."""
    try:
        data = make()
        rows, said = data.report(), data.describe()
        for index in range(min(len(data), 8)):
            data.clip(index, index)
        data.fingerprints()
    except FlowgenError as error:
        text = str(error)
        lost = sorted(name for name in names if "cannot be used" in text and name not in text)
        if lost:
            return f"lost: {lost}"
        return (
            "refused"
            if text and "Traceback" not in text and (str(folder) in text or "data." in text)
            else f"not named: {text[:300]}"
        )
    lost = sorted(names - {row["file"] for row in rows} - {name for name in names if name in str(said.get("not read"))})
    if lost:
        return f"lost: {lost}"
    silent = [row["file"] for row in rows if row["status"] == "left out" and not row["why"]]
    return f"no reason: {silent}" if silent else "read"


def cases(count: int, seed: int, folder: Path) -> Iterator[tuple[str, int, str]]:
    """(kind, inputs, outcome) of each case, until there were `count` inputs."""
    folder.mkdir(parents=True, exist_ok=True)
    sources = make_sources(folder)
    assert {"wav", "mp4"} <= sources.keys()
    makers = {"media": (media_case, A_CASE), "table": (table_case, 1), "shard": (shard_case, 1)}
    done, number = 0, 0
    while done < count:
        rng = random.Random(f"{seed} {number}")
        kind = ("media", "table", "shard", "table")[number % 4]
        make, inputs = makers[kind]
        place = folder / f"{number}"
        place.mkdir()
        given, names = make(place, sources, rng)
        yield (
            f"{kind} {number}",
            inputs,
            _timed(lambda given=given, names=names, place=place: outcome(given, names, place)),
        )  # type: ignore[misc]
        shutil.rmtree(place)
        done, number = done + inputs, number + 1


def _timed(run: Callable[[], str]) -> str:
    """The outcome, or the traceback, or that it took too long."""

    def stop(*given: Any) -> None:
        raise Hang

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(LIMIT_S)
    try:
        return run()
    except Hang:
        return f"hang: more than {LIMIT_S} s"
    except Exception:
        return f"traceback: {traceback.format_exc()[-700:]}"
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def main() -> None:
    count, seed = (int(given) for given in (sys.argv[1:] + ["2000", "0"][len(sys.argv) - 1 :])[:2])
    with tempfile.TemporaryDirectory() as folder:
        os.environ["XDG_CACHE_HOME"] = f"{folder}/cache"
        table: Counter[tuple[str, str]] = Counter()
        for name, inputs, found in cases(count, seed, Path(folder) / "cases"):
            table[name.partition(" ")[0], found.partition(":")[0]] += inputs
            if found not in ("read", "refused"):
                print(f"{name}: {found}")
    for (kind, found), inputs in sorted(table.items()):
        print(f"{kind:6} {found:10} {inputs}")


if __name__ == "__main__":
    main()

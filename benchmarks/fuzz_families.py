"""The families of benchmarks/fuzz.py: how an input of each is made, and what it is given to.

A family is a function (dice, box): it makes an input in the folder `box`, and hands it to flowgen. It ends, or raises
FlowgenError or SystemExit; whatever else it raises is a fault of flowgen.
"""

from __future__ import annotations

import contextlib
import csv
import functools
import io
import json
import os
import random
import shutil
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import click
from click.testing import CliRunner
from fuzz_material import commands, key_lists, media_files, recipe_texts, runs, sounds

from flowgen.cli import cli
from flowgen.config import build
from flowgen.errors import FlowgenError
from flowgen.evaluation import load as load_evaluation
from flowgen.runs.generator import Generator
from flowgen.runs.run import Run, checksum
from flowgen.training.loggers import read_log

Dice = random.Random
WORDS = [
    *("", " ", "~", "null", "true", "no", "-1", "0", "1", "0.5", "1e999", "-1e999", "nan", ".inf", "-.inf", "1e-320"),
    *("9" * 5000, "0x" + "f" * 300, "1_000", "0o17", "1:30:00", "2001-02-30", "2001-13-45T99:99:99", "2026-01-01"),
    *(
        "..",
        "../..",
        "/",
        "/etc/passwd",
        "/dev/zero",
        "/dev/null",
        "~",
        "a/../../b",
        "\\",
        "C:\\x",
        "file:///etc/passwd",
    ),
    *(
        "\0",
        "\x1b[31m",
        "\r\n",
        "\ufeff",
        "\u202e",
        "é" * 40,
        "\U0001f600",
        "\ud7ff",
        "a" * 5000,
        "%s%n",
        "{0.__class__}",
    ),
    *(
        "[]",
        "{}",
        "[1, 2",
        "{a: 1",
        "- a\n- b",
        "&a [*a]",
        "*nothing",
        "<<: *x",
        "!!python/object:os.system ls",
        "!!binary x",
    ),
    *(
        "!!omap [a: 1]",
        "!!set {a}",
        "!!timestamp x",
        "{type: linear}",
        "{type: 3}",
        "[[[[[[[[]]]]]]]]",
        "'",
        '"',
        "|\n x",
        "? a",
    ),
    *(
        "linear",
        "cosine",
        "adamw",
        "euler",
        "transformer",
        "audio",
        "points",
        "cfg",
        "uniform",
        "__init__",
        "type",
        "auto",
    ),
]
"""What a value may be replaced by."""


def word(dice: Dice) -> str:
    if dice.random() < 0.1:
        return "".join(
            chr(dice.choice((dice.randrange(32, 127), dice.randrange(0xD7FF)))) for _ in range(dice.randint(1, 9))
        )
    return dice.choice(WORDS)


def damaged(dice: Dice, data: bytes, head: int = 4096) -> bytes:
    """Bytes of which some are others, missing, or there twice; mostly near the beginning, where headers are."""
    out = bytearray(data)
    for _ in range(dice.choice((1, 1, 2, 5, 30))):
        if not out:
            break
        at = dice.randrange(min(len(out), head) if dice.random() < 0.7 else len(out))
        size = dice.choice((1, 1, 4, 40))
        what = dice.randrange(6)
        if what == 0:
            out[at] ^= 1 << dice.randrange(8)
        elif what == 1:
            out[at : at + size] = dice.randbytes(size)
        elif what == 2:
            del out[at : at + size]
        elif what == 3:
            out[at:at] = out[at : at + size]
        elif what == 4:
            out[at : at + size] = dice.choice((b"\0", b"\xff", b"\x7f")) * size
        else:
            del out[at:]
    return bytes(out)


def twisted(dice: Dice, value: Any, depth: int = 0) -> Any:
    """A JSON value of which a part is another."""
    if (depth > 0 and dice.random() < 0.25) or not isinstance(value, dict | list) or not value:
        huge: Any = functools.reduce(lambda v, _: [v], range(dice.choice((3, 900))), 0)
        odd = [
            None,
            True,
            -1,
            0,
            2**70,
            1e308,
            float("nan"),
            float("inf"),
            "",
            word(dice),
            [],
            {},
            [value],
            {"a": value},
        ]
        return dice.choice([*odd, huge])
    out = dict(value) if isinstance(value, dict) else list(value)
    key: Any = dice.choice(list(out)) if isinstance(out, dict) else dice.randrange(len(out))
    if isinstance(out, dict) and dice.random() < 0.2:
        del out[key]
    elif isinstance(out, dict) and dice.random() < 0.1:
        out[word(dice)] = 1
    else:
        out[key] = twisted(dice, out[key], depth + 1)
    return out


def command(*arguments: object) -> None:
    """The command line in this process. Raises what it did not expect itself."""
    done = CliRunner().invoke(cli, [str(a) for a in arguments])
    if done.exception is not None:
        raise done.exception


def config(dice: Dice, box: Path) -> None:
    text = dice.choice(recipe_texts())
    if dice.random() < 0.25:
        data = damaged(dice, text.encode())
    else:
        lines = text.splitlines()
        for _ in range(dice.choice((1, 1, 2, 4))):
            at = dice.randrange(len(lines))
            key, colon, _ = lines[at].partition(":")
            what = dice.randrange(5)
            if what == 0:
                lines.insert(at, lines[dice.randrange(len(lines))])
            elif what == 1:
                del lines[at]
            elif what == 2:
                lines[at] = f"{key}{word(dice)}{colon} {word(dice)}"
            elif what == 3:
                lines[at] = lines[at].replace(" ", " " * dice.randint(2, 4), 1)
            else:
                lines[at] = f"{key}{colon} {word(dice)}"
            lines = lines or [""]
        data = "\n".join(lines).encode("utf-8", "surrogatepass")
    path = box / "c.yaml"
    path.write_bytes(data)
    command("config", *dice.choice((("show",), ("check",), ("show", "--yaml"))), path)


def override(dice: Dice, box: Path) -> None:
    name, keys = dice.choice(key_lists())
    chosen = []
    for _ in range(dice.choice((1, 1, 1, 2, 3))):
        key = dice.choice(keys)
        if dice.random() < 0.2:
            key = dice.choice((word(dice), f"{key}.{word(dice)}", key[:-1], key.rpartition(".")[0]))
        chosen.append(f"{key}{dice.choice(('=', '=', '=', '=', '', '=='))}{word(dice)}")
    command("config", "show", name, "--", *chosen)


def table(dice: Dice, box: Path) -> None:
    sounds(box)
    names = ["a.wav", "b.wav", "c.flac"]
    rows: list[dict[str, Any]] = [
        {"file": name, "label": label, "caption": "a tone", "start": 0.0, "duration": 0.2, "number": i}
        for i, name in enumerate(names)
        for label in ("x", "y")
    ]
    for _ in range(dice.choice((0, 1, 1, 3))):
        row = dice.choice(rows)
        row[dice.choice([*row, word(dice)])] = dice.choice(
            (word(dice), word(dice), 1e400, -5, 10**30, [1], {"a": {}}, None)
        )
    kind = dice.choice(("csv", "tsv", "jsonl", "jsonl", "parquet", "txt"))
    if kind in ("csv", "tsv"):
        text = io.StringIO()
        writer = csv.DictWriter(text, list(rows[0]), extrasaction="ignore", delimiter="," if kind == "csv" else "\t")
        writer.writeheader()
        writer.writerows(rows)
        data = text.getvalue().encode("utf-8", "surrogatepass")
    else:
        lines = [json.dumps(twisted(dice, row) if dice.random() < 0.1 else row) for row in rows]
        if dice.random() < 0.1:
            lines.append("[" * dice.choice((10, 100_000)))
        data = "\n".join(lines).encode()
    if dice.random() < 0.4:
        data = damaged(dice, data)
    path = box / f"list.{kind}"
    path.write_bytes(data)
    options = {"max_bad_share": 1.0}
    if dice.random() < 0.5:
        options |= {"columns": {dice.choice(("label", "caption", "number", "start", word(dice))): "class"}}
    if dice.random() < 0.5:
        options |= {"start": "start", "duration": "duration"}
    _survey("audio-manifest", {"manifest": str(path), **options})


def shard(dice: Dice, box: Path) -> None:
    sounds(box)
    path = box / "s.tar"
    formats = (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)
    with tarfile.open(path, "w", format=dice.choice(formats)) as archive:
        for i in range(3):
            for extension in ("wav", "json", "cls", "txt"):
                name = f"{i:04d}.{extension}"
                content: bytes = (box / "a.wav").read_bytes() if extension == "wav" else b"1"
                if extension == "json":
                    content = json.dumps({"label": "x", "start": 0}).encode()
                    content = b"[" * 100_000 if dice.random() < 0.03 else content
                if dice.random() < 0.05:
                    content = damaged(dice, content)
                if dice.random() < 0.05:
                    name = f"{word(dice)}.{extension}"
                entry = tarfile.TarInfo(name.replace("\0", "")[-90:])
                entry.size = len(content)
                if dice.random() < 0.05:
                    entry.type = dice.choice(
                        (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE, b"S", b"z")
                    )
                    entry.linkname = dice.choice(("/etc/passwd", "../x", name[-90:]))
                    entry.size = 0 if entry.type != b"z" else entry.size
                if dice.random() < 0.05 and formats:
                    entry.pax_headers = {"path": word(dice), "size": word(dice), "comment": word(dice)}
                archive.addfile(entry, io.BytesIO(content))
    if dice.random() < 0.6:
        data = path.read_bytes()
        at = dice.randrange(0, len(data), 512)
        size = dice.choice((512, 10_000))
        data = data[:at] + damaged(dice, data[at : at + size], 512) + data[at + size :]
        path.write_bytes(data)
    _survey("audio-shards", {"shards": str(path), "max_bad_share": 1.0})


def media(dice: Dice, box: Path) -> None:
    name, data = dice.choice(media_files())
    path = box / f"{'x' if dice.random() < 0.95 else 'x' * 200}{Path(name).suffix}"
    what = dice.random()
    if what < 0.02:
        os.mkfifo(path)
    elif what < 0.04:
        path.mkdir()
    elif what < 0.06:
        path.symlink_to(dice.choice(("/dev/zero", "/dev/null", "/etc/passwd", path.name, "/proc/self/mem")))
    elif what < 0.09:  # of another kind than its name says
        path.write_bytes(dice.choice(media_files())[1])
    else:
        path.write_bytes(damaged(dice, data, 200))
    kind = dice.choice(("audio", "video"))
    options = {
        "video": {"fps": 8, "frames": 4, "height": 16, "width": 16},
        "audio": {"sample_rate": 8000, "duration_s": 0.2},
    }
    build("modality", {"type": kind, **options[kind]}).read(path)


def run_folder(dice: Dice, box: Path) -> None:
    source = dice.choice(runs())
    run = box / "run"
    shutil.copytree(source, run)
    for _ in range(dice.choice((1, 1, 2))):
        path = dice.choice(sorted(p for p in run.rglob("*") if p.is_file() and not p.is_symlink()) or [run / "new"])
        what = dice.randrange(8)
        if not path.is_file() or what == 0:
            path.unlink(missing_ok=True)
        elif what == 1:
            path.unlink()
            target = dice.choice(("/etc/passwd", "/dev/zero", "../../canary", path.name, "config.yaml"))
            path.symlink_to(target)
        elif what == 2:
            path.unlink()
            dice.choice((os.mkfifo, os.mkdir))(path)
        elif path.suffix == ".json" and what < 7:
            with contextlib.suppress(ValueError):  # damaged already
                text = json.dumps(twisted(dice, json.loads(path.read_text()))) if what > 3 else word(dice)
                path.write_text(text, errors="replace")
        elif path.name == "config.yaml" and what < 7:
            lines = path.read_text(errors="replace").splitlines() or [""]
            at = dice.randrange(len(lines))
            lines[at] = f"{lines[at].partition(':')[0]}: {word(dice)}"
            path.write_text("\n".join(lines), errors="replace")
        else:
            path.write_bytes(damaged(dice, path.read_bytes(), 600))
        if path.suffix == ".safetensors" and path.is_file() and dice.random() < 0.5:
            _list_again(path)
    refused: list[BaseException] = []
    for use in (  # that one is refused does not spare the next
        lambda: Generator.load(run, device="cpu").sample([{}], settings=None),
        lambda: read_log(run),
        lambda: load_evaluation(run / "eval.json"),
        lambda: Run(run).newest_checkpoint().verify(),
        lambda: command("train", run, "--resume", "--dry-run"),
    ):
        try:
            use()
        except (FlowgenError, SystemExit) as error:
            if not isinstance(error, SystemExit) or error.code:
                refused.append(error)
    if refused:
        raise refused[0]


def command_line(dice: Dice, box: Path) -> None:
    # the folder it works in: what it is told to write to ../.. lies in the box, too
    work, tempfile.tempdir = box / "a" / "b", str(box / "temporary")
    work.mkdir(parents=True)
    os.mkdir(tempfile.tempdir)
    os.chdir(work)
    shutil.copytree(runs()[0], "run")
    sounds(work)
    path, chosen = dice.choice(commands())
    arguments: list[str] = list(path)
    for parameter in chosen.params:
        if isinstance(parameter, click.Argument):
            values = (["run"], ["a.wav"], [word(dice)], ["points/checkerboard"], ["run", word(dice)], [])
            arguments += dice.choice(values[:2] if dice.random() < 0.5 else values)
        elif dice.random() < 1.5 / len(chosen.params) and not {"--help", "-n", "--clips"} & set(parameter.opts):
            arguments.append(parameter.opts[0])
            if not (isinstance(parameter, click.Option) and parameter.is_flag):
                plain = ("a.wav", "x.wav", "x.png", "1", "2", "run", "euler", "cpu")
                arguments += [dice.choice(plain) if dice.random() < 0.6 else word(dice) for _ in range(parameter.nargs)]
    if path == ("train",):
        arguments.append("--dry-run")
    if path in (("eval",), ("likelihood",), ("data", "check"), ("data", "show"), ("report",), ("record-doom",)):
        arguments += ["-n", dice.choice(("2", "0", "-1", "x"))]
    try:
        with patch("flowgen.serving.listening.listen"):  # serve and ui go as far as listening
            command(*arguments)
    finally:
        above = sorted({*os.listdir(box), *os.listdir(box / "a")} - {"a", "b", "temporary"})
        if above and not any(".." in argument for argument in arguments):
            raise AssertionError(f"{above[0]!r} was written above the working folder")


FAMILIES: dict[str, Callable[[Dice, Path], None]] = {
    "config": config,
    "override": override,
    "table": table,
    "shard": shard,
    "media": media,
    "run folder": run_folder,
    "command line": command_line,
}


def _survey(kind: str, options: dict[str, Any]) -> None:
    """What `data check` and training ask of a data set."""
    modality = build("modality", {"type": "audio", "sample_rate": 8000, "duration_s": 0.2})
    dataset = build("dataset", {"type": kind, "held_out": 0.0, **options}, modality=modality)
    dataset.report()
    dataset.describe()
    for i in range(min(len(dataset), 3)):
        dataset.clip(i, 0)


def _list_again(path: Path) -> None:
    """As one who means harm does it: the manifest fits the weights."""
    listing = path.parent / "manifest.json"
    if not listing.is_file():  # a pipe by now
        return
    try:
        manifest = json.loads(listing.read_text())
        manifest["files"][path.name] = {"bytes": path.stat().st_size, "sha256": checksum(path)}
        listing.write_text(json.dumps(manifest))
    except (OSError, ValueError, LookupError, TypeError):
        return

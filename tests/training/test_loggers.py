"""What a run says of itself while it goes on, and where."""

from __future__ import annotations

import builtins
import json
import struct
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from flowgen.errors import UsageError
from flowgen.plugins import Component, hookimpl
from flowgen.testing import plugged
from flowgen.training.loggers import read_log


def records(path):
    """The records of a .wandb file: LevelDB's log format (blocks of 32 KiB, records in pieces) after a header of 7 bytes."""
    data, at, record = path.read_bytes(), 7, b""
    while at + 7 <= len(data):
        left = 32768 - at % 32768
        if left < 7:
            at += left
            continue
        length, kind = struct.unpack("<HB", data[at + 4 : at + 7])
        record += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last piece
            yield record
            record = b""


def sent(folder):
    """The lines and the config in the files that W&B's library wrote."""
    from wandb.proto import wandb_internal_pb2

    lines, config = [], {}
    for path in sorted(folder.glob("wandb/offline-run-*/*.wandb")):
        for data in records(path):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(data)
            kind = record.WhichOneof("record_type")
            if kind == "run":
                config |= {item.key: json.loads(item.value_json) for item in record.run.config.update}
            if kind == "history":
                line = {"/".join(i.nested_key) or i.key: json.loads(i.value_json) for i in record.history.item}
                lines.append({k: v for k, v in line.items() if not k.startswith("_")})
    return lines, config


@pytest.mark.slow
def test_a_run_and_its_continuation_are_one_run_of_wandb(fit, tiny, tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_SILENT", "true")
    values = tiny(tmp_path / "run", steps=4, loggers=["jsonl", {"type": "wandb", "mode": "offline", "project": "mine"}])
    fit(values)
    values["train"]["steps"] = 6
    fit(values, resume=True)
    lines, config = sent(tmp_path / "run")
    expected = read_log(tmp_path / "run")
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5, 6]
    for line, entry in zip(lines, expected, strict=True):
        assert line == pytest.approx(entry)
    assert config["train"]["batch_size"] == 8
    ids = {path.name.rpartition("-")[2] for path in (tmp_path / "run/wandb").glob("offline-run-*")}
    assert ids == {(tmp_path / "run/wandb/id").read_text()}


def test_without_its_library_the_logger_says_what_to_install(fit, tiny, tmp_path, monkeypatch):
    real = builtins.__import__

    def missing(name, *rest, **more):
        if name == "wandb" and not rest[-1]:  # DeepSpeed has a module of that name
            raise ImportError(name)
        return real(name, *rest, **more)

    monkeypatch.delitem(sys.modules, "wandb", raising=False)
    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(UsageError, match=r"pip install 'flowgen\[wandb\]'"):
        fit(tiny(tmp_path / "run", steps=2, loggers=["wandb"]))


class Lame:
    """A logger that fails."""

    def __init__(self, folder: Path, at: str = "log") -> None:
        self.at = at

    def log(self, step, figures):
        if self.at == "log":
            sys.exit("no more")

    def close(self):
        if self.at == "close":
            raise OSError("the server is gone")


def test_a_logger_that_fails_costs_nothing_but_its_lines(fit, tiny, tmp_path):
    plugin = SimpleNamespace(
        flowgen_components=hookimpl(lambda: [Component("logger", "lame", f"{__name__}:Lame", "fails")])
    )
    values = tiny(tmp_path / "run", steps=3, loggers=["lame", {"type": "lame", "at": "close"}, "jsonl"])
    with plugged("lame", plugin), pytest.warns(UserWarning, match="logger") as heard:
        assert fit(values).finished
    said = [str(w.message) for w in heard if "logger" in str(w.message)]
    assert said == [
        "logger 'lame' failed, and training goes on: SystemExit: no more",
        "logger 'lame' failed 4 times in all",
    ]
    assert len(read_log(tmp_path / "run")) == 3


def test_a_line_of_the_log_holds_what_the_docs_say(fit, tiny, tmp_path):
    fit(tiny(tmp_path / "run", steps=2, modality={"type": "tiny", "length": 6}, checkpoint={"every": 1}))
    line = read_log(tmp_path / "run")[-1]
    for name in ("loss", "gradient_norm", "learning_rate", "clips_per_second", "positions_per_second", "memory_gb"):
        assert line[name] > 0
    assert line["media_seconds_per_second"] > 0
    assert any(name.startswith("loss_by_time/") for name in line)
    stages = ("data", "encode", "forward", "backward", "optimizer", "checkpoint")
    assert {f"share_of_time/{stage}" for stage in stages} <= line.keys()

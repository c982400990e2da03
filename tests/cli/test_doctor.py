"""flowgen doctor: what it finds on this machine, and what it says of machines that lack something."""

import os
import shutil
import socket
from collections import namedtuple
from pathlib import Path

import av
import pytest
import torch
from click.testing import CliRunner

from flowgen.cli import cli
from flowgen.training import doctor
from flowgen.training.doctor import examine

Usage = namedtuple("Usage", "total used free")


def findings(folder):
    return {found.name: found for found in examine(folder) if found.name}


def test_it_says_what_is_here(tmp_path):
    done = CliRunner().invoke(cli, ["doctor", str(tmp_path / "not" / "there")])
    assert done.exit_code == 0, done.output
    assert f"torch {torch.__version__.partition('+')[0]}" in done.output
    assert str(tmp_path) in done.output
    assert len(done.output.splitlines()) < 24  # one screen


@pytest.mark.parametrize(
    ("name", "lacking", "said", "remedy"),
    [
        ("codecs", (av, "codecs_available", set()), "has no libx264 (.mp4)", "pip install"),
        ("compiler", (shutil, "which", lambda name: None), "none", "apt install g++"),
        ("disk", (os, "access", lambda *_: False), "cannot be written", "run=FOLDER"),
        ("disk", (shutil, "disk_usage", lambda _: Usage(1e9, 1e9, 1e6)), "0.0 GB free", "flowgen plan"),
        ("shared memory", (shutil, "disk_usage", lambda _: Usage(1e9, 1e9, 64e6)), "0.1 GB free", "--shm-size"),
        (
            "float16",
            (doctor, "precision_gap", lambda _: "this processor has none"),
            "this processor",
            "train.precision",
        ),
    ],
)
def test_what_is_lacking_is_named_with_its_remedy(name, lacking, said, remedy, tmp_path, monkeypatch):
    if name == "shared memory" and not Path("/dev/shm").is_dir():
        pytest.skip("this system has no /dev/shm")
    monkeypatch.setattr(*lacking)
    found = findings(tmp_path)[name]
    assert found.state != "ok"
    assert said in found.text
    assert remedy in found.remedy


def test_what_stops_training_is_the_exit_code(tmp_path, monkeypatch):
    def refused(*_):
        raise OSError(13, "Permission denied")

    monkeypatch.setattr(socket, "create_server", refused)
    done = CliRunner().invoke(cli, ["doctor", str(tmp_path)])
    assert done.exit_code == 1
    assert "X ranks" in done.output
    assert "Permission denied" in done.output

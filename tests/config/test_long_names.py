"""Names of files as long as a file system takes, and longer."""

import os
import stat

import pytest
from click.testing import CliRunner

from flowgen.cli import cli
from flowgen.errors import FlowgenError
from flowgen.files import replacing, replacing_folder
from flowgen.serving.jobs import Jobs


def test_a_name_of_255_bytes_is_written_and_a_longer_one_is_said(tmp_path):
    longest = tmp_path / ("a" * 251 + ".txt")
    with replacing(longest) as temporary:
        temporary.write_text("whole")
    assert longest.read_text() == "whole"
    with replacing_folder(tmp_path / ("b" * 240), ".*") as temporary:
        (temporary / "x").write_text("")
    for name in ("c" * 300, "c." + "x" * 300):
        with pytest.raises(FlowgenError, match="cannot write"), replacing(tmp_path / name) as temporary:
            temporary.write_text("")
    assert sorted(p.name[0] for p in tmp_path.iterdir()) == ["a", "b"]


def test_a_folder_of_jobs_that_is_a_file_is_said(tmp_path):
    (tmp_path / "a.wav").write_text("")
    with pytest.raises(FlowgenError, match=r"cannot write .*a\.wav: File exists"):
        Jobs(tmp_path / "a.wav")


@pytest.mark.parametrize("words", [("doctor",), ("config", "schema", "-o"), ("train",), ("report",)])
def test_a_long_name_on_the_command_line_is_said(words):
    with pytest.raises((FlowgenError, SystemExit)):
        CliRunner().invoke(cli, [*words, "a" * 5000], catch_exceptions=False, standalone_mode=False)


def test_what_is_no_file_is_not_replaced(tmp_path):
    """As root, `-o /dev/null` made a plain file of the device."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    before = sorted(os.listdir(tmp_path))
    for name, said in (
        ("pipe", "a pipe"),
        ("link", "a pipe"),
        ("folder", "a folder"),
        (".", "a folder"),
        ("/", "a folder"),
    ):
        with pytest.raises(FlowgenError, match=f"cannot write .*: it is .*{said}"), replacing(tmp_path / name):
            raise AssertionError("not reached")
    assert sorted(os.listdir(tmp_path)) == before
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)

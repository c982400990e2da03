"""Names of files as long as a file system takes, and longer."""

import pytest

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

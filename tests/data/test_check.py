"""flowgen data check: nothing about the files is left unsaid before anything trains."""

import csv
import json
import shutil

import numpy as np
import pytest
import soundfile

from flowgen.data import report


@pytest.fixture
def messy(tones, tmp_path):
    """40 tones, and one file each that is empty, cut off, silent, clipped, and the copy of another."""
    folder = tmp_path / "tones"
    whole = (folder / "20.wav").read_bytes()
    (folder / "empty.wav").write_bytes(b"")
    (folder / "cut.wav").write_bytes(whole[: len(whole) // 2])
    soundfile.write(folder / "silent.wav", np.zeros(2000), 4000)
    soundfile.write(folder / "loud.wav", np.sign(np.sin(np.arange(2000))) * 1.2, 8000)
    shutil.copy(folder / "07.wav", folder / "copy.wav")
    return tones


def test_everything_is_said(messy, flowgen, tmp_path):
    code, said = flowgen(
        "data", "check", messy, "data.max_bad_share=0.2", "-o", tmp_path / "rows.csv", "--sheet", tmp_path / "s.png"
    )
    assert code == 0, said
    lines = dict(line.split(": ", 1) for line in said.splitlines() if ": " in line)
    assert lines["files"].startswith("45, ")
    assert "3 neither" in lines["files"]
    assert "3 left out; left out of training" in said
    assert "allowed 20.0%" in said
    assert lines["seconds"].startswith("0.20 to 1.00, median 0.57")
    assert (lines["rate"], lines["channels"]) == ("4000 (43), 8000 (1)", "1 (44)")
    assert lines["clipped"].startswith("1 at full scale: ")
    assert lines["clipped"].endswith("loud.wav")
    assert lines["listed twice"] == "none"
    assert lines["copies"].startswith("1 of the same content: ")
    assert "07.wav  =  " in lines["copies"]
    for kind in ("empty", "truncated", "silent"):
        assert f"left out, {kind}: 1: " in said
    assert said.count("#") > 40, "a histogram"
    assert (tmp_path / "s.png").read_bytes().startswith(b"\x89PNG")
    with (tmp_path / "rows.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 45
    assert {row["status"] for row in rows} == {"kept", "cropped", "left out"}
    assert all(row["why"] for row in rows if row["status"] != "kept")
    # what the dry run says is what training takes
    table = [line for line in said.splitlines() if line.startswith("up to")]
    clips = sum(row["part"] == "training" for row in rows)
    assert sum(int(line.split()[4]) for line in table) == clips
    assert f"batches: {clips} clips in {sum(int(line.split()[7]) for line in table)} batches an epoch" in said


def test_too_many_bad_files_are_told_and_fail(messy, flowgen, tmp_path):
    code, said = flowgen("data", "check", messy, "-o", tmp_path / "rows.jsonl", "--sheet", tmp_path / "s.png")
    assert code == 1
    assert "3 of 45 recordings cannot be used, more than data.max_bad_share=0.05 allows" in said
    assert "left out, silent: 1: " in said
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert len(rows) == 45
    assert not (tmp_path / "s.png").exists()


def test_more_ranks_make_other_batches(tones, flowgen, tmp_path):
    code, said = flowgen("data", "check", tones, "train.micro_batch_size=1", "--gpus", 4, "--sheet", tmp_path / "s.png")
    assert code == 0, said
    sizes = [int(line.split()[5]) for line in said.splitlines() if line.startswith("up to")]
    assert len(sizes) == 3
    assert all(size % 4 == 0 for size in sizes)
    code, said = flowgen("data", "check", tones, "--gpus", 3)
    assert code == 2
    assert "does not divide among 3 ranks" in said


def test_a_data_set_without_files_has_nothing_to_check(flowgen, tmp_path):
    code, said = flowgen("data", "check", "demo/audio", "--sheet", tmp_path / "s.png")
    assert code == 0, said
    assert "notes reports no files: there is nothing to check but the batches" in said
    assert "batches: 4096 clips in one order" in said
    code, said = flowgen("data", "check", "demo/audio", "--sheet", tmp_path / "s.jpg")
    assert code == 2
    assert "the sheet is a PNG" in said


def test_rows_are_refused_another_format(tones, flowgen, tmp_path):
    code, said = flowgen("data", "check", tones, "-o", tmp_path / "rows.xlsx")
    assert code == 2
    assert "written as CSV or JSONL" in said


def test_copies_across_training_and_validation_are_named(tmp_path):
    for name in ("a", "b", "c"):
        (tmp_path / name).write_bytes(b"the same")
    (tmp_path / "d").write_bytes(b"not same")
    rows = [
        {"file": name, "path": str(tmp_path / name), "part": part, "status": "kept", "why": ""}
        for name, part in (("a", "training"), ("b", "validation"), ("c", "training"), ("d", "training"))
    ]
    listed, copied, leaked = report.copies(rows)
    assert copied == "copies: 1 of the same content: a  =  b  =  c"
    assert leaked.startswith("copies across training and validation: 1")
    (listed, copied) = report.copies([rows[0], rows[3], rows[0]])
    assert (listed, copied) == ("listed twice: 1: a", "copies: none")


def test_lengths_as_bars():
    rows = [{"seconds": float(s)} for s in [1, 1, 1, 2, 13]]
    bars = list(report.histogram(rows))
    assert len(bars) == 12
    assert bars[0].endswith("# 3")
    assert bars[1].endswith("# 1")
    assert sum(int(bar.split()[-1]) for bar in bars) == 5
    assert list(report.histogram([{"seconds": 2.0}] * 3)) == [f"    2.00 s {'#' * 40} 3"]
    assert list(report.histogram([{"file": "a"}])) == []

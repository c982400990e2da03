"""`flowgen demo` from end to end, in a few steps."""

import subprocess
import sys

import pytest

from flowgen.evaluation import load
from flowgen.runs.run import Run
from tests.evaluation.pages import Page, media


def demo(folder):
    command = [sys.executable, "-m", "flowgen", "demo", "--quick", "--out", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    return done


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_demo_trains_measures_and_reports_and_a_second_time_reuses_it_all(tmp_path):
    done = demo(tmp_path)
    report = tmp_path / "report.html"
    assert done.stdout.split() == [str(report)]
    assert "audio training" in done.stderr
    assert "video training" in done.stderr
    page = Page(report.read_text())
    kinds = {tag for tag, _ in page.references}
    assert {"audio", "video", "img"} <= kinds
    files = media(page, tmp_path)
    for name in ("audio", "video"):
        assert Run(tmp_path / name).newest_checkpoint().step == 20
        assert load(tmp_path / name / "eval.json").settings["clips"] == 8
        for verb in ("train demo", "sample"):
            assert any(f"flowgen {verb}" in line and name in line for line in done.stderr.splitlines()), done.stderr
    before = {p: p.stat().st_mtime_ns for p in [*files, *tmp_path.rglob("*.safetensors"), *tmp_path.rglob("eval.json")]}
    again = demo(tmp_path)
    assert "training" not in again.stderr.split("done in")[1]
    assert {p: p.stat().st_mtime_ns for p in before} == before


def test_a_folder_with_another_run_is_refused_with_a_remedy(tmp_path):
    (tmp_path / "audio" / "checkpoints" / "step-00000001").mkdir(parents=True)
    (tmp_path / "audio" / "checkpoints" / "step-00000001" / "manifest.json").write_text('{"step": 1}')
    (tmp_path / "audio" / "config.yaml").write_text(
        "name: other\nmodality: audio\ndata: notes\nencoder: mel\nnetwork: transformer\ntrain: {steps: 3}\nconditions: {}\n"
    )
    command = [sys.executable, "-m", "flowgen", "demo", "--quick", "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 2, done.stderr
    assert "--out" in done.stderr
    assert not (tmp_path / "video").exists()

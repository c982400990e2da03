"""What goes wrong during a run, and what the run does then."""

from __future__ import annotations

import json
import subprocess

import pytest
import torch
from safetensors.torch import load_file

from flowgen.data.loader import Order
from flowgen.errors import FlowgenError
from flowgen.runs.run import Run
from flowgen.training.loggers import read_log
from flowgen.training.watch import Validator


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
@pytest.mark.parametrize("kind", ["bad", "huge"])
def test_a_step_that_is_not_finite_or_explodes_is_skipped_and_its_clip_named(fit, tiny, tmp_path, stage, kind):
    zero = {"zero_optimization": {"stage": stage}}
    culprit = Order(0, 40)[20].index  # not among those that the encoder is tried on
    data = {"type": "tiny", kind: [culprit]}
    fit(tiny(tmp_path / "run", zero, data=data, steps=5, micro_batch_size=4, checkpoint={"every": 1, "keep": 9}))
    skipped = [json.loads(line) for line in (tmp_path / "run" / "skipped.jsonl").read_text().splitlines()]
    assert len(skipped) == 1  # 40 clips in 5 steps: every clip is met once
    assert [clip["source"] for clip in skipped[0]["clips"]] == [f"number {culprit}"]
    log = read_log(tmp_path / "run")
    assert [e.get("skipped_steps", 0) for e in log] == [int(e["step"] == skipped[0]["step"] + 1) for e in log]
    at = skipped[0]["step"]

    def weights(step, which="network"):
        return load_file(tmp_path / "run" / "checkpoints" / f"step-{step:08d}" / f"{which}.safetensors")

    for step in range(2, 6):
        changed = any(not torch.equal(v, weights(step - 1)[k]) for k, v in weights(step).items())
        assert changed == (step != at + 1)
        assert all(v.isfinite().all() for v in weights(step, "ema").values())


def test_too_many_skipped_steps_end_the_run(fit, tiny, tmp_path):
    data = {"type": "tiny", "bad": list(range(40))}
    with pytest.raises(FlowgenError, match=r"the encoder makes latents of mean nan"):
        fit(tiny(tmp_path / "run", data=data))
    values = tiny(tmp_path / "run", max_loss=1e-9, max_skipped=3)
    with pytest.raises(
        FlowgenError, match=r"4 steps in a row were skipped, the last being step 3: the loss of number \d+"
    ):
        fit(values)
    assert Run(tmp_path / "run").checkpoints() == []


def test_an_unwritable_run_folder_is_a_sentence(fit, tiny, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(FlowgenError, match=r"cannot write .*file/run"):
        fit(tiny(tmp_path / "file" / "run"))


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 96 kB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=96k", "tmpfs", str(folder)], capture_output=True).returncode:
        pytest.skip("a tmpfs cannot be mounted here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.parametrize("background", [False, True])
def test_a_full_disk_is_a_sentence_and_the_checkpoint_before_stays(fit, tiny, small_disk, background):
    network = {"type": "tiny-blocks", "width": 30}  # about 50 kB a checkpoint
    checkpoint = {"every": 2, "keep": 5, "background": background}
    with pytest.raises(FlowgenError, match=r"cannot write .*(No space left|os error 28|StorageFull).*make room"):
        fit(tiny(small_disk / "run", network=network, checkpoint=checkpoint))
    run = Run(small_disk / "run")
    assert [c.step for c in run.checkpoints()] == [2]
    run.newest_checkpoint().verify()
    assert [p.name for p in run.checkpoints_folder.iterdir()] == ["step-00000002"]


def _fails(*arguments, **options):
    raise RuntimeError("no picture today")


def test_a_checkpoint_comes_before_a_preview_and_none_of_its_failures_ends_training(fit, tiny, tmp_path, monkeypatch):
    seen = []

    def preview(self, step, name, clips):
        seen.append((step, [c.step for c in Run(tmp_path / "run").checkpoints()]))
        _fails()

    monkeypatch.setattr(Validator, "preview", preview)
    monkeypatch.setattr(Validator, "validate", _fails)
    looking = {"preview": {"every": 2}, "validation": {"every": 2}, "checkpoint": {"every": 2, "keep": 9}}
    with pytest.warns(UserWarning, match="training goes on") as caught:
        result = fit(tiny(tmp_path / "run", steps=3, **looking))
    assert result.finished
    assert seen == [(step, saved) for step, saved in [(2, [2]), (3, [2, 3])] for _ in ("raw", "ema")]
    said = [str(warning.message) for warning in caught if "training goes on" in str(warning.message)]
    assert (
        "the preview of the raw weights at step 2 failed, and training goes on: RuntimeError: no picture today" in said
    )
    assert "the validation at step 3 failed, and training goes on: RuntimeError: no picture today" in said


def test_what_cannot_be_sampled_is_refused_before_the_first_step(fit, tiny, tmp_path):
    noisy = tiny(tmp_path / "run", loss={"type": "flow-matching", "predicts": "noise"})
    with pytest.raises(FlowgenError, match=r"cannot sample tiny: .*from t = 0 .*change sample\.solver"):
        fit(noisy)
    assert not (tmp_path / "run").exists()

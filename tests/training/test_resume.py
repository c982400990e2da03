"""A resumed run is the run that was begun: exactly, or not at all."""

from __future__ import annotations

import itertools
import json
import shutil
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

from flowgen.config import Document, dumps, resolve
from flowgen.errors import FlowgenError, UsageError
from flowgen.runs.run import Run
from flowgen.training.loggers import read_log
from flowgen.training.machine import precision_gap

pytestmark = pytest.mark.exact


def state(folder, step):
    """All tensors of a checkpoint, by file and name."""
    root = folder / "checkpoints" / f"step-{step:08d}"
    files = sorted(root.rglob("*.safetensors"))
    return {(str(p.relative_to(root)), k): v.clone() for p in files for k, v in load_file(p).items()}


def same(one, other):
    assert one.keys() == other.keys()
    for key in one:
        assert torch.equal(one[key], other[key]), key


def learned(folder):
    """What the log says but for times and memory."""
    machine = ("per_second", "share_of_time", "memory_gb")
    return [{k: v for k, v in e.items() if not any(m in k for m in machine)} for e in read_log(folder)]


def steps(folder):
    return [checkpoint.step for checkpoint in Run(folder).checkpoints()]


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_a_run_in_float16_resumes_with_its_loss_scale(fit, tiny, tmp_path, stage):
    if (gap := precision_gap(torch.float16)) is not None:
        pytest.skip(gap)
    half = {"enabled": True, "initial_scale_power": 20, "loss_scale_window": 4, "hysteresis": 2}
    deepspeed = {"fp16": half, "zero_optimization": {"stage": stage}}
    fit(tiny(tmp_path / "whole", deepspeed, checkpoint={"every": 1, "keep": 30}))
    scales = [c.manifest["trainer"]["scaler"]["cur_scale"] for c in Run(tmp_path / "whole").checkpoints()]
    assert min(scales) < scales[0]  # it was too large, and has been tried again
    assert any(later > earlier for earlier, later in itertools.pairwise(scales))
    for stop in (3, 10):
        folder = tmp_path / f"parts-{stop}"
        fit(tiny(folder, deepspeed, loggers=["jsonl", {"type": "signal-at", "step": stop - 1}]))
        fit(tiny(folder, deepspeed), resume=True)
        same(state(tmp_path / "whole", 20), state(folder, 20))
        assert Run(folder).newest_checkpoint().manifest["trainer"]["scaler"]["cur_scale"] == scales[-1]


@pytest.mark.parametrize("background", [False, True])
@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_ten_and_ten_steps_are_twenty(fit, tiny, tmp_path, stage, background):
    zero = {"zero_optimization": {"stage": stage}}
    options = {
        "batch_size": 6,  # 40 clips: a stop in the middle of an epoch, of a line of the log, and between checkpoints
        "micro_batch_size": 3,
        "log_every": 3,
        "ema": {"decay": 0.9, "profiles": [0.1]},
        "checkpoint": {"every": 7, "background": background},
    }
    fit(tiny(tmp_path / "whole", zero, **options))
    stop = ["jsonl", {"type": "signal-at", "step": 9}]
    begun = fit(tiny(tmp_path / "parts", zero, loggers=stop, **options))
    assert (begun.step, begun.finished) == (10, False)
    ended = fit(tiny(tmp_path / "parts", zero, **options), resume=True)
    assert (ended.step, ended.finished) == (20, True)
    same(state(tmp_path / "whole", 20), state(tmp_path / "parts", 20))
    assert learned(tmp_path / "whole") == learned(tmp_path / "parts")


def test_bfloat16_masters_resume_exactly(fit, tiny, tmp_path):
    half = {"bf16": {"enabled": True}, "zero_optimization": {"stage": 1}}
    options = {"network": {"type": "tiny-blocks", "dropout": 0.0}}
    fit(tiny(tmp_path / "whole", half, **options))
    shutil.copytree(tmp_path / "whole", tmp_path / "parts")
    shutil.rmtree(tmp_path / "parts" / "checkpoints" / "step-00000020")
    fit(tiny(tmp_path / "parts", half, **options), resume=True)
    same(state(tmp_path / "whole", 20), state(tmp_path / "parts", 20))
    kept = load_file(tmp_path / "whole/checkpoints/step-00000020/network.safetensors")
    assert any(not torch.equal(v, v.bfloat16().float()) for v in kept.values())


@pytest.mark.parametrize(("before", "after"), [(0, 1), (1, 3), (3, 2), (2, 0)])
def test_another_stage_goes_on_from_the_same_state(fit, tiny, tmp_path, before, after):
    def config(folder, stage):
        return tiny(folder, {"zero_optimization": {"stage": stage}})

    fit(config(tmp_path / "whole", before))
    shutil.copytree(tmp_path / "whole", tmp_path / "parts")
    shutil.rmtree(tmp_path / "parts" / "checkpoints" / "step-00000020")
    fit(config(tmp_path / "parts", after), resume=True)
    one, other = ([e["loss"] for e in read_log(tmp_path / f)] for f in ("whole", "parts"))
    assert one == pytest.approx(other, rel=1e-5)
    averages = [load_file(tmp_path / f / "checkpoints/step-00000020/ema.safetensors") for f in ("whole", "parts")]
    for name in averages[0]:
        torch.testing.assert_close(averages[0][name], averages[1][name], rtol=1e-4, atol=1e-5)


def test_a_learned_weighting_is_saved_and_resumed(fit, tiny, tmp_path):
    fit(tiny(tmp_path / "whole", loss="uncertainty"))
    shutil.copytree(tmp_path / "whole", tmp_path / "parts")
    shutil.rmtree(tmp_path / "parts" / "checkpoints" / "step-00000020")
    (tmp_path / "parts" / "skipped.jsonl").write_text('{"step": 9}\n{"step": 10}\n{"st')
    with (tmp_path / "parts" / "log.jsonl").open("a") as file:
        file.write('{"step": 2')  # as a run that was killed leaves it
    fit(tiny(tmp_path / "parts", loss="uncertainty"), resume=True)
    lines = (tmp_path / "parts" / "log.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == list(range(1, 21))  # steps done twice are logged once
    assert (tmp_path / "parts" / "skipped.jsonl").read_text() == '{"step": 9}\n'
    whole = state(tmp_path / "whole", 20)
    same(whole, state(tmp_path / "parts", 20))
    assert float(whole["network.loss.safetensors", "u"].abs().max()) > 0


def test_resume_refuses_another_config(fit, tiny, tmp_path):
    fit(tiny(tmp_path / "run", steps=4))
    with pytest.raises(UsageError, match=r"train\.optimizer\.lr \(0\.01 -> 0\.1\)"):
        fit(tiny(tmp_path / "run", steps=4, optimizer={"lr": 0.1, "weight_decay": 0.01}), resume=True)
    with pytest.raises(UsageError, match=r"train\.ema\.decay"):
        fit(tiny(tmp_path / "run", steps=4, ema={"decay": 0.5}), resume=True)
    fit(tiny(tmp_path / "run", steps=4, log_every=2, micro_batch_size=4, checkpoint={"every": 3}), resume=True)


def test_a_constant_rate_can_be_prolonged(fit, tiny, tmp_path):
    fit(tiny(tmp_path / "whole", steps=14))
    fit(tiny(tmp_path / "parts", steps=7))
    ended = fit(tiny(tmp_path / "parts", steps=14), resume=True)
    assert ended.finished
    same(state(tmp_path / "whole", 14), state(tmp_path / "parts", 14))
    assert Run(tmp_path / "parts").config().train.steps == 14
    cosine = {"warmup": 0, "decay": "cosine"}
    fit(tiny(tmp_path / "cosine", steps=4, schedule=cosine))
    with pytest.raises(UsageError, match=r"cannot change train\.steps where the learning rate decays"):
        fit(tiny(tmp_path / "cosine", steps=8, schedule=cosine), resume=True)


def test_a_run_is_not_overwritten(fit, tiny, tmp_path):
    fit(tiny(tmp_path / "run", steps=2))
    before = state(tmp_path / "run", 2)
    with pytest.raises(UsageError, match=r"holds a run at step 2; continue it with --resume"):
        fit(tiny(tmp_path / "run", steps=2))
    same(before, state(tmp_path / "run", 2))


def test_resume_of_nothing_begins(fit, tiny, tmp_path):
    assert fit(tiny(tmp_path / "run", steps=2), resume=True).finished


def test_the_newest_checkpoints_stay(fit, tiny, tmp_path):
    fit(tiny(tmp_path / "run", steps=10, checkpoint={"every": 2, "keep": 3}))
    assert steps(tmp_path / "run") == [6, 8, 10]
    assert sorted(p.name for p in (tmp_path / "run" / "checkpoints").iterdir()) == [
        "step-00000006",
        "step-00000008",
        "step-00000010",
    ]


def test_what_a_killed_writer_left_is_ignored_and_removed(fit, tiny, tmp_path):
    fit(tiny(tmp_path / "run"))
    folder = tmp_path / "run" / "checkpoints"
    whole = state(tmp_path / "run", 20)
    (folder / "step-00000020").rename(folder / ".step-00000020.partial")
    (folder / ".step-00000020.partial" / "manifest.json").unlink()
    fit(tiny(tmp_path / "run"), resume=True)
    same(whole, state(tmp_path / "run", 20))
    assert sorted(p.name for p in folder.iterdir()) == ["step-00000010", "step-00000020"]


def _flip(path):
    data = bytearray(path.read_bytes())
    data[-3] ^= 4
    path.write_bytes(data)


def _truncate(path):
    path.write_bytes(path.read_bytes()[:-10])


@pytest.mark.parametrize("name", ["network.safetensors", "ema.safetensors", "optimizer/rank-0000.safetensors"])
@pytest.mark.parametrize(
    ("damage", "sentence"), [(_flip, "checksum"), (_truncate, "truncated"), (lambda p: p.unlink(), "missing")]
)
def test_a_damaged_checkpoint_is_refused_or_passed_over(fit, tiny, tmp_path, name, damage, sentence):
    fit(tiny(tmp_path / "run"))
    whole = state(tmp_path / "run", 20)
    damage(tmp_path / "run" / "checkpoints" / "step-00000020" / name)
    with pytest.raises(FlowgenError, match=rf"{name}.*{sentence}.*on_damage=previous"):
        fit(tiny(tmp_path / "run"), resume=True)
    fit(tiny(tmp_path / "run", checkpoint={"every": 10, "on_damage": "previous"}), resume=True)
    same(whole, state(tmp_path / "run", 20))
    assert (tmp_path / "run" / "checkpoints" / "damaged-step-00000020").is_dir()


def test_a_damaged_manifest_is_a_sentence(fit, tiny, tmp_path):
    fit(tiny(tmp_path / "run"))
    _truncate(tmp_path / "run" / "checkpoints" / "step-00000020" / "manifest.json")
    with pytest.raises(FlowgenError, match=r"cannot read .*manifest\.json"):
        fit(tiny(tmp_path / "run"), resume=True)


def test_init_from_starts_from_the_beginning_with_averaged_weights(fit, tiny, tmp_path, capsys):
    fit(tiny(tmp_path / "source"))
    result = fit(tiny(tmp_path / "new", steps=3, optimizer={"lr": 1e-12}), init_from=str(tmp_path / "source"))
    assert result.step == 3
    assert "all 11 tensors match" in capsys.readouterr().err
    start = load_file(tmp_path / "source/checkpoints/step-00000020/ema.safetensors")
    for which in ("network", "ema"):
        for name, ours in load_file(tmp_path / f"new/checkpoints/step-00000003/{which}.safetensors").items():
            torch.testing.assert_close(ours, start[name], rtol=0, atol=1e-6)
    assert [e["step"] for e in read_log(tmp_path / "new")] == [1, 2, 3]


def test_init_from_is_strict_and_says_what_differs(fit, tiny, tmp_path, capsys):
    fit(tiny(tmp_path / "source", steps=2))
    deeper = {"type": "tiny-blocks", "depth": 4}
    with pytest.raises(
        FlowgenError, match=r"11 of 13 tensors match; missing: blocks\.3\.0\.bias, blocks\.3\.0\.weight"
    ):
        fit(tiny(tmp_path / "new", steps=2, network=deeper), init_from=str(tmp_path / "source"))
    assert not (tmp_path / "new").exists()
    with pytest.raises(UsageError, match=r"--allow 'out\.\*' matches nothing"):
        fit(tiny(tmp_path / "new", network=deeper), init_from=str(tmp_path / "source"), allow=("blocks.3.*", "out.*"))
    fit(tiny(tmp_path / "new", steps=2, network=deeper), init_from=str(tmp_path / "source"), allow=("blocks.3.*",))
    assert "11 of 13 tensors match; missing: blocks.3.0.bias" in capsys.readouterr().err


def test_init_from_maps_classes_by_name_and_keeps_the_encoder(fit, tiny, tmp_path, capsys):
    network = {"type": "mlp", "width": 16, "depth": 2}
    still = {"steps": 1, "optimizer": {"lr": 1e-12, "weight_decay": 0.0}, "network": network}
    source, names = tmp_path / "source", ["a", "b", "c"]
    fit(tiny(source, steps=3, network=network))
    other = tiny(tmp_path / "new", **still, data={"type": "tiny", "clips": 24})
    changed = ["c", "other", "a", "b"]
    fit({**other, "conditions": {"kind": {"type": "class", "names": changed}}}, init_from=str(source))
    said = capsys.readouterr().err
    assert "condition kind: 3 of 4 classes mapped by name; new: other" in said
    assert f"encoder  statistics of {source}" in said

    def table(folder):
        tensors = load_file(Run(folder).newest_checkpoint().folder / "ema.safetensors")
        return next(v for k, v in tensors.items() if k.endswith("embedders.kind.weight"))

    old, new = table(source), table(tmp_path / "new")
    for name in names:
        torch.testing.assert_close(new[changed.index(name)], old[names.index(name)], rtol=0, atol=1e-6)
    torch.testing.assert_close(new[-1], old[-1], rtol=0, atol=1e-6)  # the row of none
    scales = [load_file(tmp_path / run / "encoder.safetensors")["scale"] for run in ("source", "new")]
    assert torch.equal(*scales)
    fit({**other, "run": str(tmp_path / "own")}, init_from=str(source), allow=("encoder",))
    assert not torch.equal(load_file(tmp_path / "own" / "encoder.safetensors")["scale"], scales[0])
    fit(tiny(tmp_path / "plain", steps=1))
    moved = {**tiny(tmp_path / "bad"), "conditions": {"kind": {"type": "class", "names": changed[:1] + changed[2:]}}}
    with pytest.raises(UsageError, match=r"classes of 'kind' are not the same .*tiny-blocks.*ClassEmbedding"):
        fit(moved, init_from=str(tmp_path / "plain"))


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGUSR1"])
def test_a_signal_ends_the_program_cleanly(tiny, tiny_plugin, tmp_path, name):
    values = tiny(tmp_path / "run", loggers=["jsonl", {"type": "signal-at", "step": 3, "name": name}])
    (tmp_path / "c.yaml").write_text(dumps(resolve(Document(values)).config.model_dump(mode="json")))
    command = [sys.executable, "-m", "flowgen", "train", str(tmp_path / "c.yaml")]
    done = subprocess.run(command, capture_output=True, text=True, env=tiny_plugin, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "stopped at step 4 of 20" in done.stderr
    assert f"flowgen train {tmp_path}/run --resume" in done.stderr
    assert steps(tmp_path / "run") == [4]
    manifest = json.loads((tmp_path / "run/checkpoints/step-00000004/manifest.json").read_text())
    assert set(manifest["files"]) == {"network.safetensors", "ema.safetensors", "optimizer/rank-0000.safetensors"}

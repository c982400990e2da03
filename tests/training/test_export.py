"""Exports, and plans."""

from __future__ import annotations

import json

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file

from flowgen.cli import cli
from flowgen.config import Document, dumps, resolve
from flowgen.errors import FlowgenError, UsageError
from flowgen.runs.generator import Generator
from flowgen.runs.run import Run
from flowgen.training.export import export
from flowgen.training.plan import memory, plan
from flowgen.training.posthoc import Profile, combination


@pytest.fixture
def run(fit, tiny, tmp_path):
    fit(tiny(tmp_path / "run", steps=6, ema={"decay": 0.9, "profiles": [0.1]}))
    return tmp_path / "run"


def clips(folder, **options):
    generator = Generator.load(folder, **options)
    return torch.stack([c.data for c in generator.sample([{"kind": "a"}, {"kind": "b"}], seed=3)])


@pytest.mark.parametrize("weights", ["ema", "raw"])
def test_an_export_samples_as_the_run_does(run, tmp_path, weights):
    expected = clips(run, weights=weights)
    export(run, tmp_path / "out", weights=weights)
    run.rename(tmp_path / "gone")
    assert torch.equal(clips(tmp_path / "out"), expected)
    files = {str(p.relative_to(tmp_path / "out")) for p in (tmp_path / "out").rglob("*") if p.is_file()}
    step = "checkpoints/step-00000006"
    assert files == {"config.yaml", "encoder.safetensors", f"{step}/weights.safetensors", f"{step}/manifest.json"}


def test_a_further_average_can_be_exported(run, tmp_path):
    export(run, tmp_path / "out", weights="ema-0.1")
    ours = load_file(tmp_path / "out/checkpoints/step-00000006/weights.safetensors")
    expected = load_file(run / "checkpoints/step-00000006/ema-0.1.safetensors")
    assert all(torch.equal(v, expected[k]) for k, v in ours.items())
    with pytest.raises(FlowgenError, match=r"ema-0\.3\.safetensors is missing"):
        export(run, tmp_path / "other", weights="ema-0.3")
    assert not (tmp_path / "other").exists()


def test_an_average_of_any_width_is_made_after_the_run(fit, tiny, tmp_path):
    many = {"every": 5, "keep": 30}
    values = {"steps": 60, "checkpoint": many, "schedule": {"warmup": 4, "decay": "constant"}}
    fit(tiny(tmp_path / "stored", ema={"decay": 0.9, "profiles": [0.05, 0.1]}, **values))
    fit(tiny(tmp_path / "direct", ema={"decay": 0.9, "profiles": [0.08, 0.15]}, **values))
    last = tmp_path / "direct/checkpoints/step-00000060"
    for width, bound in ((0.08, 0.01), (0.15, 0.05)):
        arguments = ["export", str(tmp_path / "stored"), "-o", str(tmp_path / f"{width}"), "--ema-width", str(width)]
        done = CliRunner().invoke(cli, arguments)
        assert done.exit_code == 0, done.output
        made = load_file(tmp_path / f"{width}/checkpoints/step-00000060/weights.safetensors")
        direct, raw = load_file(last / f"ema-{width:g}.safetensors"), load_file(last / "network.safetensors")
        off = sum(float((made[k] - direct[k]).square().sum()) for k in direct)
        moved = sum(float((raw[k] - direct[k]).square().sum()) for k in direct)
        assert off < bound**2 * moved, width
        assert "the checkpoints give the profile of this average but for" in done.output
    manifest = Run(tmp_path / "0.08").newest_checkpoint().manifest
    assert manifest["exported"]["weights"] == "ema-width-0.08"
    assert manifest["exported"]["profile_missed"] < 0.05
    assert clips(tmp_path / "0.08").isfinite().all()


def test_a_stored_profile_is_made_of_itself():
    stored = [Profile(end, gamma) for end in (100, 200, 300) for gamma in (6.0, 16.0)]
    coefficients, missed = combination(stored, Profile(300, 16.0))
    assert coefficients.tolist() == pytest.approx([0, 0, 0, 0, 0, 1], abs=1e-6)
    assert missed < 1e-5
    t = (torch.arange(300_000, dtype=torch.float64) + 0.5) / 1000
    one, other = ((p.gamma + 1) * (t / p.end) ** p.gamma / p.end * (t < p.end) for p in (stored[0], stored[5]))
    assert stored[0].dot(stored[5]) == pytest.approx(float((one * other).sum() / 1000), rel=1e-3)
    assert stored[0].dot(stored[5]) == stored[5].dot(stored[0])


def test_a_width_without_averages_is_refused(fit, tiny, run, tmp_path):
    with pytest.raises(
        UsageError, match=r"--ema-width: the relative width of an average lies in \(0, 0\.28\), got 0\.5"
    ):
        export(run, tmp_path / "out", ema_width=0.5)
    fit(tiny(tmp_path / "none", steps=2))
    with pytest.raises(UsageError, match="keeps no power-function averages to combine"):
        export(tmp_path / "none", tmp_path / "out", ema_width=0.1)


def test_half_precision_halves_the_file_and_hardly_changes_the_clips(run, tmp_path):
    done = CliRunner().invoke(cli, ["export", str(run), "-o", str(tmp_path / "half"), "--dtype", "bfloat16"])
    assert done.exit_code == 0, done.output
    kept = load_file(tmp_path / "half/checkpoints/step-00000006/weights.safetensors")
    assert {v.dtype for v in kept.values()} == {torch.bfloat16}
    torch.testing.assert_close(clips(tmp_path / "half"), clips(run), rtol=0.05, atol=0.05)
    assert not torch.equal(clips(tmp_path / "half"), clips(run))


def test_an_export_is_started_from_but_not_resumed(fit, tiny, run, tmp_path):
    export(run, tmp_path / "out")
    with pytest.raises(UsageError, match="is an export: weights alone"):
        fit(tiny(tmp_path / "out", steps=6, ema={"decay": 0.9, "profiles": [0.1]}), resume=True)
    assert fit(tiny(tmp_path / "new", steps=1), init_from=str(tmp_path / "out")).finished
    with pytest.raises(FlowgenError, match="is an export of the weights 'ema', and has no 'raw'"):
        Generator.load(tmp_path / "out", weights="raw")


def test_an_export_overwrites_nothing_and_refuses_damage(run, tmp_path):
    (tmp_path / "out").mkdir()
    with pytest.raises(UsageError, match="exists; export to a new folder"):
        export(run, tmp_path / "out")
    path = Run(run).newest_checkpoint().folder / "ema.safetensors"
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(FlowgenError, match="truncated"):
        export(run, tmp_path / "new")


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_the_plan_is_what_deepspeed_allocates(tiny, stage, half):
    from flowgen.config.schema import ComponentConfig
    from flowgen.training.engine import Objective, start_engine, start_ranks
    from flowgen.training.internals import master_shards, optimizer_states

    if half and stage == 0:
        pytest.skip("refused")
    start_ranks()
    user = {"zero_optimization": {"stage": stage, "stage3_param_persistence_threshold": 0}}
    config = resolve(Document(tiny("run", {**user, **({"bf16": {"enabled": True}} if half else {})}))).config
    made = plan(config, 1).stages[stage]
    from flowgen_tiny import Blocks

    from flowgen.core.losses import FlowMatching
    from flowgen.core.random import Randomness
    from flowgen.media.streams import StreamSpec
    from flowgen.training.deepspeed_config import deepspeed_config

    engine = start_engine(
        Objective(Blocks(StreamSpec(2), {}), FlowMatching()), ComponentConfig(type="adamw"), deepspeed_config(config, 1)
    )
    kind = {"kind": torch.zeros(8, dtype=torch.long)}
    engine.backward(engine(torch.randn(8, 2), kind, Randomness(0, 0, 8)).total.mean())
    engine.step()
    own = {}
    for p in engine.module.parameters():
        storage = getattr(p, "ds_tensor", p).untyped_storage()
        own[storage.data_ptr()] = storage.nbytes()
    masters = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in master_shards(engine)}
    moments = sum(t.nbytes for s in optimizer_states(engine) for k, t in s.items() if k.startswith("exp_avg"))
    assert made.weights == sum(own.values())
    assert made.masters == sum(n for at, n in masters.items() if at not in own)
    assert made.moments == moments
    engine.destroy()


def test_shares_shrink_with_the_ranks():
    shapes = [torch.Size((100, 30)), torch.Size((30,))]
    one, eight = (memory(shapes, n, 3, 4, 1, 0, {}) for n in (1, 8))
    assert (eight.weights, eight.moments) == (4 * (375 + 4), 8 * (375 + 4))
    assert one.weights == 4 * 3030
    sharded = memory(shapes, 8, 1, 4, 1, 0, {})
    assert (sharded.weights, sharded.masters) == (4 * (3008 + 32), 4 * (376 + 4))


def test_activations_are_what_the_forward_pass_keeps(tiny):
    """Against what the tensors that autograd holds take, for a network of known sizes."""
    values = tiny("run", batch_size=64, modality={"type": "tiny", "channels": 4})
    width, depth = 13, 3
    whole = plan(resolve(Document(values)).config, 1).stages[0].activations
    # of each block: its input, what dropout drew and let through, and SiLU's input; of the rest: input, last state, output
    floats = 64 * (5 + width + 4)
    assert floats * 4 < whole < (floats + depth * 64 * width * 4) * 4 * 1.2
    less = plan(resolve(Document({**values, "train": {**values["train"], "activation_checkpointing": True}})).config, 1)
    assert less.stages[0].activations < 0.8 * whole


def test_the_plan_as_a_person_reads_it(tiny, tmp_path):
    config = tmp_path / "c.yaml"
    config.write_text(dumps(resolve(Document(tiny(tmp_path / "run"))).config.model_dump(mode="json")))
    done = CliRunner().invoke(cli, ["plan", str(config), "--gpus", "4", "--gpu-memory", "0.00002"])
    assert done.exit_code == 0, done.output
    lines = done.output.splitlines()
    assert "678 parameters; 4 x 2 clips x 1 accumulated = 8 clips" in lines[0]
    assert [line.split()[0] for line in lines[1:]] == ["ZeRO", "0", "1", "2", "3"]
    assert {line.split()[-1] for line in lines[2:]} <= {"yes", "no"}
    assert json.loads(json.dumps(done.output))
    done = CliRunner().invoke(cli, ["plan", str(config), "--gpus", "3"])
    assert "does not divide among 3 ranks" in str(done.exception)

"""Adapters: the base frozen, only the corrections trained, stored and averaged; on any ranks, under any ZeRO stage."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from itertools import product
from pathlib import Path

import pytest
import torch
import yaml
from click.testing import CliRunner
from safetensors.torch import load_file

from flowgen.cli import cli
from flowgen.config import Document, resolve
from flowgen.errors import FlowgenError, UsageError
from flowgen.runs.experiment import Experiment
from flowgen.runs.generator import Generator
from flowgen.training.loggers import read_log
from tests.untrained import DIGITS, listed, untrained

pytest.importorskip("peft")

STAGES, RANKS, STEPS = (0, 1, 2, 3), (1, 2), 6


def config(base, run, stage=0, network=None, **train):
    values = yaml.safe_load(DIGITS)
    values["name"], values["run"] = "adapted", str(run)
    values["data"]["digits"] = [8, 9]
    values["network"] = {"type": "lora", "run": str(base), "rank": 4, "whole": ["conditions.embedders.digit.*"]}
    values["network"] |= network or {}
    values["loggers"] = ["jsonl"]
    values["deepspeed"] = {"zero_optimization": {"stage": stage, "stage3_param_persistence_threshold": 0}}
    own = {"steps": STEPS, "batch_size": 4, "log_every": 1, "optimizer": {"lr": 1e-2}, "ema": {"decay": 0.9}}
    own |= {"schedule": {"warmup": 0, "decay": "constant"}, "checkpoint": {"every": 3}}
    values["train"] = own | {"validation": {"every": 0}, "preview": {"every": 0}} | train
    return values


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("base")
    return untrained(folder, DIGITS, folder / "digits")


def launch(root, ranks, jobs):
    path = root / f"jobs-{len(list(root.glob('jobs-*')))}.json"
    path.write_text(json.dumps(jobs))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
    worker = str(Path(__file__).with_name("worker.py"))
    env = {k: v for k, v in os.environ.items() if k != "FLOWGEN_DISABLE"} | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run([*command, worker, str(path)], capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr[-4000:]


@pytest.fixture(scope="module")
def runs(base, tmp_path_factory):
    """Every number of ranks and stage; each gone on with from half way, in place and from one rank at stage 0."""
    root = tmp_path_factory.mktemp("adapters")
    for ranks in RANKS:
        launch(root, ranks, [{"train": config(base, root / f"{ranks}-{stage}", stage)} for stage in STAGES])
    for ranks in RANKS:
        jobs = []
        for stage in STAGES:
            for name, source in ((f"{ranks}-{stage}-resumed", f"{ranks}-{stage}"), (f"{ranks}-{stage}-moved", "1-0")):
                jobs.append({"rewind": str(root / source), "into": str(root / name)})
                jobs.append({"train": config(base, root / name, stage), "resume": True})
        launch(root, ranks, jobs)
    return root


def losses(folder):
    return torch.tensor([entry["loss"] for entry in read_log(folder)], dtype=torch.float64)


def weights(folder, which="network"):
    return load_file(folder / f"checkpoints/step-{STEPS:08d}/{which}.safetensors")


@pytest.mark.slow
@pytest.mark.parametrize(("ranks", "stage"), [*product(RANKS, STAGES)])
def test_an_adapter_trains_alike_under_every_stage_and_number_of_ranks(runs, base, ranks, stage):
    run = runs / f"{ranks}-{stage}"
    torch.testing.assert_close(losses(run), losses(runs / "1-0"), rtol=1e-5, atol=0)
    for which in ("network", "ema"):
        for name, value in weights(run, which).items():
            torch.testing.assert_close(value, weights(runs / "1-0", which)[name], rtol=1e-4, atol=1e-5)
    assert not torch.equal(weights(run)["blocks.0.mlp.0.lora_B.default.weight"], torch.zeros(128, 4))


@pytest.mark.slow
@pytest.mark.exact
@pytest.mark.parametrize(("ranks", "stage"), [*product(RANKS, STAGES)])
def test_a_resumed_adapter_is_exact_and_one_that_moved_is_the_same(runs, ranks, stage):
    one, other = runs / f"{ranks}-{stage}", runs / f"{ranks}-{stage}-resumed"
    for which in ("network", "ema"):
        own, again = weights(one, which), weights(other, which)
        assert own.keys() == again.keys()
        assert [k for k in own if not torch.equal(own[k], again[k])] == []
    moved = runs / f"{ranks}-{stage}-moved"
    torch.testing.assert_close(losses(moved), losses(runs / "1-0"), rtol=1e-5, atol=0)


@pytest.mark.slow
@pytest.mark.parametrize(("ranks", "stage"), [*product(RANKS, STAGES)])
def test_what_is_frozen_is_in_no_checkpoint_and_no_optimizer(runs, base, ranks, stage):
    run = runs / f"{ranks}-{stage}"
    names = set(weights(run))
    assert names == set(weights(run, "ema"))
    assert all(".lora_" in n or n in ("adapter_base", "conditions.embedders.digit.weight") for n in names)
    folder = run / f"checkpoints/step-{STEPS:08d}/optimizer"
    owners = {key.partition("@")[0].removeprefix("network.") for f in folder.glob("*") for key in load_file(f)}
    assert owners == names - {"adapter_base"}


def network_of(values):
    return Experiment(resolve(Document(values)).config).complete().network


@pytest.mark.parametrize("options", [{}, {"dora": True}, {"targets": ["*.qkv"], "alpha": 16}, {"targets": ["linear"]}])
def test_an_adapter_begins_as_its_base_and_is_merged_into_it(base, tmp_path, options):
    generator = Generator.load(base)
    values = config(base, tmp_path / "run", network=options)
    network = network_of(values)
    cond = generator.conditioners
    assert cond
    fresh, trained = network.eval(), {n for n, p in network.named_parameters() if p.requires_grad}
    plain = {n for n in trained if ".lora_" not in n}
    assert {n.replace(".base_layer", "") for n in plain} == {"conditions.embedders.digit.weight"}
    with torch.no_grad():
        torch.testing.assert_close(
            velocity(fresh, generator), velocity(generator.network, generator), rtol=0, atol=1e-6
        )
        rng = torch.Generator().manual_seed(1)
        for p in fresh.parameters():
            if p.requires_grad:
                p.add_(0.05 * torch.randn(p.shape, generator=rng))
        changed = velocity(fresh, generator)
        assert float((changed - velocity(generator.network, generator)).abs().max()) > 1e-2
        from flowgen.runs.adapted import merged

        generator.network.load_state_dict(merged(fresh))
        torch.testing.assert_close(velocity(generator.network, generator), changed, rtol=0, atol=1e-5)


def velocity(network, generator):
    from flowgen.media.conditions import encode_conditions

    rng = torch.Generator().manual_seed(0)
    cond = encode_conditions(generator.conditioners, [{"digit": "8"}, {"digit": "9", "direction": "left"}])
    return network(torch.randn(2, 8, 16, 16, 1, generator=rng), torch.tensor([0.3, 0.6]), cond)


def flowgen(*args):
    done = CliRunner().invoke(cli, [str(a) for a in args], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def test_an_adapter_is_sampled_merged_and_told_from_its_base(base, tmp_path):
    (tmp_path / "lora.yaml").write_text(yaml.safe_dump(config(base, tmp_path / "run")))
    flowgen("train", tmp_path / "lora.yaml", "--quiet")
    flowgen("export", tmp_path / "run", "-o", tmp_path / "whole", "--merge")
    asked = [{"digit": "8"}, {"digit": "9"}]
    adapted = Generator.load(tmp_path / "run").sample(asked)
    shutil.rmtree(tmp_path / "run")  # the merged one needs it no more
    whole = Generator.load(tmp_path / "whole").sample(asked)
    plain = Generator.load(base).sample(asked)
    for one, other, third in zip(adapted, whole, plain, strict=True):
        assert int((one.data.int() - other.data.int()).abs().max()) <= 1
        assert int((one.data.int() - third.data.int()).abs().max()) > 1


# A base in few bits


def bytes_by_precision(base, run):
    from flowgen.nn.quantised import bytes_of

    return {p: bytes_of(network_of(config(base, run, network={"precision": p}))) for p in ("float32", "int8", "int4")}


@pytest.mark.parametrize(("precision", "worst"), [("bfloat16", 1e-2), ("int8", 3e-2), ("int4", 0.3)])
@pytest.mark.parametrize("dora", [False, True])
def test_a_quantised_base_is_near_its_base_and_the_trained_parts_are_whole(base, tmp_path, precision, worst, dora):
    generator = Generator.load(base)
    network = network_of(config(base, tmp_path / "run", network={"precision": precision, "dora": dora})).eval()
    with torch.no_grad():
        true, made = velocity(generator.network, generator), velocity(network, generator)
    assert 0 < float((made - true).std() / true.std()) < worst
    trained = {n for n, p in network.named_parameters() if p.requires_grad and ".lora_" not in n}
    assert trained == {"conditions.embedders.digit.weight"}
    assert not [n for n in network.state_dict() if "quantised" in n or "scale" in n]


def test_fewer_bits_take_fewer_bytes(base, tmp_path):
    sizes = bytes_by_precision(base, tmp_path / "run")
    assert sizes["float32"] > 2 * sizes["int8"] > 2 * sizes["int4"]


@pytest.mark.parametrize("precision", ["bfloat16", "int8", "int4"])
def test_a_run_on_a_quantised_base_tells_its_error_and_merges_into_float32(base, tmp_path, monkeypatch, precision):
    (tmp_path / "lora.yaml").write_text(
        yaml.safe_dump(config(base, tmp_path / "run", network={"precision": precision}))
    )
    told = f"{precision}: output off by"
    assert told in flowgen("train", tmp_path / "lora.yaml", "--quiet")
    flowgen("export", tmp_path / "run", "-o", tmp_path / "out")
    with monkeypatch.context() as patch:  # sampling prints what training measured
        patch.setattr("flowgen.runs.base_error.error_of_base", None)
        for folder in (tmp_path / "run", tmp_path / "out"):
            assert told in flowgen("sample", folder, "-c", "digit=8", "-o", tmp_path / f"{folder.name}.gif")
    flowgen("export", tmp_path / "run", "-o", tmp_path / "whole", "--merge")
    assert told not in flowgen("sample", tmp_path / "whole", "-c", "digit=8", "-o", tmp_path / "whole.gif")
    from flowgen.runs.adapted import merged
    from flowgen.runs.base_error import error_of_base

    loaded = Generator.load(tmp_path / "run")
    with pytest.raises(UsageError, match="precision: float32"):
        merged(loaded.network)
    error = error_of_base(loaded.experiment, loaded.network, torch.device("cpu"))
    off = float(str(error).split(" off by ")[1].split(" %")[0]) / 100
    with torch.no_grad():
        true, made = velocity_of(Generator.load(tmp_path / "whole")), velocity_of(loaded)
    assert off / 3 < float((made - true).std() / true.std()) < 3 * off


def test_a_base_that_does_not_fit_in_float32_is_said_and_trained_on(base, tmp_path, monkeypatch):
    from flowgen.nn.quantised import QuantisedLinear
    from flowgen.runs import base_error

    output = base_error._output

    def of_a_small_device(network, *rest):
        if not any(isinstance(m, QuantisedLinear) for m in network.modules()):
            raise torch.OutOfMemoryError
        return output(network, *rest)

    monkeypatch.setattr(base_error, "_output", of_a_small_device)
    values = config(base, tmp_path / "run", network={"precision": "int8"}, steps=1)
    (tmp_path / "lora.yaml").write_text(yaml.safe_dump(values))
    told = "int8: error not measured: the base does not fit in float32 on cpu; "
    assert told in flowgen("train", tmp_path / "lora.yaml", "--quiet")
    assert told in flowgen("sample", tmp_path / "run", "-c", "digit=8", "-o", tmp_path / "a.gif")


@pytest.mark.parametrize("options", [{}, {"precision": "int8"}, {"dora": True}])
def test_a_run_with_swapped_blocks_is_the_run_without(base, tmp_path, options):
    for name in ("plain", "swapped"):
        network = {**options, "swap_blocks": name == "swapped"}
        train = {"validation": {"every": 3}, "activation_checkpointing": not options}
        values = config(base, tmp_path / name, network=network, **train)
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(values))
        said = flowgen("train", tmp_path / f"{name}.yaml", "--quiet")
        flowgen("sample", tmp_path / name, "-c", "digit=8", "-o", tmp_path / f"{name}.npy.gif")
    assert "parameters, " in said
    for which in ("network", "ema"):
        for name, value in weights(tmp_path / "swapped", which).items():
            assert torch.equal(value, weights(tmp_path / "plain", which)[name])
    one, other = (read_log(tmp_path / name) for name in ("plain", "swapped"))
    for ours, theirs in zip(one, other, strict=True):
        assert {k: v for k, v in ours.items() if "loss" in k} == {k: v for k, v in theirs.items() if "loss" in k}
    one, other = (Generator.load(tmp_path / name).sample([{"digit": "9"}]) for name in ("plain", "swapped"))
    assert torch.equal(one[0].data, other[0].data)
    flowgen("export", tmp_path / "swapped", "-o", tmp_path / "whole", "--merge")


def test_all_parameters_are_counted_where_blocks_are_swapped(base, tmp_path):
    from flowgen.nn.quantised import bytes_of
    from flowgen.nn.swapping import BlockSwap
    from flowgen.runs.adapted import parameters_of

    for precision in ("float32", "int8"):
        plain, swapped = (
            network_of(config(base, tmp_path / "run", network={"precision": precision, "swap_blocks": each}))
            for each in (False, True)
        )
        swap = next(m for m in swapped.modules() if isinstance(m, BlockSwap))
        assert parameters_of(plain) == parameters_of(swapped)
        assert bytes_of(plain) == bytes_of(swapped) + sum(swap.sizes)


@pytest.mark.parametrize(
    ("stage", "deepspeed", "train", "word"),
    [
        (3, {}, {}, "stage=3"),
        (1, {"bf16": {"enabled": True}}, {}, r"network\.precision=bfloat16"),
        (0, {}, {"compile": "eager"}, "train.compile"),
    ],
)
def test_what_does_not_go_with_swapped_blocks_is_refused(base, tmp_path, stage, deepspeed, train, word):
    from flowgen.training.plan import plan

    values = config(base, tmp_path / "run", stage, {"swap_blocks": True}, **train)
    values["deepspeed"] |= deepspeed
    with pytest.raises(UsageError, match=f"network.swap_blocks does not go with .*{word}"):
        plan(resolve(Document(values)).config, 1)


def test_a_network_without_repeated_blocks_cannot_be_swapped(tiny, tmp_path):
    network = {"type": "lora", "network": "mlp", "targets": ["linear"], "swap_blocks": True}
    with pytest.raises(UsageError, match="works on repeated blocks, and MLP declares none"):
        network_of(tiny(tmp_path / "run", network=network))


def test_an_adapter_keeps_the_statistics_of_the_encoder_of_its_base(fit, tiny, tmp_path, capsys):
    from flowgen.runs.run import Run
    from flowgen.training.caching import write_cache
    from flowgen.weights import read_tensors

    fit(tiny(tmp_path / "base", steps=1))
    network = {"type": "lora", "run": str(tmp_path / "base"), "rank": 2, "targets": ["linear"]}
    values = tiny(tmp_path / "run", steps=1, network=network, data={"type": "tiny", "clips": 24})
    plain = tiny(tmp_path / "plain", steps=1, data=values["data"])
    fit(plain)
    fit(values)
    assert f"encoder  statistics of {tmp_path / 'base'}" in capsys.readouterr().err
    write_cache(resolve(Document(values)).config, tmp_path / "cache", None, 1, print)
    own, base, other, cached = (
        read_tensors(tmp_path / name / "encoder.safetensors") for name in ("run", "base", "plain", "cache")
    )
    for name, value in base.items():
        assert torch.equal(own[name], value)
        assert torch.equal(cached[name], value)
    assert any(not torch.equal(other[name], value) for name, value in base.items())
    identities = [Run(tmp_path / name).newest_checkpoint().manifest["encoder"] for name in ("run", "base", "plain")]
    assert identities[0] == identities[1] != identities[2]


def test_a_resumed_run_on_a_quantised_base_is_exact(base, tmp_path):
    for name in ("whole", "half"):
        values = config(base, tmp_path / name, network={"precision": "int8"})
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(values))
        flowgen("train", tmp_path / f"{name}.yaml", "--quiet")
    shutil.rmtree(tmp_path / f"half/checkpoints/step-{STEPS:08d}")
    flowgen("train", tmp_path / "half.yaml", "--quiet", "--resume")
    for which in ("network", "ema"):
        for name, value in weights(tmp_path / "half", which).items():
            assert torch.equal(value, weights(tmp_path / "whole", which)[name])


@pytest.mark.slow
def test_a_quantised_base_trains_alike_on_two_ranks_under_stage_3(base, tmp_path):
    jobs = [{"train": config(base, tmp_path / f"{s}", s, {"precision": "int8"})} for s in (0, 3)]
    launch(tmp_path, 2, jobs)
    torch.testing.assert_close(losses(tmp_path / "0"), losses(tmp_path / "3"), rtol=1e-5, atol=0)


@pytest.mark.slow
def test_swapped_blocks_train_alike_on_two_ranks(base, tmp_path):
    jobs = [{"train": config(base, tmp_path / f"{s}", s, {"swap_blocks": bool(s)})} for s in (0, 1, 2)]
    launch(tmp_path, 2, jobs)
    for stage in (1, 2):
        torch.testing.assert_close(losses(tmp_path / "0"), losses(tmp_path / f"{stage}"), rtol=1e-5, atol=0)


def test_another_base_is_refused(base, tmp_path):
    (tmp_path / "lora.yaml").write_text(yaml.safe_dump(config(base, tmp_path / "run")))
    flowgen("train", tmp_path / "lora.yaml", "--quiet")
    other = tmp_path / "other"
    shutil.copytree(base, other)
    for path in other.rglob("*.safetensors"):
        tensors = load_file(path)
        from flowgen.weights import write_tensors

        write_tensors({k: v * 1.01 for k, v in tensors.items()}, path)
    for manifest in other.rglob("manifest.json"):
        facts = json.loads(manifest.read_text())
        manifest.write_text(json.dumps({**facts, "files": listed(manifest.parent)}))
    text = (tmp_path / "run/config.yaml").read_text()
    (tmp_path / "run/config.yaml").write_text(text.replace(str(base), str(other)))
    with pytest.raises(FlowgenError, match="other weights"):
        Generator.load(tmp_path / "run")


@pytest.mark.parametrize(
    ("network", "word"),
    [
        ({"targets": ["nothing.*"]}, "nothing"),
        ({"whole": ["nothing.*"]}, "nothing"),
        ({"run": None}, "base"),
        ({"network": {"type": "transformer"}}, "not both"),
    ],
)
def test_a_base_that_does_not_fit_is_one_sentence(base, tmp_path, network, word):
    with pytest.raises(UsageError, match=word):
        network_of(config(base, tmp_path / "run", network=network))


def test_conditions_are_those_of_the_base(base, tmp_path):
    values = config(base, tmp_path / "run")
    values["conditions"] = {"digit": {"names": ["8", "9"]}, "direction": {}, "caption": {}}
    with pytest.raises(UsageError, match="digit"):
        network_of(values)


# Files, and several at once


@pytest.fixture(scope="module")
def adapters(base, tmp_path_factory):
    """Two adapters that train corrections alone, of random values."""
    from flowgen.weights import write_tensors

    folder = tmp_path_factory.mktemp("two")
    found = []
    for i, options in enumerate(({"rank": 4, "alpha": 6.0}, {"rank": 2, "targets": ["*.qkv", "*.mlp.*"]})):
        values = config(base, folder / f"a{i}", network={**options, "whole": []}, steps=1)
        (folder / "lora.yaml").write_text(yaml.safe_dump(values))
        flowgen("train", folder / "lora.yaml", "--quiet")
        rng = torch.Generator().manual_seed(i)
        for path in (folder / f"a{i}").rglob("ema.safetensors"):
            tensors = load_file(path)
            drawn = {k: 0.2 * torch.randn(v.shape, generator=rng) if ".lora_" in k else v for k, v in tensors.items()}
            write_tensors(drawn, path)
            manifest = path.with_name("manifest.json")
            facts = json.loads(manifest.read_text())
            manifest.write_text(json.dumps({**facts, "files": listed(path.parent)}))
        found.append(folder / f"a{i}")
    return found


def out(base, *attached):
    return velocity_of(Generator.load(base, adapters=[str(a) for a in attached]))


def velocity_of(generator, t=0.5):
    from flowgen.media.conditions import encode_conditions

    cond = encode_conditions(generator.conditioners, [{"digit": "8"}])
    x = torch.randn(1, 8, 16, 16, 1, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return generator.network(x, torch.tensor([t]), cond)


def test_an_attached_adapter_is_the_adapter(base, adapters):
    for one in adapters:
        own = velocity_of(Generator.load(one))
        torch.testing.assert_close(out(base, one), own, rtol=0, atol=1e-5)
        assert float((own - out(base)).abs().max()) > 1e-2
        torch.testing.assert_close(out(base, f"{one}:0"), out(base), rtol=0, atol=1e-6)


def test_weights_scale_what_is_added_and_adapters_add_up(base, adapters):
    """On the first layer that both correct, against the matrices themselves."""
    a, b = adapters
    generator = Generator.load(base, adapters=[f"{a}:0.5", f"{b}:-2"])
    velocity_of(generator)
    layer = generator.network.blocks[0].attention.qkv
    expected = layer.base_layer.weight.clone()
    for folder, weight, scale in ((a, 0.5, 6.0 / 4), (b, -2.0, 1.0)):
        tensors = load_file(next(folder.rglob("ema.safetensors")))
        name = "blocks.0.attention.qkv"
        expected += weight * scale * tensors[f"{name}.lora_B.default.weight"] @ tensors[f"{name}.lora_A.default.weight"]
    x = torch.randn(3, 32)
    torch.testing.assert_close(
        layer(x), torch.nn.functional.linear(x, expected, layer.base_layer.bias), rtol=1e-4, atol=1e-5
    )


def test_an_interval_is_where_it_is_in_force(base, adapters):
    generator = Generator.load(base, adapters=[f"{adapters[0]}:1@0.0-0.4"])
    whole, plain = Generator.load(base, adapters=[str(adapters[0])]), Generator.load(base)
    torch.testing.assert_close(velocity_of(generator, 0.3), velocity_of(whole, 0.3), rtol=0, atol=0)
    torch.testing.assert_close(velocity_of(generator, 0.6), velocity_of(plain, 0.6), rtol=0, atol=1e-6)
    torch.testing.assert_close(velocity_of(generator, 0.3), velocity_of(whole, 0.3), rtol=0, atol=0)  # and back


@pytest.mark.parametrize("layout", ["peft", "diffusers", "kohya", "comfyui"])
def test_files_of_other_programs_go_there_and_back(base, adapters, tmp_path, layout):
    for i, one in enumerate(adapters):
        folder = tmp_path / str(i)
        folder.mkdir()
        file = folder / "adapter.safetensors"
        flowgen("export", one, "-o", file, "--layout", layout)
        if layout == "diffusers" and i == 0:
            continue  # it holds no scale, which is not 1 here
        torch.testing.assert_close(out(base, file), velocity_of(Generator.load(one)), rtol=0, atol=1e-5)
        from flowgen.runs.layouts import read_layout, write_layout

        generator, tensors = Generator.load(base), load_file(file)
        linear = [n for n, m in generator.network.named_modules() if isinstance(m, torch.nn.Linear)]
        read = read_layout(tensors, linear)
        assert read.layout == layout
        again = write_layout(read.layers, layout)
        assert again.keys() == tensors.keys()
        assert all(torch.equal(again[k], tensors[k]) for k in tensors)


def test_a_file_of_peft_is_read_by_peft(base, adapters, tmp_path):
    from peft import LoraConfig, inject_adapter_in_model, set_peft_model_state_dict

    file = tmp_path / "adapter_model.safetensors"
    flowgen("export", adapters[0], "-o", file, "--layout", "peft")
    facts = json.loads((tmp_path / "adapter_config.json").read_text())
    plain = Generator.load(base)
    options = LoraConfig(r=facts["r"], lora_alpha=facts["lora_alpha"], target_modules=facts["target_modules"])
    inject_adapter_in_model(options, plain.network, "default")
    tensors = {k.removeprefix("base_model.model."): v for k, v in load_file(file).items()}
    result = set_peft_model_state_dict(plain.network, tensors)
    assert not result.unexpected_keys
    torch.testing.assert_close(velocity_of(plain), velocity_of(Generator.load(adapters[0])), rtol=0, atol=1e-5)


def test_adapters_that_do_not_fit_are_refused_by_name(base, adapters, tmp_path):
    from flowgen.weights import write_tensors

    flowgen("export", adapters[0], "-o", tmp_path / "a.safetensors", "--layout", "kohya")
    tensors = load_file(tmp_path / "a.safetensors")
    write_tensors({**tensors, "lora_te_text_model.lora_down.weight": torch.zeros(2, 2)}, tmp_path / "b.safetensors")
    write_tensors(dict(list(tensors.items())[:1]), tmp_path / "c.safetensors")
    cases = [
        (tmp_path / "b.safetensors", "lora_te_text_model"),
        (tmp_path / "c.safetensors", "lacks"),
        (base, "no adapter"),
        (tmp_path / "none.safetensors", "missing"),
        (f"{adapters[0]}:0.5@0.9-0.1", "interval"),
    ]
    for given, word in cases:
        with pytest.raises(FlowgenError, match=word):
            Generator.load(base, adapters=[str(given)])


def test_the_command_line_names_adapters_in_the_file(base, adapters, tmp_path):
    flowgen("sample", base, "--adapter", f"{adapters[0]}:0.8@0.0-0.7", "-c", "digit=8", "-o", tmp_path / "a.gif")
    flowgen("sample", base, "-c", "digit=8", "-o", tmp_path / "b.gif")
    content = (tmp_path / "a.gif").read_bytes()
    assert b"0.8@0-0.7" in content
    assert content != (tmp_path / "b.gif").read_bytes()

"""All that a run of 50 M parameters holds, for real, beside `flowgen plan`; and one of 1.3 B on the meta device.

With UPDATE_DOCS=1 in the environment, the table of docs/training.md is written from what is measured here.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from flowgen.config import Document, resolve
from flowgen.core.random import Randomness
from flowgen.core.tree import tree_map
from flowgen.nn.swapping import BlockSwap
from flowgen.runs.experiment import Experiment
from flowgen.runs.generator import Generator
from flowgen.training.deepspeed_config import deepspeed_config
from flowgen.training.ema import Average, ramped
from flowgen.training.engine import Objective, start_engine, start_ranks
from flowgen.training.internals import master_shards, optimizer_states
from flowgen.training.plan import plan
from flowgen.training.prepare import sample_clips
from flowgen.training.watch import batch_tensors
from tests.training.test_memory import DOCS, allocated

pytestmark = pytest.mark.slow

MODALITY = {"type": "tiny", "channels": 8, "length": 64}
OF_50_M = {"type": "transformer", "width": 512, "depth": 15, "heads": 8}
OF_1300_M = {"type": "transformer", "width": 2048, "depth": 25, "heads": 16}
BF16 = {"bf16": {"enabled": True}, "zero_optimization": {"stage": 1}}
CASES = {  # adapter's precision or None, deepspeed, train
    "all of 50 M, float32": (None, {}, {}),
    "all of 50 M, autocast to bfloat16": (None, {}, {"precision": "bfloat16"}),
    "all of 50 M, weights in bfloat16, ZeRO 1": (None, BF16, {}),
    "adapter on 50 M in float32": ("float32", {}, {}),
    "adapter on 50 M in int8": ("int8", {}, {}),
    "adapter on 50 M in int4, autocast to bfloat16": ("int4", {}, {"precision": "bfloat16"}),
    "adapter on 50 M in int8, recomputed": ("int8", {}, {"activation_checkpointing": True}),
    "adapter on 50 M in float32, blocks swapped": ("float32 swapped", {}, {}),
}
HELD = ("weights", "frozen", "masters", "moments", "averages")


def values_of(tiny, run, network, precision, deepspeed, train):
    if precision is not None:
        pytest.importorskip("peft")
        precision, _, swapped = precision.partition(" ")
        network = {"type": "lora", "network": network, "rank": 16, "precision": precision, "swap_blocks": bool(swapped)}
    return tiny(run, deepspeed, batch_size=8, modality=MODALITY, network=network, **train)


def config_of(*given):
    return resolve(Document(values_of(*given))).config


def storages(tensors, apart=()):
    """Bytes of the storages of tensors, each once, and none that is one of `apart`."""
    known = {t.untyped_storage()._cdata for t in apart}
    found = {t.untyped_storage()._cdata: t.untyped_storage().nbytes() for t in tensors}
    return sum(size for at, size in found.items() if at not in known)


def resident(swaps):
    """A list of one number: the most bytes that swapped blocks have on the device at a time, from now on."""
    most = [0]

    def watched(fetch, parts):
        def inner(device):
            fetch(device)
            most[0] = max(most[0], storages(t for part in parts for t in part._there))

        return inner

    for swap in swaps:
        for part in swap._parts:
            part.fetch = watched(part.fetch, swap._parts)
    return most


def held_and_peak(config):
    """Bytes that module, engine, optimizer and average hold after a step, by column of the plan; and the peak of a pass."""
    from flowgen.training.blocks import prepare_blocks

    ranks = start_ranks()
    experiment = Experiment(config).complete()
    clips = sample_clips(experiment.dataset, 0, config.train.batch_size)
    experiment.encoder.fit(clips)
    network = experiment.network.train()
    prepare_blocks(network, recompute=config.train.activation_checkpointing, backend=None)
    x1, cond = batch_tensors(Generator(experiment, network, torch.device("cpu")), clips)
    engine = start_engine(
        Objective(network.train(), experiment.loss), config.train.optimizer, deepspeed_config(config, 1)
    )
    average = Average(engine, ranks, ramped(0.9))

    swaps = [m for m in network.modules() if isinstance(m, BlockSwap)]
    most = resident(swaps)

    def step():
        given = [tree_map(lambda v: v.clone(), v) for v in (x1, cond)]
        engine.backward(engine(*given, Randomness(0, 0, len(clips)), None).total.mean())

    peak = allocated(step) if engine.zero_optimization_stage() == 0 else None  # else gradients are among it
    if peak is None:
        step()
    for swap in swaps:  # at the peak two blocks are there; of what was there before, the profiler does not see the end
        peak -= swap.most_resident
    engine.step()
    average.update(0)
    trained = [p for p in engine.module.parameters() if p.requires_grad]
    still = [*(p for p in engine.module.parameters() if not p.requires_grad), *engine.module.buffers()]
    moments = [t for s in optimizer_states(engine) for k, t in s.items() if k.startswith("exp_avg")]
    held = {
        "weights": storages(trained),
        "frozen": storages(still, trained) + most[0],
        "masters": storages(master_shards(engine), trained),
        "moments": storages(moments),
        "averages": storages(average.shards),
    }
    engine.destroy()
    return held, peak


def in_a_process_of_its_own(values, environment):
    """`held_and_peak`, where nothing that other tests left in memory is freed or used again meanwhile."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.training.test_memory_of_a_run", json.dumps(values)],
        cwd=Path(__file__).parents[2],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout.splitlines()[-1])


def mb(size):
    return "" if size is None else f"{size / 1e6:,.1f}"


@pytest.mark.parametrize("name", CASES)
def test_what_a_run_of_50_m_holds_is_planned(tiny, tiny_plugin, tmp_path, name):
    precision, deepspeed, train = CASES[name]
    values = values_of(tiny, tmp_path / "run", OF_50_M, precision, deepspeed, train)
    config = resolve(Document(values)).config
    planned = plan(config, 1).stages[deepspeed.get("zero_optimization", {}).get("stage", 0)]
    held, peak = in_a_process_of_its_own(values, tiny_plugin)
    told = {part: getattr(planned, part) for part in HELD}
    cells = [f"{mb(held[part])} / {mb(told[part])}" for part in HELD]
    cells.append("not measured" if peak is None else f"{mb(peak)} / {mb(planned.activations + planned.copies)}")
    write_row(f"| {name} | {' | '.join(cells)} |")
    for part, size in held.items():
        assert told[part] == pytest.approx(size, rel=0.05, abs=1000), part
    if peak is not None:
        assert planned.activations + planned.copies == pytest.approx(peak, rel=0.05)


def write_row(row):
    """Put the row of a case in the table of the docs, or see that there is one."""
    before, start, rest = DOCS.read_text().partition("<!-- memory of a run -->\n")
    table, end, after = rest.partition("<!-- end of memory of a run -->")
    assert start
    assert end
    rows = {line.split("|")[1].strip(): line for line in table.splitlines()[2:]}
    name = row.split("|")[1].strip()
    if not os.environ.get("UPDATE_DOCS"):
        assert name in rows
        return
    rows[name] = row
    heading = [f"| run | {' | '.join(HELD)} | activations and copies |", "|---" * (len(HELD) + 2) + "|"]
    lines = [*heading, *(rows[name] for name in CASES if name in rows)]
    DOCS.write_text(before + start + "\n".join(lines) + "\n" + end + after)


@pytest.mark.parametrize("precision", [None, "int8"])
def test_a_network_of_1300_m_on_the_meta_device_is_planned(tiny, tmp_path, precision):
    config = config_of(tiny, tmp_path / "run", OF_1300_M, precision, {}, {})
    with torch.device("meta"):
        network = Experiment(config).complete().network
    trained = {name: p for name, p in network.named_parameters() if p.requires_grad}
    rest = {n: t for n, t in [*network.named_parameters(), *network.named_buffers()] if n not in trained}
    count, size = sum(p.numel() for p in trained.values()), sum(t.numel() * t.element_size() for t in rest.values())
    planned = plan(config, 1).stages[0]
    assert (planned.weights, planned.moments, planned.averages) == (4 * count, 8 * count, 4 * count)
    assert planned.frozen == pytest.approx(size, rel=0.05, abs=1000)
    if precision is None:
        assert 1.2e9 < count < 1.4e9
    else:
        assert count < 0.03 * 1.3e9
        assert planned.frozen < 1.5e9  # about a byte a weight


if __name__ == "__main__":
    print(json.dumps(held_and_peak(resolve(Document(json.loads(sys.argv[1]))).config)))

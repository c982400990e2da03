"""The activations that `flowgen plan` tells, beside what the CPU's allocator gives out in a real step.

With UPDATE_DOCS=1 in the environment, the table of docs/training.md is written from what is measured here.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from flowgen.config import Document, load, resolve
from flowgen.core.interfaces import MASK
from flowgen.core.random import Randomness
from flowgen.core.tree import tree_map
from flowgen.errors import FlowgenError
from flowgen.media.regions import draw_known
from flowgen.nn.quantised import bytes_of
from flowgen.nn.swapping import BlockSwap
from flowgen.runs.adapted import parameters_of
from flowgen.runs.experiment import Experiment
from flowgen.runs.generator import Generator
from flowgen.training.blocks import prepare_blocks
from flowgen.training.engine import Objective
from flowgen.training.loop import Trainer
from flowgen.training.plan import plan
from flowgen.training.prepare import sample_clips
from flowgen.training.watch import batch_tensors

DATA = Path(__file__).parents[2].parent / "shared/data"
DOCS = Path(__file__).parents[2] / "docs" / "training.md"
RECIPES = {
    "points/checkerboard": None,
    "demo/audio": None,
    "demo/video": None,
    "audio/notes": None,
    "audio/fsdd": ("data.folder", DATA / "fsdd"),
    "video/moving-digits": None,
    "video/weizmann": ("data.manifest", DATA / "weizmann64/manifest.jsonl"),
}
SEQUENCES = {"modality": {"type": "tiny", "channels": 8, "length": 48}, "network": {"type": "transformer", "width": 64}}


def allocated(step):
    """Peak of the bytes that the allocator has given out and not taken back, over a call of `step`."""
    step()  # tables that stay are made once
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        step()
    events = [e for e in profiled.profiler.kineto_results.events() if e.name() == "[memory]"]
    now = peak = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        now += event.nbytes()
        peak = max(peak, now)
    return peak


def measured(config):
    """The peak of one micro-batch, forward and backward, of real clips; gradients are there before."""
    experiment = Experiment(config).complete()
    dataset, encoder, loss, network = experiment.dataset, experiment.encoder, experiment.loss, experiment.network
    clips = sample_clips(dataset, 0, config.train.batch_size)
    encoder.fit(clips[:8])
    generator = Generator(experiment, network, torch.device("cpu"))
    prepare_blocks(network, recompute=config.train.activation_checkpointing, backend=None)
    objective = Objective(network.train().requires_grad_(True), loss)
    x1, cond = batch_tensors(generator, clips)
    random = Randomness(0, 0, len(clips))
    known = draw_known(experiment.regions, encoder.spec, x1, cond.get(MASK), random)

    def step():
        given = [tree_map(lambda v: v if v is None else v.clone(), v) for v in (x1, cond, known)]
        with torch.autocast("cpu", torch.bfloat16, enabled=config.train.precision == "bfloat16"):
            loss = objective(given[0], given[1], random, given[2]).total.mean()
        loss.backward()

    return allocated(step)


@pytest.mark.parametrize("options", [{}, {"precision": "bfloat16"}, {"activation_checkpointing": True}])
def test_the_peak_of_a_step_is_told(tiny, tmp_path, options):
    config = resolve(Document(tiny(tmp_path / "run", batch_size=32, **SEQUENCES, **options))).config
    told = plan(config, 1).stages[0]
    assert told.activations + told.copies == pytest.approx(measured(config), rel=0.15)


def test_copies_of_weights_are_those_that_autocast_makes(tiny, tmp_path):
    """A matrix in bfloat16 is half of one in float32, whatever the size of the batch; without autocast there is none."""

    def told(**options):
        config = resolve(Document(tiny(tmp_path / "run", **SEQUENCES, **options))).config
        return plan(config, 1).stages[0].copies

    network = Experiment(resolve(Document(tiny(tmp_path / "run", **SEQUENCES))).config).complete().network
    cast = sum(p.numel() for m in network.modules() if isinstance(m, torch.nn.Linear) for p in m.parameters())
    assert told() == 0
    assert told(precision="bfloat16", batch_size=8) == told(precision="bfloat16", batch_size=64)
    assert 2 * cast * 0.9 < told(precision="bfloat16") <= 2 * cast
    assert told(precision="bfloat16", activation_checkpointing=True) < 0.75 * 2 * cast


def test_an_engine_at_stage_3_changes_no_plan(fit, tiny, tmp_path):
    """It puts a linear layer of its own in torch's place, in the whole process, which keeps no cast weights."""
    config = resolve(Document(tiny(tmp_path / "run", precision="bfloat16", **SEQUENCES))).config
    before = plan(config, 1)
    fit(tiny(tmp_path / "other", {"zero_optimization": {"stage": 3}}, steps=1))
    assert plan(config, 1) == before
    assert before.stages[2].copies > before.stages[3].copies == 0


@pytest.mark.parametrize("options", [{}, {"stage3_max_reuse_distance": 0, "stage3_max_live_parameters": 0}])
def test_what_stage_3_has_gathered_is_told(fit, tiny, tmp_path, monkeypatch, options):
    whole = [0]

    def watched(self, *arguments):
        parameters = list(self.engine.module.parameters())

        def count(*_):
            live = sum(p.numel() * p.element_size() for p in parameters if p.numel() == p.ds_numel)
            whole[0] = max(whole[0], live)

        for module in self.engine.module.modules():
            module.register_forward_pre_hook(count)
        return fit_of(self, *arguments)

    fit_of = Trainer.fit
    monkeypatch.setattr(Trainer, "fit", watched)
    options = {**options, "stage3_param_persistence_threshold": 0, "stage3_prefetch_bucket_size": 0}
    values = tiny(tmp_path / "run", {"zero_optimization": {"stage": 3, **options}}, steps=4, **SEQUENCES)
    fit(values)
    config = resolve(Document(values)).config
    told = plan(config, 1)
    if "stage3_max_live_parameters" in options:  # then a module at a time, which the plan does not divide into
        assert 0 < told.stages[3].gathered <= whole[0] < 4 * told.parameters / 2
    else:
        assert whole[0] == told.stages[3].gathered == 4 * told.parameters


def test_recomputing_and_short_micro_batches_need_less(tiny, tmp_path):
    def told(**options):
        config = resolve(Document(tiny(tmp_path / "run", batch_size=32, **SEQUENCES, **options))).config
        return plan(config, 1).stages[0].activations

    assert told(activation_checkpointing=True) < 0.7 * told()
    assert told(micro_batch_size=16) == pytest.approx(told() / 2, rel=0.1)


def test_ranks_that_share_a_clip_need_their_part(tiny, tmp_path):
    def told(ranks, **options):
        config = resolve(Document(tiny(tmp_path / "run", batch_size=32, **SEQUENCES, **options))).config
        return plan(config, ranks).stages[0].activations

    assert 0.4 < told(2, sequence_parallel=2) / told(1) < 0.6


def test_weights_in_bfloat16_halve_what_is_kept(tiny, tmp_path):
    half = {"bf16": {"enabled": True}, "zero_optimization": {"stage": 1}}
    full, low = (resolve(Document(tiny(tmp_path / "run", d, batch_size=32, **SEQUENCES))).config for d in ({}, half))
    assert plan(low, 1).stages[1].activations < 0.9 * plan(full, 1).stages[1].activations


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "int8", "int4"])
@pytest.mark.parametrize(
    ("width", "depth", "device"), [(2048, 25, "meta"), (64, 2, "cpu")], ids=["1.3 B on the meta device", "small"]
)
def test_frozen_and_quantised_weights_are_told(tiny, tmp_path, precision, width, depth, device):
    """Beside the bytes of the parameters and buffers of a network that was built."""
    pytest.importorskip("peft")
    base = {"type": "transformer", "width": width, "depth": depth, "heads": 16}
    network = {"type": "lora", "network": base, "rank": 16, "precision": precision}
    config = resolve(Document(tiny(tmp_path / "run", batch_size=2, **{**SEQUENCES, "network": network}))).config
    with torch.device(device):
        built = Experiment(config).complete().network
    trained = sum(p.nbytes for p in built.parameters() if p.requires_grad)
    made = plan(config, 1)
    assert made.parameters * 4 == trained
    for stage in made.stages.values():
        assert stage.weights == pytest.approx(trained, rel=0.01)
        assert stage.frozen + trained == pytest.approx(bytes_of(built), rel=0.05)
    assert plan(config, 2).stages[3].frozen < made.stages[3].frozen
    if device == "meta":
        assert 1.2e9 < parameters_of(built)[1] < 1.4e9


@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_of_swapped_blocks_two_are_told(tiny, tmp_path, precision):
    """Beside the bytes of a network that was built, and of its blocks."""
    pytest.importorskip("peft")
    base = {"type": "transformer", "width": 64, "depth": 5, "heads": 4}

    def told(swap):
        network = {"type": "lora", "network": base, "precision": precision, "swap_blocks": swap}
        config = resolve(Document(tiny(tmp_path / "run", batch_size=2, **{**SEQUENCES, "network": network}))).config
        return plan(config, 1), Experiment(config).complete().network

    (whole, plain), (swapped, built) = told(False), told(True)
    block = sum(p.nbytes for n, p in plain.named_parameters() if n.startswith("blocks.0.") and not p.requires_grad)
    block += sum(b.nbytes for n, b in plain.named_buffers() if n.startswith("blocks.0."))
    swap = next(m for m in built.modules() if isinstance(m, BlockSwap))
    assert swap.sizes == [block] * 5
    assert sorted(swapped.stages) == [0, 1, 2]
    for stage, made in swapped.stages.items():
        assert made.frozen == whole.stages[stage].frozen - 3 * block
        assert made.activations == whole.stages[stage].activations
    trained = sum(p.nbytes for p in built.parameters() if p.requires_grad)
    assert swapped.stages[0].frozen == bytes_of(built) - trained + 2 * block


def test_a_network_that_decides_by_values_is_named(tiny, tmp_path, monkeypatch):
    from flowgen.nn import MLP

    def forward(self, x, t, cond):
        return x if x.sum() > 0 else -x

    monkeypatch.setattr(MLP, "forward", forward)
    config = resolve(Document(tiny(tmp_path / "run", network="mlp"))).config
    with pytest.raises(
        FlowgenError, match="network 'mlp' or loss 'flow-matching' decides by the values of its tensors"
    ):
        plan(config, 1)


@pytest.mark.slow
def test_the_peak_of_every_recipe_is_told_and_the_docs_say_so():
    rows = ["| recipe | measured | told by `flowgen plan` | ratio |", "|---|---|---|---|"]
    for name, where in RECIPES.items():
        if where is not None and not where[1].exists():
            continue
        config = load(name, [] if where is None else [f"{where[0]}={where[1]}"]).config
        planned = plan(config, 1).stages[0]
        real, told = measured(config), planned.activations + planned.copies
        assert told == pytest.approx(real, rel=0.15), name
        rows.append(f"| {name} | {real / 1e6:.1f} MB | {told / 1e6:.1f} MB | {told / real:.3f} |")
    text = DOCS.read_text()
    before, start, rest = text.partition("<!-- memory -->\n")
    old, end, after = rest.partition("<!-- end of memory -->")
    assert start
    assert end
    if os.environ.get("UPDATE_DOCS"):
        DOCS.write_text(before + start + "\n".join(rows) + "\n" + end + after)
    else:
        assert {row.split("|")[1] for row in rows} <= {row.split("|")[1] for row in old.splitlines()}

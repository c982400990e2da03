"""Small recipes in every precision, compiled, recomputed and under every ZeRO stage; resumed; no host waits in a step."""

from __future__ import annotations

import math
import warnings
from collections import Counter
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import flowgen
from flowgen.device import accelerator, peak_memory
from flowgen.training.loggers import read_log
from flowgen.training.loop import Trainer
from flowgen.training.machine import precision_gap
from flowgen.training.plan import plan

RECIPES = ["points/checkerboard", "demo/audio", "demo/video", "video/moving-digits", "av/bouncing-sounds"]
FEW = ["points/checkerboard", "demo/video"]
PRECISIONS = {
    "float32": (),
    "bfloat16": ("train.precision=bfloat16",),
    "bfloat16 weights": ("deepspeed={bf16: {enabled: true}, zero_optimization: {stage: 1}}",),
    "float16": ("deepspeed={fp16: {enabled: true, initial_scale_power: 12}, zero_optimization: {stage: 1}}",),
}


def losses(result):
    return [entry["loss"] for entry in read_log(result.folder) if "loss" in entry]


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_trains_and_samples(place, small, fit, recipe, precision):
    if not place.accelerated and recipe not in FEW:
        pytest.skip("on the CPU, this recipe has tests of its own")
    if precision == "float16" and (gap := precision_gap(torch.float16)):
        pytest.skip(gap)
    own = PRECISIONS[precision]
    if any("stage: 1" in o for o in own):
        own = (*own, "train.optimizer={type: adamw, lr: 1.0e-3}")  # muon needs whole matrices
    result = fit(small(recipe, place.steps, *own))
    found = losses(result)
    assert result.finished
    assert len(found) == place.steps
    assert all(math.isfinite(loss) for loss in found)
    made = flowgen.Generator.load(result.folder).sample([{}] * 2)
    assert len(made) == 2


@pytest.mark.parametrize(
    "way",
    ["train.activation_checkpointing=true", *(f"deepspeed.zero_optimization.stage={stage}" for stage in range(4))],
)
def test_ways_of_computing_the_same_step_agree(place, small, fit, way):
    plain = losses(fit(small("demo/video", place.steps, run="plain")))
    other = losses(fit(small("demo/video", place.steps, way, run="other")))
    assert other == pytest.approx(plain, rel=1e-3 if place.accelerated else 1e-5)


def test_compiled_blocks_train_alike(place, small, fit):
    backend = "inductor" if place.accelerated else "aot_eager"
    plain = losses(fit(small("demo/video", place.steps, run="plain")))
    other = losses(fit(small("demo/video", place.steps, f"train.compile={backend}", run="other")))
    assert other == pytest.approx(plain, rel=1e-2 if place.accelerated else 1e-5)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_a_resumed_run_is_the_same_bit_for_bit(place, small, fit, deterministic, stage, precision):
    own = (f"deepspeed.zero_optimization.stage={stage}", *PRECISIONS[precision])
    if not place.accelerated and (stage, precision) not in {(0, "float32"), (3, "bfloat16")}:
        pytest.skip("tests/training/test_resume.py does it on the CPU")
    whole = fit(small("demo/video", place.steps, *own, run="whole"))
    fit(small("demo/video", place.steps // 2, *own, run="parts"))
    parts = fit(small("demo/video", place.steps, *own, run="parts"), resume=True)
    assert losses(parts) == losses(whole)
    last = f"checkpoints/step-{place.steps:08d}"
    for path in (whole.folder / last).rglob("*.safetensors"):
        one, other = load_file(path), load_file(parts.folder / last / path.relative_to(whole.folder / last))
        assert all(torch.equal(one[name], other[name]) for name in one), path.name


WAITS = {"demo/video": 1, "demo/audio": 1}
"""Waits of the host in a step at ZeRO 0: the norm of the gradient, which decides whether the step is skipped."""


@pytest.mark.parametrize("recipe", WAITS)
@pytest.mark.parametrize("stage", [0, 2])
def test_the_host_waits_only_where_it_is_stated(place, small, fit, monkeypatch, recipe, stage):
    """Counts torch's warnings of synchronising operations by the file whose line made them, in each step but the first."""
    steps: list[Counter] = []
    step = Trainer._train_step

    def watched(self, *given):
        with warnings.catch_warnings(record=True) as found:
            warnings.simplefilter("always")
            mode("warn")
            try:
                return step(self, *given)
            finally:
                mode("default")
                steps.append(Counter(Path(w.filename) for w in found if "synchronizing" in str(w.message)))

    module = None if accelerator() is None else torch.get_device_module(accelerator())
    mode = getattr(module, "set_sync_debug_mode", lambda _: None)
    monkeypatch.setattr(Trainer, "_train_step", watched)
    fit(small(recipe, place.steps, f"deepspeed.zero_optimization.stage={stage}", "train.log_every=100"))
    assert len(steps) == place.steps
    root = Path(flowgen.__file__).parents[1]  # what DeepSpeed waits for is DeepSpeed's
    for counted in steps[1:]:
        own = {
            path.name: n
            for path, n in counted.items()
            if path.is_relative_to(root) and "site-packages" not in str(path)
        }
        stated = {"loop.py": WAITS[recipe]} if stage == 0 and place.accelerated else {}
        assert own == stated, f"host waits in a step: {dict(counted)}"


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_plan_is_what_the_device_gives_out(place, small, fit, precision):
    """Within 5 %: a network whose activations outweigh what libraries keep for themselves."""
    large = ("network.width=1024", "network.depth=8", "network.heads=16", "train.batch_size=64")
    resolved = small("video/moving-digits", 3, *(large if place.accelerated else ()), *PRECISIONS[precision])
    told = plan(resolved.config, 1).stages[0].total
    if place.accelerated:
        torch.accelerator.empty_cache()
        torch.accelerator.reset_peak_memory_stats()
    fit(resolved)
    held = peak_memory(place.device)
    assert told > 0
    assert held is None or told == pytest.approx(held, rel=0.05)

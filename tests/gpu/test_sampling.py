"""The same samples as on the CPU, and the attention kernels that are chosen."""

from __future__ import annotations

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

import flowgen
from flowgen.core.tree import leaves, tree_map
from flowgen.nn.attention import SelfAttention


@pytest.mark.parametrize("recipe", ["points/checkerboard", "demo/audio", "demo/video", "av/bouncing-sounds"])
def test_samples_are_those_of_the_cpu(place, small, fit, recipe):
    """The same noise carried by the same weights, in float32."""
    run = fit(small(recipe, place.steps)).folder
    ours, theirs = (flowgen.Generator.load(run, device=str(device)) for device in ("cpu", place.device))
    noise = ours.noise(2, 0)
    grid = flowgen.uniform_grid(8)
    made = []
    for generator in (ours, theirs):
        flow = generator.experiment.flow(generator.network)
        null = flowgen.media.conditions.null_conditions(generator.conditioners, 2)
        x0, cond = (tree_map(lambda v: v.to(generator.device), value) for value in (noise, null))  # noqa: B023
        made.append(list(leaves(flowgen.sample(flow, x0, grid, solver="heun", cond=cond))))
    for one, other in zip(*made, strict=True):
        scale = float(one.std())
        assert other.device.type == place.device.type
        assert float((one - other.cpu()).abs().max()) < 1e-3 * scale


KERNELS = {
    # (precision, masked): on the accelerator, on the CPU
    (torch.bfloat16, False): ("flash", "flash"),
    (torch.float16, False): ("flash", "flash"),
    (torch.bfloat16, True): ("efficient", "flash"),
    (torch.float32, False): ("efficient", "flash"),
}


@pytest.mark.parametrize(("dtype", "masked"), KERNELS)
def test_attention_takes_the_fused_kernel(place, dtype, masked):
    attention = SelfAttention(128, 2).to(place.device)
    x = torch.randn(2, 64, 128, device=place.device, requires_grad=True)
    mask = (torch.arange(64, device=place.device) < 40).expand(2, -1) if masked else None
    with profile(activities=[ProfilerActivity.CPU]) as seen:
        with torch.autocast(place.device.type, dtype=dtype, enabled=dtype != torch.float32):
            out = attention(x, mask=mask)
        out.float().square().mean().backward()
    names = {event.key for event in seen.key_averages() if "scaled_dot_product" in event.key}
    wanted = KERNELS[dtype, masked][0 if place.accelerated else 1]
    fused = {name for name in names if wanted in name or (place.accelerated and not masked and "cudnn" in name)}
    assert any("backward" in name for name in fused), names
    assert any("backward" not in name for name in fused), names
    assert not any("math" in name for name in names), names

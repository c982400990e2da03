"""Blocks whose frozen weights come from memory of the host while others run."""

from __future__ import annotations

import torch
from torch import nn

from flowgen.device import peak_memory, synchronize
from flowgen.nn.swapping import BlockSwap

WIDTH, DEPTH = 512, 8


def network() -> nn.Sequential:
    torch.manual_seed(0)
    blocks = [nn.Sequential(nn.Linear(WIDTH, 4 * WIDTH), nn.SiLU(), nn.Linear(4 * WIDTH, WIDTH)) for _ in range(DEPTH)]
    for block in blocks:
        for name, p in block.named_parameters():
            p.requires_grad_(name == "2.bias")
    return nn.Sequential(*blocks)


def test_swapped_blocks_compute_the_same_and_two_are_there(place, deterministic):
    found, held = [], []
    for swapped in (False, True):
        made = network()
        swap = BlockSwap(list(made)) if swapped else None
        made.to(place.device)
        x = torch.randn(16, WIDTH, generator=torch.Generator().manual_seed(1)).to(place.device)
        synchronize(place.device)
        if place.accelerated:
            torch.accelerator.reset_peak_memory_stats()
        for _ in range(3):
            made.zero_grad()
            out = made(x)
            out.square().mean().backward()
        found.append([out.detach().cpu(), *(p.grad.cpu() for p in made.parameters() if p.grad is not None)])
        held.append(peak_memory(place.device))
        if swap is not None:
            assert swap.resident == [0]
            if place.accelerated:  # activations and what the kernels need are in both
                assert held[0] - held[1] > 0.8 * (sum(swap.sizes) - swap.most_resident)
        del made, out
    for one, other in zip(*found, strict=True):
        assert torch.equal(one, other)

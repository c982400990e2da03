"""A transformer whose tokens lie over all ranks, beside the same one on each: torchrun --nproc-per-node N sequence_worker.py OUT.json

Writes, for each case, the largest relative difference of the outputs and of the gradients averaged over the ranks.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch

from flowgen.core.interfaces import MASK
from flowgen.media.conditions import ClassCondition, TextCondition
from flowgen.media.streams import Axis, StreamSpec
from flowgen.nn import Transformer
from flowgen.nn.parallel import SequenceGroup

torch.set_num_threads(1)
SPEC = StreamSpec(3, (Axis("time", 6, 2.0), Axis("width", 4)))
CONDITIONS = {"kind": ClassCondition(("a", "b")), "text": TextCondition(12)}
FULL, FACTORISED = {"attention": "full"}, {"attention": "factorised"}
CASES = {
    "full": (FULL, {}),
    "factorised": (FACTORISED, {}),
    "a mask": (FULL, {"mask": True}),
    "factorised, a mask": (FACTORISED, {"mask": True}),
    "times of each step": (FULL, {"times": (6,)}),
    "times of each place": (FULL, {"times": (6, 4)}),
    "an odd number of times": (FULL, {"times": (3,), "steps": 3}),
    "recomputed": ({**FULL, "checkpoint": True}, {}),
    "bfloat16": (FULL, {"low": True}),
}


def difference(options, inputs, group):
    torch.manual_seed(0)
    network = Transformer(SPEC, CONDITIONS, width=32, depth=2, heads=4, **options)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.15)
    steps = inputs.get("steps", 6)
    x, target = torch.randn(2, 3, steps, 4, 3)
    t = torch.rand(3, *inputs.get("times", ()))
    cond = {"kind": torch.tensor([0, 1, 2]), "text": torch.randint(0, 5, (3, 12))}
    if inputs.get("mask"):
        cond[MASK] = torch.arange(steps) < torch.tensor([6, 3, 5])[:, None]
    found = []
    for shared in (None, group):
        network.zero_grad()
        if shared is not None:
            network.shard_sequence(shared)
        with torch.autocast("cpu", torch.bfloat16, enabled=inputs.get("low", False)):
            y = network(x, t, cond)
        (y.float() - target).square().mean().backward()
        gradients = {name: p.grad.clone() for name, p in network.named_parameters()}
        if shared is not None:
            for gradient in gradients.values():
                torch.distributed.all_reduce(gradient)
                gradient /= shared.size
        found.append((y.detach().float(), gradients))
    (y1, g1), (y2, g2) = found
    off = [(g1[name] - g2[name]).abs().max() / g1[name].abs().max().clamp(min=1e-6) for name in g1]
    return float((y1 - y2).abs().max() / y1.abs().max()), float(max(off))


torch.distributed.init_process_group("gloo")
rank, size = torch.distributed.get_rank(), torch.distributed.get_world_size()
differences = {name: difference(*case, SequenceGroup(rank, size)) for name, case in CASES.items()}
if rank == 0:
    Path(sys.argv[1]).write_text(json.dumps(differences))
torch.distributed.destroy_process_group()

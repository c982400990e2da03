"""What DeepSpeed computes when two ranks run different heads in one step: the facts behind the guard.

    torchrun --nproc-per-node 2 canary.py OUT.json

A trunk with two heads, SGD with rate 1, one or two steps; the truth is plain torch with absent gradients as zeros. Writes
{case: {stage: "exact" | "wrong" | "error"}}.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from flowgen.training.engine import end_rank, start_ranks
from flowgen.training.ranks import agree, gather_objects

torch.set_num_threads(1)
STEPS = 2


class Heads(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        g = torch.Generator().manual_seed(0)
        self.trunk = nn.Linear(6, 6)
        self.heads = nn.ModuleList(nn.Linear(6, 6) for _ in range(2))
        for p in self.parameters():
            p.data = 0.3 * torch.randn(p.shape, generator=g)

    def forward(self, x: Tensor, use: int, every: bool) -> Tensor:
        h = torch.tanh(self.trunk(x))
        if every:  # all heads run, the unused one weighs nothing
            return sum((1.0 if i == use else 0.0) * head(h).square().mean() for i, head in enumerate(self.heads))
        return self.heads[use](h).square().mean()


def used(case: str, rank: int, step: int) -> int:
    return {"same": 0, "alternate": step % 2}.get(case.partition(",")[0], rank)


def data(rank: int, step: int) -> Tensor:
    return torch.randn(4, 6, generator=torch.Generator().manual_seed(100 * step + rank))


def truth(case: str) -> dict[str, Tensor]:
    net = Heads()
    for step in range(STEPS):
        net.zero_grad()
        for rank in range(2):
            (net(data(rank, step), used(case, rank, step), False) / 2).backward()
        with torch.no_grad():
            for p in net.parameters():
                if p.grad is not None:
                    p -= p.grad
    return {n: p.detach().clone() for n, p in net.named_parameters()}


def attempt(case: str, stage: int, ranks: Any) -> str:
    import deepspeed

    net = Heads()
    config = {
        "train_micro_batch_size_per_gpu": 4,
        "zero_optimization": {"stage": stage, "stage3_param_persistence_threshold": 0},
        "zero_allow_untested_optimizer": True,
        "steps_per_print": 1 << 40,
    }
    engine, *_ = deepspeed.initialize(model=net, optimizer=torch.optim.SGD(net.parameters(), lr=1.0), config=config)
    failed = ""
    try:
        for step in range(STEPS):
            engine.backward(engine(data(ranks.rank, step), used(case, ranks.rank, step), case == "every head"))
            engine.step()
            if case == "alternate, cured" and stage == 3:
                engine.optimizer.grad_partitions_flat_buffer.zero_()
    except (RuntimeError, AssertionError) as error:
        failed = str(error)
    if any(gather_objects(failed, ranks)):
        return "error"
    expected = truth(case.partition(",")[0])
    off = 0.0
    for name, p in engine.module.named_parameters():
        if stage == 3:
            with deepspeed.zero.GatheredParameters([p]):
                off = max(off, float((p - expected[name]).abs().max()))
        else:
            off = max(off, float((p - expected[name]).abs().max()))
    engine.destroy()
    return "exact" if max(gather_objects(off, ranks)) < 1e-6 else "wrong"


def main() -> None:
    ranks = start_ranks(60.0)
    found: dict[str, dict[int, str]] = {}
    # at stage 3, ranks that differ end the process group, so that case comes last and alone in another process
    for case in sys.argv[2].split(";"):
        for stage in map(int, sys.argv[3].split(",")):
            found.setdefault(case, {})[stage] = attempt(case, stage, ranks)
    agree(ranks, None)
    if ranks.first:
        Path(sys.argv[1]).write_text(json.dumps(found))


main()
end_rank()

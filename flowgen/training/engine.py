"""DeepSpeed: one process or many, the same engine."""

from __future__ import annotations

import datetime
import logging
import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from flowgen.config.schema import Optimizer
from flowgen.flow import Cond
from flowgen.losses import Loss, LossOutput
from flowgen.random import Randomness
from flowgen.tree import State

TIMEOUT = datetime.timedelta(minutes=10)


@dataclass(frozen=True)
class Ranks:
    """This process among those of the run."""

    rank: int
    count: int
    device: torch.device

    @property
    def first(self) -> bool:
        return self.rank == 0


class Objective(nn.Module):
    """Network and loss as one module: all of a step's computation happens in one forward of the engine.

    That is what lets ZeRO 3 gather parameters, and keeps every rank running the same sub-modules in the same order.
    """

    def __init__(self, network: nn.Module, loss: Loss) -> None:
        super().__init__()
        self.network = network
        self.loss = loss
        # DeepSpeed's converter to other world sizes asserts that the module carries this
        self.universal_checkpoint_info = {"universal_checkpoint_version": 0.4}

    def forward(self, x1: State, cond: Cond, random: Randomness, known: State | None = None) -> LossOutput:
        return self.loss(self.network, x1, cond, random, known)


def start_ranks() -> Ranks:
    """Join the process group that a launcher describes in the environment, or make one of this process alone."""
    cuda = torch.cuda.is_available()
    if not cuda:
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    alone = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1"}
    for name, value in alone.items():
        os.environ.setdefault(name, value)
    if "MASTER_PORT" not in os.environ:
        os.environ["MASTER_PORT"] = str(_free_port())
    deepspeed = _deepspeed()
    if not torch.distributed.is_initialized():
        # without this DeepSpeed compiles a C++ extension for two minutes on the first CPU run
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
        deepspeed.init_distributed("nccl" if cuda else "gloo", timeout=TIMEOUT, verbose=False)
    device = torch.device("cuda", int(os.environ["LOCAL_RANK"])) if cuda else torch.device("cpu")
    return Ranks(torch.distributed.get_rank(), torch.distributed.get_world_size(), device)


def _deepspeed() -> Any:
    """DeepSpeed, with its log at warnings: what a run is about is said by flowgen itself."""
    os.environ.setdefault("DS_SKIP_CUDA_CHECK", "1")
    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    import deepspeed

    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    return deepspeed


def _free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def start_engine(objective: Objective, optimizer: Optimizer, config: Mapping[str, Any]) -> Any:
    """A DeepSpeed engine for the objective with AdamW; weight decay spares biases, norms and embeddings of one dimension."""
    deepspeed = _deepspeed()
    decayed = [p for p in objective.parameters() if p.requires_grad and p.ndim >= 2]
    spared = [p for p in objective.parameters() if p.requires_grad and p.ndim < 2]
    groups: list[dict[str, Any]] = [{"params": decayed}, {"params": spared, "weight_decay": 0.0}]
    adamw = torch.optim.AdamW(
        [g for g in groups if g["params"]],
        lr=optimizer.lr,
        betas=optimizer.betas,
        eps=optimizer.eps,
        weight_decay=optimizer.weight_decay,
    )
    engine, *_ = deepspeed.initialize(model=objective, optimizer=adamw, config=dict(config))
    _set_timeouts()
    return engine


def _set_timeouts() -> None:
    """DeepSpeed makes groups of its own without the timeout given to `init_distributed`."""
    from torch.distributed import distributed_c10d as c10d

    for group in list(c10d._world.pg_map):
        c10d.set_timeout(TIMEOUT, group)


def reduce(value: Tensor, ranks: Ranks, how: str = "sum") -> Tensor:
    """All-reduce a small tensor: "sum", "max" or "min"."""
    if ranks.count > 1:
        op = {
            "sum": torch.distributed.ReduceOp.SUM,
            "max": torch.distributed.ReduceOp.MAX,
            "min": torch.distributed.ReduceOp.MIN,
        }
        torch.distributed.all_reduce(value, op=op[how])
    return value


def barrier(ranks: Ranks) -> None:
    if ranks.count > 1:
        torch.distributed.barrier()

"""DeepSpeed: one process or many, the same engine."""

from __future__ import annotations

import atexit
import datetime
import logging
import os
import socket
import warnings
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from flowgen.config import ComponentConfig, build
from flowgen.core.interfaces import Cond, Group, Loss, LossOutput, LossWithGroups
from flowgen.core.random import Randomness
from flowgen.core.tree import State, first_leaf
from flowgen.device import accelerator, claim_device, collective_backend
from flowgen.errors import UsageError
from flowgen.media.interfaces import ShardsSequence
from flowgen.nn.parallel import SequenceGroup
from flowgen.training.ending import leave
from flowgen.training.internals import (
    differentiate_forward,
    never_compile_for_one_machine,
    set_timeouts,
)
from flowgen.training.machine import check_precision
from flowgen.training.optimizers import OnHost, Part, WholeMatrices
from flowgen.training.ranks import Ranks


class Objective(nn.Module):
    """Network and loss as one module: all of a step's computation happens in one forward of the engine.

    That is what lets ZeRO 3 gather parameters, and keeps every rank running the same sub-modules in the same order.
    """

    def __init__(self, network: nn.Module, loss: Loss) -> None:
        super().__init__()
        self.network = network
        self.loss = loss

    def forward(self, x1: State, cond: Cond, random: Randomness, known: State | None = None) -> LossOutput:
        dtype = next(self.network.parameters()).dtype
        if dtype == torch.float32:  # or DeepSpeed's torch_autocast, around this
            return self.loss(self.network, x1, cond, random, known)
        with torch.autocast(_device(x1), dtype=dtype):  # its bf16 and fp16 cast the weights, and nobody the inputs
            return self.loss(self.network, x1, cond, random, known)


def _device(x: State) -> str:
    return first_leaf(x).device.type


def start_ranks(timeout_s: float = 600.0) -> Ranks:
    """Join the process group that a launcher describes in the environment, or make one of this process alone.

    torchrun, the DeepSpeed launcher and `flowgen train --gpus` set RANK and its companions; srun sets its own.
    """
    if accelerator() is None:
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    if "RANK" not in os.environ:
        os.environ.update(slurm_environment(os.environ))
    os.environ.setdefault("LOCAL_RANK", "0")  # DeepSpeed's engine reads it again and again
    device = _own_device(int(os.environ["LOCAL_RANK"]))
    deepspeed = _deepspeed()
    if not torch.distributed.is_initialized():
        alone = {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
        ours = {name: value for name, value in alone.items() if name not in os.environ}
        os.environ.update(ours)
        never_compile_for_one_machine(deepspeed)
        timeout = datetime.timedelta(seconds=timeout_s)
        deepspeed.init_distributed(collective_backend(device), timeout=timeout, verbose=False)
        for name in ours:  # a program that this one starts must find its own port
            del os.environ[name]
        atexit.register(_leave)  # threads of the process group that outlive the interpreter abort the process
    elif not deepspeed.comm.is_initialized():  # whoever started us, such as Ray, has made the process group
        never_compile_for_one_machine(deepspeed)
        deepspeed.init_distributed(collective_backend(device), verbose=False)
    rank, count = torch.distributed.get_rank(), torch.distributed.get_world_size()
    control = torch.distributed.new_group(backend="gloo") if device.type != "cpu" and count > 1 else None
    return Ranks(rank, count, device, control)


def _own_device(local_rank: int) -> torch.device:
    """The device of this rank. UsageError: more ranks were started on this machine than it has accelerators."""
    try:
        return claim_device(local_rank)
    except ValueError as error:
        raise UsageError(f"{error}; start fewer ranks on it (--gpus)") from None


def end_rank() -> None:
    """End this process where it is one of several ranks; where it is alone, do nothing."""
    if torch.distributed.is_initialized() and torch.distributed.get_world_size() > 1:
        leave()


def _leave() -> None:
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def slurm_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """What torch expects, from what srun gives each task; {} outside of a step of several tasks."""
    count = environment.get("SLURM_STEP_NUM_TASKS", "1")
    if count == "1" or "SLURM_PROCID" not in environment:
        return {}
    first = first_host(environment.get("SLURM_STEP_NODELIST", "127.0.0.1"))
    step = int(environment.get("SLURM_JOB_ID", 0)) * 31 + int(environment.get("SLURM_STEP_ID", 0))
    return {
        "RANK": environment["SLURM_PROCID"],
        "LOCAL_RANK": environment.get("SLURM_LOCALID", "0"),
        "WORLD_SIZE": count,
        "MASTER_ADDR": environment.get("MASTER_ADDR", first),
        "MASTER_PORT": environment.get("MASTER_PORT", str(20000 + step % 10000)),
    }


def first_host(nodes: str) -> str:
    """The first host of a SLURM node list: "gpu[03-07,12],login" is gpu03."""
    prefix, bracket, rest = nodes.partition(",")[0].partition("[")
    return prefix + rest.partition("]")[0].partition("-")[0] if bracket else prefix


def _deepspeed() -> Any:
    """DeepSpeed, with its log at warnings: what a run is about is said by flowgen itself."""
    os.environ.setdefault("DS_SKIP_CUDA_CHECK", "1")
    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    # of DeepSpeed's own calls, about which a user of flowgen can do nothing
    warnings.filterwarnings("ignore", r"`torch\.distributed\.\w+` is deprecated", FutureWarning)
    import deepspeed

    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    return deepspeed


def free_port() -> int:
    """A port of this machine that is free now."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def check_config(config: Mapping[str, Any]) -> None:
    """Let DeepSpeed read its config. UsageError: it, or this machine, refuses a key or a value."""
    from deepspeed.runtime.config import DeepSpeedConfig, DeepSpeedConfigError
    from pydantic import ValidationError

    try:
        DeepSpeedConfig(dict(config))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise UsageError(f"deepspeed: {error.title}: {where}: {first['msg']}, got {first['input']!r}") from None
    except (DeepSpeedConfigError, ValueError) as error:
        raise UsageError(f"deepspeed: {error}") from None
    check_precision(config)


def parts(objective: Objective) -> list[Part]:
    """The trained parameters: the network's with what the loss does not name, then each group of the loss.

    UsageError: the loss names a module that it does not have, or one within another.
    """
    loss = objective.loss
    named = loss.groups() if isinstance(loss, LossWithGroups) else {}
    found: dict[str, list[nn.Parameter]] = {name: [] for name in named}
    rest: list[nn.Parameter] = []
    for path, parameter in objective.named_parameters():
        if parameter.requires_grad:
            owners = [name for name in named if f"{path}.".startswith(f"loss.{name}.")]
            if len(owners) > 1:
                raise UsageError(
                    f"the groups {', '.join(owners)} of {type(loss).__name__} both hold {path}; name one of them"
                )
            (found[owners[0]] if owners else rest).append(parameter)
    for name, parameters in found.items():
        if not parameters:
            raise UsageError(f"{type(loss).__name__} has a group {name!r}, but no trained parameters of that name")
    return [Part(rest, Group()), *(Part(parameters, named[name]) for name, parameters in found.items())]


def start_engine(
    objective: Objective, optimizer: ComponentConfig, config: Mapping[str, Any], timeout_s: float = 600.0
) -> Any:
    """A DeepSpeed engine for the objective with its optimizer. UsageError: the two do not go together."""
    deepspeed = _deepspeed()
    made = build("optimizer", optimizer, parts=parts(objective))
    stage = config["zero_optimization"].get("stage", 0)
    if stage and isinstance(made, WholeMatrices):
        raise UsageError(
            f"train.optimizer: {optimizer.type!r} needs whole matrices, of which ZeRO {stage} gives each rank a piece; "
            f"set deepspeed.zero_optimization.stage=0, or choose adamw"
        )
    if (
        isinstance(made, OnHost)
        and accelerator() is not None
        and "offload_optimizer" not in config["zero_optimization"]
    ):
        raise UsageError(
            f"train.optimizer: {optimizer.type!r} steps weights on the CPU; set deepspeed.zero_optimization.stage=2 and "
            f"offload_optimizer.device=cpu in it, or choose adamw"
        )
    engine, *_ = deepspeed.initialize(model=objective, optimizer=made, config=dict(config))
    if engine.zero_optimization_stage() == 3:
        differentiate_forward(engine.module)
    if torch.distributed.get_world_size() == 1 and engine.zero_optimization_stage() == 0:
        engine.enable_backward_allreduce = (
            False  # nobody to reduce with; DeepSpeed would copy the gradients there and back
        )
    set_timeouts(datetime.timedelta(seconds=timeout_s))
    return engine


def share_sequences(network: nn.Module, ranks: Ranks, count: int) -> Ranks:
    """Divide the tokens of each clip among `count` ranks. UsageError: the network cannot, or they do not divide."""
    if count == 1:
        return ranks
    own = None
    for first in range(0, ranks.count, count):  # every rank makes every group
        group = torch.distributed.new_group(list(range(first, first + count)))
        if first <= ranks.rank < first + count:
            own = group
    shard_sequence(network, SequenceGroup(ranks.rank % count, count, own))
    return replace(ranks, sharing=count)


def shard_sequence(network: nn.Module, group: SequenceGroup) -> None:
    """Have a network divide the tokens of each clip among a group. UsageError: it cannot, or they do not divide."""
    if not isinstance(network, ShardsSequence):
        raise UsageError(
            f"train.sequence_parallel divides the tokens of a clip, which {type(network).__name__} cannot; use a network that has "
            f"shard_sequence, such as the transformer"
        )
    try:
        network.shard_sequence(group)
    except ValueError as error:
        raise UsageError(f"train.sequence_parallel: {error}") from None

"""What a run would need: memory of a rank by part for every ZeRO stage, without making its weights or its ranks."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, TypeVar

import torch
from torch import nn

from flowgen.config import ComponentConfig, Config
from flowgen.core.interfaces import REJECTED, LossWithAverage, LossWithPairs, LossWithTeacher
from flowgen.core.tree import leaves, tree_map
from flowgen.errors import FlowgenError
from flowgen.media.conditions import null_conditions
from flowgen.media.streams import StreamSpec
from flowgen.nn.swapping import BlockSwap
from flowgen.runs.experiment import Experiment, resolve_conditions
from flowgen.runs.teacher import Frozen
from flowgen.training.activations import Pretended, Shapes, peak_of_step
from flowgen.training.blocks import prepare_blocks
from flowgen.training.deepspeed_config import data_ranks, deepspeed_config, micro_batch_size, user_config
from flowgen.training.engine import Objective, shard_sequence
from flowgen.training.internals import Undecided, fake_tensors, plain_linear

_Found = TypeVar("_Found")
STAGES = (0, 1, 2, 3)
_BUCKET = 500_000_000
"""DeepSpeed's default of zero_optimization.reduce_bucket_size, in elements."""


@dataclass(frozen=True)
class Memory:
    """Bytes of one rank. Weights, frozen, masters, moments and averages are what is allocated; activations and copies are the peak
    of a micro-batch (see `activations`); gradients and what is gathered are an estimate."""

    weights: int
    """Of what is trained."""
    frozen: int
    """Parameters that are not trained, and buffers: those of a quantised base among them. Of swapped blocks, two at most."""
    gathered: int
    """Weights that ZeRO 3 has whole at a time."""
    copies: int
    """Weights as autocast casts them, which the backward pass keeps."""
    masters: int
    moments: int
    averages: int
    gradients: int
    activations: int

    @property
    def total(self) -> int:
        return sum(vars(self).values())


@dataclass(frozen=True)
class Plan:
    parameters: int
    ranks: int
    micro: int
    accumulation: int
    positions: int
    """Latent positions in one optimizer step."""
    stages: dict[int, Memory]
    communicated: dict[int, int]
    """Bytes a rank sends in one optimizer step."""
    remark: str = ""


def plan(config: Config, ranks: int) -> Plan:
    """Plan a run on a number of ranks. Nothing of the network's size is allocated."""
    experiment, remark = complete(Experiment(config))
    experiment.check_loss()
    config = experiment.config
    deepspeed_config(config, ranks)
    micro = micro_batch_size(config, ranks)
    accumulation = config.train.batch_size // (micro * data_ranks(config, ranks))
    try:
        network, (peak, copies) = trace(experiment, micro, peak_of_step)
    except Undecided as error:
        raise FlowgenError(
            f"network {config.network.type!r} or loss {config.loss.type!r} decides by the values of its tensors ({error}), "
            f"so its memory cannot be told without running it: train a few steps and read memory_gb in the log"
        ) from None
    shapes = [p.shape for p in network.parameters() if p.requires_grad]
    still = [p for p in network.parameters() if not p.requires_grad]
    buffers = sum(b.nbytes for b in network.buffers())
    count = sum(s.numel() for s in shapes)
    user = user_config(config)
    half = _weights_dtype(config) != torch.float32
    averages = 1 + len(config.train.ema.profiles)
    stages = {}
    swaps = [m for m in network.modules() if isinstance(m, BlockSwap)]
    away = sum(sum(m.sizes) - m.most_resident for m in swaps)
    for s in STAGES[:3] if swaps else STAGES:  # stage 3 divides every parameter, and no buffer
        of_rank = sum(-(-p.numel() // ranks) * p.element_size() if s == 3 else p.nbytes for p in still)
        frozen = of_rank + buffers - away
        size = 2 if half else 4
        stages[s] = memory(shapes, ranks, s, size, averages, peak - copies, user, copies, frozen)
    streams: list[StreamSpec] = list(leaves(experiment.spec))
    positions = config.train.batch_size * sum(math.prod(a.size for a in stream.axes) for stream in streams)
    sent = _communicated(count, ranks, accumulation, half)
    if config.train.optimizer.type not in ("adamw", "cpu-adam"):
        own = f"the state of the optimizer {config.train.optimizer.type!r} is counted as AdamW's: two numbers a weight"
        remark = f"{remark}; {own}" if remark else own
    return Plan(count, ranks, micro, accumulation, positions, stages, sent, remark)


def complete(experiment: Experiment) -> tuple[Experiment, str]:
    """The experiment with its conditions complete, and a remark where the data are not there to say more of them."""
    try:
        return experiment.complete(), ""
    except FlowgenError as error:
        declared = experiment.config.conditions or {}
        if not declared or any(c.type is None for c in declared.values()):
            raise
        offered: Any = SimpleNamespace(conditions={name: {"type": c.type} for name, c in declared.items()})
        complete = Experiment(resolve_conditions(experiment.config, offered))
        return complete, f"planned without the data, by the conditions of the config: {error}"


def memory(
    shapes: list[torch.Size],
    ranks: int,
    stage: int,
    size: int,
    averages: int,
    activations: int,
    user: Mapping[str, Any],
    copies: int = 0,
    frozen: int = 0,
) -> Memory:
    """Bytes of a rank at a ZeRO stage, with weights of `size` bytes each, as DeepSpeed 0.19 lays them out."""
    count = sum(s.numel() for s in shapes)
    # groups with and without weight decay are flattened and padded each by itself
    groups = [sum(s.numel() for s in shapes if decayed == (len(s) >= 2)) for decayed in (True, False)]
    zero = user.get("zero_optimization", {})
    bucket = min(zero.get("reduce_bucket_size", _BUCKET), count)
    if stage == 0:
        return Memory(size * count, frozen, 0, copies, 0, 8 * count, 4 * averages * count, size * count, activations)
    if stage == 3:
        share = sum(-(-s.numel() // ranks) for s in shapes)
        gradients = size * (share + bucket)
        # its linear layers keep the gathered weight for the backward pass, and cast it again there
        gathered = size * min(count, max(_live(zero), *(s.numel() for s in shapes)))
        return Memory(
            size * share, frozen, gathered, 0, 4 * share, 8 * share, 4 * averages * share, gradients, activations
        )
    padded = sum(-(-n // (2 * ranks)) * 2 * ranks for n in groups)
    share = padded // ranks
    gradients = size * (share + (count if stage == 1 else bucket))
    return Memory(size * padded, frozen, 0, copies, 4 * share, 8 * share, 4 * averages * share, gradients, activations)


def _live(zero: Mapping[str, Any]) -> int:
    """Elements that ZeRO 3 has whole at most: those used again soon stay, and the next ones are fetched before."""
    kept = zero.get("stage3_max_reuse_distance", 10**9)
    fetched = zero.get("stage3_max_live_parameters", 10**9) + zero.get("stage3_prefetch_bucket_size", 5 * 10**7)
    return max(int(kept), int(fetched))


def _communicated(count: int, ranks: int, accumulation: int, half: bool) -> dict[int, int]:
    """A reduce-scatter or an all-gather of n bytes sends n (ranks - 1)/ranks from each; an all-reduce is one of each."""
    once = (2 if half else 4) * count * (ranks - 1) // ranks
    return {0: 2 * once, 1: 3 * once, 2: (accumulation + 1) * once, 3: 3 * accumulation * once}


def trace(experiment: Experiment, micro: int, measure: Callable[..., _Found]) -> tuple[nn.Module, _Found]:
    """The network, and what `measure(objective, inputs, autocast)` finds of a step on one micro-batch; all fake."""
    config, spec = experiment.config, experiment.spec
    null = null_conditions(experiment.conditioners, micro)
    # an assignment of noise to data is made on the host before the step, and reads values
    plain = Experiment(config.model_copy(update={"coupling": ComponentConfig(type="independent")}))
    loss = plain.loss
    with fake_tensors(), plain_linear():  # an engine at stage 3 in this process may have put another in its place
        network = experiment.new_network()
        other = Frozen(experiment.new_network())  # of the size of this one
        if isinstance(loss, LossWithTeacher):
            loss = loss.with_teacher(plain.flow(other), null_conditions(experiment.conditioners, 1))
        if isinstance(loss, LossWithAverage):
            loss = loss.with_average(other)
        if config.train.sequence_parallel > 1:
            shard_sequence(network, Pretended(0, config.train.sequence_parallel))
        prepare_blocks(network, recompute=config.train.activation_checkpointing, backend=None)
        objective = Objective(network, loss)
        _cast(objective, _weights_dtype(config))

        def inputs() -> tuple[Any, ...]:
            x1 = tree_map(lambda stream: torch.zeros(micro, *stream.shape), spec)
            cond = tree_map(lambda v: torch.zeros(v.shape, dtype=v.dtype), null)
            if isinstance(loss, LossWithPairs):
                cond[REJECTED] = {"x": tree_map(torch.zeros_like, x1)}
            known = tree_map(lambda x: torch.zeros(x.shape[:-1], dtype=torch.bool), x1) if config.known else None
            return x1, cond, Shapes(config.train.seed, 0, micro), known

        return network, measure(objective, inputs, config.train.precision == "bfloat16")


def _weights_dtype(config: Config) -> torch.dtype:
    user = user_config(config)
    dtypes = {"bf16": torch.bfloat16, "fp16": torch.float16}
    return next((d for key, d in dtypes.items() if user.get(key, {}).get("enabled")), torch.float32)


def _cast(module: nn.Module, dtype: torch.dtype) -> None:
    """`module.to(dtype)`, which cannot be done to fake tensors in place."""
    if dtype == torch.float32:
        return
    for owner in module.modules():
        for name, parameter in list(owner.named_parameters(recurse=False)):
            owner.register_parameter(name, nn.Parameter(parameter.detach().to(dtype), parameter.requires_grad))
        for name, buffer in list(owner.named_buffers(recurse=False)):
            setattr(owner, name, buffer.to(dtype) if buffer.is_floating_point() else buffer)

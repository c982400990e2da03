"""Averages of the weights, and whole weights out of whatever shards DeepSpeed keeps.

The average lives on the float32 master shards that each rank updates, so it is exact under every ZeRO stage and costs
each rank its share alone.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor


def master_shards(engine: Any) -> list[Tensor]:
    """The float32 tensors this rank's optimizer updates: flat shards under ZeRO 1 to 3, parameters under ZeRO 0."""
    optimizer = engine.optimizer
    for name in ("fp32_partitioned_groups_flat", "single_partition_of_fp32_groups", "fp32_groups_flat_partition"):
        if hasattr(optimizer, name):
            return [t.data for t in getattr(optimizer, name)]
    if hasattr(optimizer, "fp32_groups"):
        return [t.data for group in optimizer.fp32_groups for t in group]
    return [t.data for group in optimizer.param_groups for t in group["params"]]


@torch.no_grad()
def gather(engine: Any) -> dict[str, Tensor]:
    """Whole float32 parameters by name, on the CPU of every rank. All ranks must call it."""
    from deepspeed.utils import safe_get_full_fp32_param

    whole: dict[str, Tensor] = {}
    for name, parameter in engine.module.named_parameters():
        value = None
        if engine.zero_optimization_stage() > 0 and parameter.requires_grad:
            value = safe_get_full_fp32_param(parameter)
        if value is None:
            value = parameter.detach().float()
        shape = getattr(parameter, "ds_shape", parameter.shape)
        whole[name] = value.reshape(-1)[: shape.numel()].reshape(shape).cpu().clone()
    return whole


@torch.no_grad()
def scatter(engine: Any, whole: Mapping[str, Tensor]) -> None:
    """Write whole parameters into the master shards. All ranks must call it."""
    from deepspeed.utils import safe_set_full_fp32_param, safe_set_local_fp32_param

    for name, parameter in engine.module.named_parameters():
        value = whole[name].float()
        if engine.zero_optimization_stage() == 0 or not parameter.requires_grad:
            parameter.copy_(value)
        elif hasattr(parameter, "ds_id"):
            # safe_set_full_fp32_param fails where the world size does not divide the tensor: set padded shards instead
            group = parameter.ds_process_group
            size, rank = parameter.ds_tensor.ds_numel, torch.distributed.get_rank(group=group)
            world = torch.distributed.get_world_size(group=group)
            padded = torch.nn.functional.pad(value.reshape(-1), (0, size * world - value.numel()))
            safe_set_local_fp32_param(parameter, padded.narrow(0, size * rank, size).to(parameter.ds_tensor.device))
        else:
            safe_set_full_fp32_param(parameter, value.to(parameter.device))


class ShardedEMA:
    """An exponential moving average of the master shards, in float32."""

    def __init__(self, engine: Any, decay: float) -> None:
        self.engine, self.decay = engine, decay
        self.shards = [t.clone() for t in master_shards(engine)]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights after `step` steps. The decay ramps up, so that early averages forget the initial weights."""
        decay = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(self.shards, master_shards(self.engine), 1 - decay)

    @contextlib.contextmanager
    def _swapped(self) -> Iterator[None]:
        """Inside, the master shards hold the average."""
        masters = master_shards(self.engine)
        kept = [t.clone() for t in masters]
        with torch.no_grad():
            for master, shard in zip(masters, self.shards, strict=True):
                master.copy_(shard)
        try:
            yield
        finally:
            with torch.no_grad():
                for master, old in zip(masters, kept, strict=True):
                    master.copy_(old)

    def gather(self) -> dict[str, Tensor]:
        """Whole averaged parameters by name. All ranks must call it."""
        with self._swapped():
            return gather(self.engine)

    def load(self, whole: Mapping[str, Tensor]) -> None:
        """Set the average from whole parameters. All ranks must call it."""
        masters = master_shards(self.engine)
        kept = [t.clone() for t in masters]
        scatter(self.engine, whole)
        self.shards = [t.clone() for t in masters]
        with torch.no_grad():
            for master, old in zip(masters, kept, strict=True):
                master.copy_(old)

"""Where DeepSpeed keeps what a rank updates: the float32 master shards, and which piece of which parameter lies in them.

Everything that is saved, averaged or moved to another number of ranks goes through `Fragment`, so that the stages differ
in this module alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from flowgen.training.engine import Ranks

_BUCKET = 1 << 26
"""Elements that are collected by one reduction."""


@dataclass(frozen=True)
class Fragment:
    """Elements [start, start + length) of a flattened parameter, at `offset` of shard `shard` of this rank."""

    name: str
    start: int
    length: int
    shard: int
    offset: int

    def of(self, shards: Sequence[Tensor]) -> Tensor:
        """The fragment within shards laid out as the master shards are, as a flat view."""
        return shards[self.shard].view(-1).narrow(0, self.offset, self.length)


def master_shards(engine: Any) -> list[Tensor]:
    """The float32 tensors this rank's optimizer updates: flat shards under ZeRO 1 to 3, parameters under ZeRO 0."""
    optimizer = engine.optimizer
    for name in ("fp32_partitioned_groups_flat", "single_partition_of_fp32_groups", "fp32_groups_flat_partition"):
        if hasattr(optimizer, name):
            return [t.data for t in getattr(optimizer, name)]
    return [t.data for group in optimizer.param_groups for t in group["params"]]


def optimizer_states(engine: Any) -> list[dict[str, Any]]:
    """AdamW's state of each master shard (a live dict, empty before the first step)."""
    optimizer = engine.optimizer
    for name in ("fp32_partitioned_groups_flat", "single_partition_of_fp32_groups", "fp32_groups_flat_partition"):
        if hasattr(optimizer, name):
            return [optimizer.optimizer.state[t] for t in getattr(optimizer, name)]
    return [optimizer.state[t] for group in optimizer.param_groups for t in group["params"]]


def fragments(engine: Any, ranks: Ranks) -> list[Fragment]:
    """What of the trained parameters this rank holds. Over all ranks, each element is listed once (at stage 0 by the first)."""
    names = {id(p): name for name, p in engine.module.named_parameters()}
    optimizer = engine.optimizer
    found: list[Fragment] = []
    if hasattr(
        optimizer, "fp32_partitioned_groups_flat"
    ):  # stage 3: an equal piece of every parameter, the last one padded
        for p in (p for group in optimizer.fp16_groups for p in group):
            group, offset, size = optimizer.grad_position[optimizer.get_param_id(p)]
            start = size * torch.distributed.get_rank(group=p.ds_process_group)
            length = min(size, p.ds_numel - start)
            if length > 0:
                found.append(Fragment(names[id(p)], start, length, group, offset))
        return found
    if hasattr(optimizer, "bit16_groups") or hasattr(
        optimizer, "bf16_groups"
    ):  # stages 1 and 2: one flat partition a group
        groups = getattr(optimizer, "bit16_groups", None) or optimizer.bf16_groups
        for p in (p for group in groups for p in group):
            mapping = p._hp_mapping
            if mapping is not None:
                here, there = mapping.lp_fragment_address, mapping.hp_fragment_address
                found.append(Fragment(names[id(p)], here.start, here.numel, mapping.param_group_index, there.start))
        return found
    if ranks.first:
        trained = (p for group in optimizer.param_groups for p in group["params"])
        found = [Fragment(names[id(p)], 0, p.numel(), i, 0) for i, p in enumerate(trained)]
    return found


def shapes(engine: Any) -> dict[str, torch.Size]:
    """The whole shape of every trained parameter, in the module's order."""
    return {n: getattr(p, "ds_shape", p.shape) for n, p in engine.module.named_parameters() if p.requires_grad}


@torch.no_grad()
def collect(
    engine: Any, shards: Sequence[Tensor], ranks: Ranks, kept: dict[int, Tensor] | None = None
) -> dict[str, Tensor]:
    """Whole float32 tensors by name, out of shards laid out as the master shards: on the CPU of the first rank, {} on the
    others. All ranks must call it.

    With `kept`, memory of the host that it left there is used again by the next call: pages that are new cost more than the copy.
    """
    own = _by_name(engine, ranks)
    whole: dict[str, Tensor] = {}
    for i, bucket in enumerate(_buckets(shapes(engine))):
        size = sum(s.numel() for _, s in bucket)
        own_memory = (kept or {}).get(i)
        if own_memory is not None and ranks.device.type == "cpu":
            buffer = own_memory if ranks.count == 1 else own_memory.zero_()
        else:
            buffer = torch.zeros(size, device=ranks.device)
        _write(buffer, bucket, own, shards)
        if ranks.count > 1:
            torch.distributed.reduce(buffer, 0)
        if ranks.first:
            host = buffer.cpu() if own_memory is None else own_memory.copy_(buffer)
            for (name, shape), part in zip(bucket, host.split([s.numel() for _, s in bucket]), strict=True):
                whole[name] = part.view(shape)
            if kept is not None:
                kept[i] = host
    return whole


@torch.no_grad()
def spread(engine: Any, shards: Sequence[Tensor], ranks: Ranks, into: Mapping[str, Tensor]) -> None:
    """Copy whole float32 tensors out of shards into tensors by name, on every rank. All ranks must call it with the same names."""
    own = _by_name(engine, ranks)
    wanted = {name: shape for name, shape in shapes(engine).items() if name in into}
    for bucket in _buckets(wanted):
        sizes = [shape.numel() for _, shape in bucket]
        buffer = torch.zeros(sum(sizes), device=ranks.device)
        _write(buffer, bucket, own, shards)
        if ranks.count > 1:
            torch.distributed.all_reduce(buffer)
        for (name, shape), part in zip(bucket, buffer.split(sizes), strict=True):
            into[name].copy_(part.view(shape))


def _by_name(engine: Any, ranks: Ranks) -> dict[str, list[Fragment]]:
    own: dict[str, list[Fragment]] = {}
    for fragment in fragments(engine, ranks):
        own.setdefault(fragment.name, []).append(fragment)
    return own


def _write(
    buffer: Tensor,
    bucket: Sequence[tuple[str, torch.Size]],
    own: Mapping[str, Sequence[Fragment]],
    shards: Sequence[Tensor],
) -> None:
    """Put this rank's fragments of the parameters of a bucket into its flat buffer."""
    for (name, _), part in zip(bucket, buffer.split([s.numel() for _, s in bucket]), strict=True):
        for fragment in own.get(name, ()):
            part.narrow(0, fragment.start, fragment.length).copy_(fragment.of(shards))


def _buckets(sizes: dict[str, torch.Size]) -> list[list[tuple[str, torch.Size]]]:
    buckets: list[list[tuple[str, torch.Size]]] = [[]]
    filled = 0
    for name, shape in sizes.items():
        if buckets[-1] and filled + shape.numel() > _BUCKET:
            buckets.append([])
            filled = 0
        buckets[-1].append((name, shape))
        filled += shape.numel()
    return [b for b in buckets if b]


@torch.no_grad()
def fill(engine: Any, shards: Sequence[Tensor], ranks: Ranks, read: Callable[[str, int, int], Tensor]) -> None:
    """Set shards from `read(name, start, length)`, flat values of a whole parameter. No communication.

    Padding is left alone. At stage 0 every rank holds every parameter, whoever lists it.
    """
    held = fragments(engine, Ranks(0, 1, ranks.device)) if engine.zero_optimization_stage() == 0 else None
    for fragment in held if held is not None else fragments(engine, ranks):
        fragment.of(shards).copy_(read(fragment.name, fragment.start, fragment.length))

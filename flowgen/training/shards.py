"""Whole parameters out of the shards of the ranks, and back."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from flowgen.training.internals import Fragment, fragments, shapes
from flowgen.training.ranks import Ranks

_BUCKET = 1 << 26
"""Elements that are collected by one reduction."""


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

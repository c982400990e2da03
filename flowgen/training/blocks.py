"""Recomputation and compilation of the blocks that a network declares as repeated."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

from torch import nn
from torch.utils.checkpoint import checkpoint

from flowgen.core.flow_map import differentiated
from flowgen.errors import UsageError
from flowgen.media.interfaces import RepeatedBlocks


def repeated_blocks(network: nn.Module) -> Iterator[nn.Module]:
    """The members of the module lists named by the network's `repeated_blocks`."""
    for name in network.repeated_blocks if isinstance(network, RepeatedBlocks) else ():
        yield from network.get_submodule(name).children()


def prepare_blocks(network: nn.Module, *, recompute: bool, backend: str | None) -> None:
    """Recompute and compile each repeated block; names of weights stay. UsageError: the network declares none."""
    blocks = list(repeated_blocks(network))
    for key, asked in (("train.activation_checkpointing", recompute), ("train.compile", backend is not None)):
        if asked and not blocks:
            raise UsageError(
                f"{key} works on repeated blocks, and {type(network).__name__} declares none; leave it out"
            )
    if backend is not None:
        import torch

        if backend not in torch.compiler.list_backends(exclude_tags=()):
            raise UsageError(
                f"train.compile: unknown backend {backend!r} (valid: {', '.join(torch.compiler.list_backends(exclude_tags=()))})"
            )
    for block in blocks:
        if backend is not None:
            block.compile(backend=backend)
        if recompute:
            # the attribute of the instance shadows the method: hooks that ZeRO 3 puts on the module stay outside
            block.forward = functools.partial(_recomputed, block.forward)


def _recomputed(forward: Callable[..., Any], *inputs: Any, **named: Any) -> Any:
    if differentiated():
        return forward(*inputs, **named)
    return checkpoint(forward, *inputs, use_reentrant=False, **named)

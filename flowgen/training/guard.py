"""The guard of what a step trains: all ranks run the same sub-modules in one step, or the run stops.

Where ranks differ, ZeRO 1 and 2 compute wrong gradients in silence, and ZeRO 3 waits for ever (docs/training.md has the
measured table). What a step trains is a function of (seed, step); this compares it before gradients are reduced.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from flowgen.core.interfaces import MASK
from flowgen.errors import FlowgenError
from flowgen.training.ranks import Ranks, gather_objects, reduce


class Guard:
    """Compares over the ranks what goes into a step and which modules with parameters of their own ran in it."""

    def __init__(self, module: nn.Module, ranks: Ranks) -> None:
        self.ranks = ranks
        owners = [(name, m) for name, m in module.named_modules() if any(True for _ in m.parameters(recurse=False))]
        self._names = [name for name, _ in owners]
        self._ran = bytearray(len(owners))
        if ranks.count > 1:
            for i, (_, owner) in enumerate(owners):
                owner.register_forward_pre_hook(self._mark(i))

    def _mark(self, i: int) -> Any:
        def ran(module: nn.Module, inputs: Any) -> None:
            self._ran[i] = 1

        return ran

    def before(self, step: int, inputs: Any) -> None:
        """Compare the structure of the inputs. FlowgenError names the ranks that differ."""
        if self.ranks.count > 1:
            self._compare(step, structure(inputs), stop=False)

    def after(self, step: int, inputs: Any, stop: bool) -> bool:
        """Compare what ran in the forward pass; returns whether any rank wants to stop. FlowgenError names the ranks that differ."""
        if self.ranks.count == 1:
            return stop
        ran, self._ran[:] = bytes(self._ran), bytes(len(self._ran))
        names = [name for name, flag in zip(self._names, ran, strict=True) if flag]
        return self._compare(step, f"{structure(inputs)}; {ran.hex()}", stop, names)

    def _compare(self, step: int, facts: str, stop: bool, names: list[str] | None = None) -> bool:
        key = zlib.crc32(facts.encode())
        high, low, stops = reduce(torch.tensor([key, -key, int(stop)]), self.ranks, "max").tolist()
        if high == -low:
            return bool(stops)
        everyone = gather_objects((facts.partition(";")[0], set(names or ())), self.ranks)
        first, expected = everyone[0]
        for rank, (given, ran) in enumerate(everyone):
            if (given, ran) != (first, expected):
                what = f"was given {given} and rank 0 {first}"
                if given == first:
                    what = f"ran {_some(ran - expected)} and rank 0 {_some(expected - ran)}, which the other did not"
                raise FlowgenError(
                    f"in step {step} rank {rank} {what}; ZeRO would compute wrong gradients in silence: what a step trains must "
                    f"be a function of (seed, step), the same on all ranks"
                )
        raise FlowgenError(f"in step {step} the ranks train different things, but cannot say which; run it on one rank")


def structure(inputs: Any) -> str:
    """Names and numbers of dimensions of a tree of tensors; a rank whose clips are of one length has no mask."""
    if isinstance(inputs, Mapping):
        return "{" + ", ".join(f"{k}: {structure(v)}" for k, v in sorted(inputs.items()) if k != MASK) + "}"
    if isinstance(inputs, tuple):
        return "(" + ", ".join(map(structure, inputs)) + ")"
    return f"{inputs.ndim}-d" if isinstance(inputs, Tensor) else "none" if inputs is None else type(inputs).__name__


def _some(names: set[str]) -> str:
    found = sorted(names)
    return ", ".join(found[:4]) + (f" and {len(found) - 4} more" if len(found) > 4 else "") or "nothing"

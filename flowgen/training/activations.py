"""How much memory a forward and backward pass needs at its peak, found on tensors that have shapes and no memory."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from flowgen.core.random import Randomness
from flowgen.core.tree import State
from flowgen.nn.parallel import SequenceGroup
from flowgen.training.internals import CAST, TorchDispatchMode, tree_leaves


class LiveStorage(TorchDispatchMode):
    """Counts the bytes of the storages that operations make, from their making until the last tensor on them is gone.

    Sees what autograd sees: the buffers of the backward pass as well, but not what a kernel needs for itself.
    """

    def __init__(self, apart: Iterable[Tensor]) -> None:
        """`apart`: tensors that are not counted."""
        super().__init__()
        self.bytes = self.peak = 0
        self.casts = 0
        """Bytes of `apart` in another precision that are alive at the peak: what autocast makes of weights."""
        self._casts: set[int] = set()
        self._apart = [tensor.untyped_storage() for tensor in apart]  # held, so that their identities stay theirs
        self._known: dict[int, Any] = {id(storage): None for storage in self._apart}

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        made = func(*args, **(kwargs or {}))
        cast = func is CAST and self._is_apart(args[0])
        for tensor in tree_leaves(made):
            if isinstance(tensor, Tensor):
                self._see(tensor.untyped_storage(), cast)
        return made

    def _is_apart(self, tensor: Tensor) -> bool:
        key = id(tensor.untyped_storage())
        return key in self._known and self._known[key] is None

    def _see(self, storage: Any, cast: bool) -> None:
        key, size = id(storage), storage.nbytes()
        if key in self._known:
            return

        def gone(_: Any) -> None:
            del self._known[key]
            self._casts.discard(key)
            self.bytes -= size

        self._known[key] = weakref.ref(storage, gone)
        self.bytes += size
        if cast:
            self._casts.add(key)
        if self.bytes > self.peak:
            self.peak = self.bytes
            self.casts = sum(self._known[k]().nbytes() for k in self._casts)


@dataclass(frozen=True)
class Shapes(Randomness):
    """Random numbers of the right shape that are none: whatever reads their values has nothing to read."""

    def normal(self, like: State, purpose: str = "noise") -> State:
        if isinstance(like, dict):
            return {k: self.normal(v) for k, v in like.items()}  # type: ignore[misc]
        return torch.zeros(like.shape)

    def uniform(self, purpose: str = "times", *, stratified: bool = False) -> Tensor:
        return torch.zeros(len(self.rows), dtype=torch.float64)


class Pretended(SequenceGroup):
    """Exchanges with itself: what it makes has the shapes, and takes the memory, of what a real group makes."""

    def exchange(self, x: Tensor) -> Tensor:
        return x.contiguous().clone()

    def gather(self, x: Tensor) -> Tensor:
        return torch.cat([x] * self.size, 1)


def peak_of_step(
    objective: nn.Module, inputs: Callable[[], tuple[Any, ...]], autocast: bool = False
) -> tuple[int, int]:
    """Bytes at the peak of one forward and backward pass, and how many of them autocast's copies of weights take.

    Inputs are included; weights, buffers and gradients are not counted. autocast: to bfloat16, in the forward pass.

    The gradients are there before, as in all micro-batches but the first. To be called under a FakeTensorMode in which the
    objective was made, `inputs` being what makes its arguments.
    """
    apart = [*objective.parameters(), *objective.buffers()]
    for parameter in objective.parameters():
        if parameter.requires_grad:
            parameter.grad = torch.zeros_like(parameter)
            apart.append(parameter.grad)
    with LiveStorage(apart) as live:
        given = inputs()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
            output = objective(*given)
        output.total.mean().backward()
    return live.peak, live.casts

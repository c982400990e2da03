"""Frozen weights of repeated blocks that rest in memory of the host and are on the device while their block runs.

A block's storages on the device are emptied and filled again in place, as FSDP does with gathered weights (Zhao et al. 2023,
arXiv 2304.11277, section 3): tensors that autograd saved for the backward pass share them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from flowgen.core.flow_map import differentiated
from flowgen.device import Copies, pin, pins
from flowgen.errors import UsageError
from flowgen.nn.quantised import QuantisedLinear


class BlockSwap(nn.Module):
    """Swaps the frozen weights of blocks in and out: at most two blocks are on the device, one that runs and the next one.

    The device is that of a block's input. Swapped weights are no parameters or buffers any more: they are in no state,
    optimizer or exchange between ranks, and `Module.to` leaves them. The order of copies is that of `blocks` in the forward
    pass and the reverse in the backward pass; another order of calls costs waiting, and changes no result.

    Args:
        blocks: in the order in which the network runs them. Weights that two of them share stay where they are.
        swap: False: only count them, as for tensors that have no memory.

    Raises UsageError when in training a block runs that is differentiated forward, or whose output holds other things than
    tensors.
    """

    def __init__(self, blocks: Sequence[nn.Module], swap: bool = True) -> None:
        super().__init__()
        shared = Counter(id(t) for block in blocks for t in {id(t): t for _, _, t in _frozen(block)}.values())
        own = [[(o, n, t) for o, n, t in _frozen(block) if shared[id(t)] == 1] for block in blocks]
        self.sizes = [sum(t.nbytes for _, _, t in tensors) for tensors in own]
        """Bytes of each block that are swapped."""
        self.numbers = sum(t.numel() for tensors in own for _, _, t in tensors if isinstance(t, nn.Parameter))
        """Of the parameters among them."""
        self._parts = [_Part(tensors) for tensors in own] if swap else []
        self._current, self._backward = -1, False
        if swap:
            for k, block in enumerate(blocks):
                block.register_forward_pre_hook(_before(self, k), with_kwargs=True)
                block.register_forward_hook(_after(self, k))

    @property
    def resident(self) -> list[int]:
        """The blocks whose weights are on the device now."""
        return [k for k, part in enumerate(self._parts) if part.filled]

    @property
    def most_resident(self) -> int:
        """Bytes on the device at most: of two blocks that follow each other, the last and the first included."""
        following = self.sizes[1:] + self.sizes[:1] if len(self.sizes) > 1 else [0]
        return max(a + b for a, b in zip(self.sizes, following, strict=True))

    def enter(self, k: int, device: torch.device, *, backward: bool) -> None:
        """Have block k on the device, begin to copy the one that follows in this direction, and release the others."""
        if k == self._current and k > 0 and self._backward and not backward:
            return  # recomputed within the backward pass
        self._current, self._backward = k, backward
        following = self._following(k, backward)
        for i, part in enumerate(self._parts):
            if i not in (k, following):
                part.release()
        self._parts[k].fetch(device)
        self._parts[k].wait()
        if following is not None:
            self._parts[following].fetch(device)

    def _following(self, k: int, backward: bool) -> int | None:
        """After the last block the first one of the next pass, where no backward pass comes before it."""
        if backward:
            return k - 1 if k > 0 else None
        if k + 1 < len(self._parts):
            return k + 1
        return None if torch.is_grad_enabled() else 0

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> BlockSwap:
        """A network that is moved leaves nothing where it was."""
        for part in self._parts:
            part.release()
        self._current = -1
        return self


class _Part:
    """The swapped weights of a block."""

    def __init__(self, tensors: Sequence[tuple[nn.Module, str, Tensor]]) -> None:
        self.filled = False
        self._places = [(owner, name) for owner, name, _ in tensors]
        self._host = [t.detach() for _, _, t in tensors]
        self._there: list[Tensor] = []
        self._copies: Copies | None = None
        self._wait: Callable[[], None] | None = None
        for (owner, name), host in zip(self._places, self._host, strict=True):
            del (owner._parameters if name in owner._parameters else owner._buffers)[name]
            setattr(owner, name, host)

    @torch.no_grad()
    def fetch(self, device: torch.device) -> None:
        """Begin to copy to a device, where it is not there yet."""
        if self.filled and self._copies is not None and self._copies.device == device:
            return
        self.release()
        if self._copies is None or self._copies.device != device:
            self._host = [pin(t) for t in self._host] if pins(device) else self._host
            self._copies = Copies(device)
            self._there = [torch.empty_like(t, device=device) for t in self._host]
            for (owner, name), there in zip(self._places, self._there, strict=True):
                setattr(owner, name, there)
        for there in self._there:
            there.untyped_storage().resize_(there.nbytes)
        # `data` has a version of its own: for autograd the values are the ones it saved
        self._wait = self._copies.start([(t.data, host) for t, host in zip(self._there, self._host, strict=True)])
        self.filled = True

    def wait(self) -> None:
        """Have what is computed from now on wait for the copies."""
        if self._wait is not None:
            self._wait()
            self._wait = None

    def release(self) -> None:
        self.wait()  # memory that is still copied into is not given back
        for there in self._there:
            there.untyped_storage().resize_(0)
        self.filled = False


def _frozen(block: nn.Module) -> list[tuple[nn.Module, str, Tensor]]:
    """Owner, name and tensor of frozen parameters, and of the buffers of quantised layers."""
    found: list[tuple[nn.Module, str, Tensor]] = []
    for owner in block.modules():
        found += [(owner, n, p) for n, p in owner.named_parameters(recurse=False) if not p.requires_grad]
        if isinstance(owner, QuantisedLinear):
            found += [(owner, n, b) for n, b in owner.named_buffers(recurse=False)]
    return found


def _tensors(value: Any) -> tuple[list[Tensor], list[str]]:
    """The tensors in nested tuples, lists and dicts, and the kinds of what else is there."""
    if isinstance(value, Tensor):
        return [value], []
    if isinstance(value, (tuple, list, dict)):
        parts = [_tensors(v) for v in (value.values() if isinstance(value, dict) else value)]
        return [t for tensors, _ in parts for t in tensors], [kind for _, kinds in parts for kind in kinds]
    return [], [] if value is None else [type(value).__name__]


def _before(swap: BlockSwap, k: int) -> Callable[..., None]:
    def hook(block: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
        if differentiated() and torch.is_grad_enabled():
            raise UsageError(
                "network.swap_blocks does not go with a loss that differentiates the network forward; leave it out"
            )
        swap.enter(k, _tensors((inputs, named))[0][0].device, backward=False)

    return hook


def _after(swap: BlockSwap, k: int) -> Callable[..., None]:
    def hook(block: nn.Module, inputs: Any, output: Any) -> None:
        if not torch.is_grad_enabled():
            return
        tensors, others = _tensors(output)
        if others:
            raise UsageError(
                f"network.swap_blocks: {type(block).__name__} gives a {others[0]}, so it is not seen when its backward pass "
                f"begins; leave it out"
            )
        for tensor in tensors:
            if tensor.requires_grad:
                # its gradient is complete before that of anything within the block
                tensor.register_hook(lambda grad: swap.enter(k, grad.device, backward=True))

    return hook

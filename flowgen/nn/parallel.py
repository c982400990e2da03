"""One clip's tokens over several ranks: each holds a part of them all, and in attention a part of the heads for all of them.

Ulysses (Jacobs et al. 2023). All that is done token by token needs no change; attention exchanges tokens for heads before
and heads for tokens after, and sends a share that shrinks with the number of ranks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class SequenceGroup:
    """The `size` ranks that share each clip, of which this is number `rank`; `handle`: their process group.

    They must run the same forward passes on the same inputs, and make the same loss of the same outputs.
    """

    rank: int
    size: int
    handle: Any = None

    def part(self, n: int) -> slice:
        """This rank's part of n. ValueError: it does not divide."""
        if n % self.size:
            raise ValueError(f"{n} do not divide among {self.size} ranks")
        share = n // self.size
        return slice(self.rank * share, (self.rank + 1) * share)

    def to_heads(self, x: Tensor) -> Tensor:
        """This rank's tokens with all heads [B, N/size, 3, heads, D] to all tokens with its heads [B, N, 3, heads/size, D]."""
        parts = x.unflatten(3, (self.size, -1)).permute(3, 0, 1, 2, 4, 5)
        return self.exchange(parts).transpose(0, 1).flatten(1, 2)

    def to_tokens(self, x: Tensor) -> Tensor:
        """All tokens with this rank's heads [B, N, heads/size, D] to its tokens with all heads [B, N/size, heads, D]."""
        parts = x.unflatten(1, (self.size, -1)).transpose(0, 1)
        return self.exchange(parts).permute(1, 2, 0, 3, 4).flatten(2, 3)

    def exchange(self, x: Tensor) -> Tensor:
        """x [size, ...]: part i goes to rank i; of what is made, part i came from rank i."""
        return _Exchange.apply(x.contiguous(), self.handle)

    def gather(self, x: Tensor) -> Tensor:
        """This rank's tokens [B, N/size, ...] to all of them [B, N, ...], on every rank.

        The gradient of a part is the sum of what all ranks say of it: `size` times what this one says, as all say the same. Weights then
        have, on each rank, `size` times the gradient through its own tokens, and their mean over the ranks is the whole one.
        """
        return _Gather.apply(x.contiguous(), self)


class _Exchange(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, handle: Any) -> Tensor:
        ctx.handle = handle
        made = torch.empty_like(x)
        torch.distributed.all_to_all_single(made, x, group=handle)
        return made

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return _Exchange.apply(grad.contiguous(), ctx.handle), None


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, group: SequenceGroup) -> Tensor:
        ctx.group = group
        parts = [torch.empty_like(x) for _ in range(group.size)]
        torch.distributed.all_gather(parts, x, group=group.handle)
        return torch.cat(parts, 1)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad[:, ctx.group.part(grad.shape[1])] * ctx.group.size, None

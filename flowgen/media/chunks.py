"""Long clips in parts: what is made of each step, from as many neighbours as bear on it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def in_chunks(fn: Callable[[Tensor], Tensor], x: Tensor, chunk: int, context: int) -> Tensor:
    """fn(x) of x [B, T, ...], at most chunk + 2 context steps at a time: equal to the whole, in memory that does not grow with T.

    Args:
        fn: gives as many steps as it takes; a step depends on `context` steps to each side at most, and what lies beyond the
            ends is silence to it.
    """
    steps = x.shape[1]
    if steps <= chunk:
        return fn(x)
    out: Tensor | None = None
    for start in range(0, steps, chunk):
        low, end = max(start - context, 0), min(start + chunk, steps)
        part = fn(x[:, low : min(end + context, steps)])[:, start - low : end - low]
        if out is None:
            out = torch.empty((len(x), steps, *part.shape[2:]), dtype=part.dtype, device=part.device)
        out[:, start:end] = part
    assert out is not None
    return out

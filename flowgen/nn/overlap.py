"""Outputs of tokens that overlap: no seam where one patch ends and the next begins."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def span(patch: int) -> int:
    """Positions that a token reaches over: its patch, and about half of one on either side.

    An odd number, so that one of them is the centre and a level of each token gives a line between the centres.
    """
    return 2 * patch - 1


def crossfade(x: Tensor, valid: Tensor, patch: Sequence[int]) -> Tensor:
    """What tokens say, [B, g0, q0, g1, q1, ..., C], to [B, g0 p0, g1 p1, ..., C].

    Of an axis k there are g_k tokens that reach over q_k positions: their patch p_k, or its `span`. Each position is the mean of
    what the tokens that reach it say, a token counting for more the nearer its centre is (triangular weights, as in
    overlap-add).

    Args:
        valid: [B, g0, g1, ...]; a token counts only where it is.
    """
    weights = valid.to(x.dtype).reshape(len(x), *(n for g in valid.shape[1:] for n in (g, 1)), 1)
    for axis, p in enumerate(patch):
        reach = x.shape[2 * axis + 2]
        if reach > p:
            own = 1 - (torch.arange(reach, device=x.device) - (reach - 1) / 2).abs() / p
            weights = weights * own.to(x.dtype).reshape(-1, *(1,) * (x.ndim - 2 * axis - 3))
    x, weights = x * weights, weights.expand(*x.shape[:-1], 1)
    for axis, p in enumerate(patch):
        x, weights = _added(x, p, axis + 1), _added(weights, p, axis + 1)
    return x / weights.clamp(min=1e-6)


def _added(x: Tensor, patch: int, dim: int) -> Tensor:
    """Sums of spans that overlap, the tokens being `dim` and the positions of each the next; without what reaches beyond the ends."""
    x = x.movedim((dim, dim + 1), (-2, -1))
    tokens, first, rest = x.shape[-2], x[..., :patch], x[..., patch:]
    rest = F.pad(rest, (0, patch - rest.shape[-1]))
    blocks = F.pad(first, (0, 0, 0, 1)) + F.pad(rest, (0, 0, 1, 0))
    before = (x.shape[-1] - patch) // 2
    return blocks.flatten(-2)[..., before : before + tokens * patch].movedim(-1, dim)

"""Self-attention with rotary positions, and cross-attention to a sequence. Both normalise queries and keys."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flowgen.nn.positions import Rotation, rotate


def attendable(mask: Tensor) -> Tensor:
    """A mask of valid keys [..., keys] in which a row without any is all valid: its result is unused, but must be finite."""
    return mask | ~mask.any(-1, keepdim=True)


class SelfAttention(nn.Module):
    """Multi-head self-attention; queries and keys pass an RMS norm (Henry et al. 2020; Dehghani et al. 2023).

    The norm's gain is one number for each pair of channels that turn together, so it joins the (much smaller) rotation.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        if width % heads or (width // heads) % 2:
            raise ValueError(f"width {width} is not divisible into {heads} heads of an even number of channels")
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.gain = nn.Parameter(torch.ones(2, 1, width // heads // 2, 1))  # of queries and keys
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor, rotation: Rotation | None = None, mask: Tensor | None = None) -> Tensor:
        """x [B, N, width]; mask of keys, bool [B, N]."""
        qk, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).split((2, 1), 2)
        qk = F.rms_norm(qk.float(), qk.shape[-1:])
        if rotation is None:
            qk = (qk.unflatten(-1, (-1, 2)) * self.gain).flatten(-2)
        else:
            qk = rotate(qk, rotation * self.gain.float())
        q, k = (z.transpose(1, 2) for z in qk.to(v.dtype).unbind(2))
        v = v.squeeze(2).transpose(1, 2)
        keys = None if mask is None else attendable(mask)[:, None, None]
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=keys)
        return self.out(y.transpose(1, 2).flatten(2))


class CrossAttention(nn.Module):
    """Attention from tokens to a sequence, beside which there is always a learned token that stands for 'nothing said'."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q = nn.Linear(width, width)
        self.kv = nn.Linear(width, 2 * width)
        self.gain = nn.Parameter(torch.ones(width // heads))
        self.nothing = nn.Parameter(torch.randn(1, 1, width) * 0.02)
        self.out = nn.Linear(width, width)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, x: Tensor, sequence: Tensor, mask: Tensor) -> Tensor:
        """x [B, N, width]; sequence [B, L, width] and which of it is real, bool [B, L]."""
        sequence = torch.cat([self.nothing.expand(len(x), 1, -1).to(sequence.dtype), sequence], 1)
        mask = F.pad(mask, (1, 0), value=True)
        q = self.q(x).unflatten(-1, (self.heads, -1))
        k, v = self.kv(sequence).unflatten(-1, (2, self.heads, -1)).unbind(2)
        q = F.rms_norm(q.float(), q.shape[-1:]).to(v.dtype)
        k = (F.rms_norm(k.float(), k.shape[-1:]) * self.gain).to(v.dtype)
        y = F.scaled_dot_product_attention(
            q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), attn_mask=mask[:, None, None]
        )
        return self.out(y.transpose(1, 2).flatten(2))

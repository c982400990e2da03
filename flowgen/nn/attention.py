"""Self-attention with rotary positions, and cross-attention to a sequence. Both normalise queries and keys."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flowgen.core.flow_map import differentiated
from flowgen.nn.layout import Layout
from flowgen.nn.positions import Rotation, rotate


def attendable(mask: Tensor) -> Tensor:
    """A mask of valid keys [..., keys] in which a row without any is all valid: its result is unused, but must be finite."""
    return mask | ~mask.any(-1, keepdim=True)


def attended(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """softmax(q k^T / sqrt(D)) v, [B, heads, N, D], over the keys where the mask is true.

    Written out where networks are differentiated forward: fused kernels have no forward derivative, and that of torch's own
    softmax has no gradient.
    """
    if not differentiated():
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    logits = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])
    if mask is not None:
        logits = logits.masked_fill(~mask, -math.inf)
    weights = (logits - logits.amax(-1, keepdim=True).detach()).exp()
    return (weights / weights.sum(-1, keepdim=True)).to(v.dtype) @ v


def normed(x: Tensor, gain: Tensor) -> Tensor:
    """RMS norm of each head of x [..., heads, D] times the head's gain [heads, 1], in float32: sharp logits stay bounded.

    A gain for each head instead of each channel is a temperature, which is what it is needed for, and costs no pass over x.
    """
    x = x.float()
    norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    return x * (gain.float() * math.sqrt(x.shape[-1]) / (norm + 1e-6))


class SelfAttention(nn.Module):
    """Multi-head self-attention; queries and keys are normed (Henry et al. 2020; Dehghani et al. 2023)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        if width % heads or (width // heads) % 2:
            raise ValueError(f"width {width} is not divisible into {heads} heads of an even number of channels")
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.gain = nn.Parameter(torch.ones(2, heads, 1))  # of queries and keys
        self.out = nn.Linear(width, width)

    def forward(
        self, x: Tensor, rotation: Rotation | None = None, mask: Tensor | None = None, layout: Layout | None = None
    ) -> Tensor:
        """x [B, ..., width]; mask of keys, bool [B', N], and a rotation for each N, B' and N as the layout splits all tokens.

        Without a layout, x is [B, N, width] and all attend to all.
        """
        if layout is None or layout.group is None:
            h = x if layout is None else layout.split(x)
            y = self._attend(self.qkv(h), self.gain, rotation, mask)
            return self.out(y) if layout is None else layout.join(self.out(y), x.shape)
        group = layout.group
        qkv = group.to_heads(self.qkv(x.flatten(1, -2)).unflatten(-1, (3, self.heads, -1))).flatten(2)
        y = self._attend(layout.split(qkv), self.gain[:, group.part(self.heads)], rotation, mask)
        y = layout.join(y, torch.Size((*qkv.shape[:2], y.shape[-1])))
        return self.out(group.to_tokens(y.unflatten(-1, (self.heads // group.size, -1))).flatten(2)).view(x.shape)

    @staticmethod
    def _attend(qkv: Tensor, gain: Tensor, rotation: Rotation | None, mask: Tensor | None) -> Tensor:
        """[B, N, 3 x heads x D] to [B, N, heads x D], for as many heads as there are gains."""
        qk, v = qkv.unflatten(-1, (3, gain.shape[1], -1)).split((2, 1), 2)
        qk = normed(qk, gain)
        if rotation is not None:
            qk = rotate(qk, rotation)
        q, k = (z.transpose(1, 2) for z in qk.to(v.dtype).unbind(2))
        v = v.squeeze(2).transpose(1, 2)
        keys = None if mask is None else attendable(mask)[:, None, None]
        return attended(q, k, v, keys).transpose(1, 2).flatten(2)


class CrossAttention(nn.Module):
    """Attention from tokens to a sequence, beside which there is always a learned token that stands for 'nothing said'."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q = nn.Linear(width, width)
        self.kv = nn.Linear(width, 2 * width)
        self.gain = nn.Parameter(torch.ones(2, heads, 1))  # of queries and keys
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
        q, k = normed(q, self.gain[0]).to(v.dtype), normed(k, self.gain[1]).to(v.dtype)
        y = attended(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), mask[:, None, None])
        return self.out(y.transpose(1, 2).flatten(2))

"""A transformer over any number of axes: audio latents, video latents, anything on a grid."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint as recompute

from flowgen.core.flow_map import differentiated
from flowgen.core.interfaces import END_TIME, MASK, NetworkInput
from flowgen.core.ranges import Count, Positive
from flowgen.media.conditions import Conditioner
from flowgen.media.streams import StreamSpec
from flowgen.nn.attention import CrossAttention, SelfAttention
from flowgen.nn.embedding import ConditionEmbedding, InputEmbeddings, TimeEmbedding
from flowgen.nn.layout import Layout
from flowgen.nn.parallel import SequenceGroup
from flowgen.nn.patches import Patches, real_times
from flowgen.nn.positions import Positions, Rotation


class Block(nn.Module):
    """Self-attention, cross-attention (where there is a sequence) and MLP, each on a residual stream in float32.

    Shift, scale and gate of attention and MLP are the shared projection of time and conditions plus a table of the block's
    own (PixArt-alpha, Chen et al. 2023, section 2.3); they start at zero, and the block as the identity.
    """

    def __init__(self, width: int, heads: int, hidden: int, cross: bool) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.zeros(6, width))
        self.attention = SelfAttention(width, heads)
        self.cross = CrossAttention(width, heads) if cross else None
        self.mlp = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))

    def forward(
        self,
        x: Tensor,
        modulation: Tensor,
        layout: Layout,
        rotation: Rotation,
        mask: Tensor | None,
        sequence: Tensor | None,
        sequence_mask: Tensor | None,
    ) -> Tensor:
        """x [B, L, S, width], this rank's tokens, with one modulation [B, L, 6, width] for each L."""
        shift1, scale1, gate1, shift2, scale2, gate2 = (self.table + modulation).unsqueeze(2).unbind(3)
        x = torch.addcmul(x, gate1, self.attention(modulate(x, shift1, scale1), rotation, mask, layout))
        if self.cross is not None and sequence is not None and sequence_mask is not None:
            h = F.layer_norm(x, x.shape[-1:]).flatten(1, 2)
            x = x + self.cross(h, sequence, sequence_mask).view(x.shape)
        return torch.addcmul(x, gate2, self.mlp(modulate(x, shift2, scale2)))


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """(1 + scale) norm(x) + shift."""
    return torch.addcmul(shift, F.layer_norm(x, x.shape[-1:]), 1 + scale)


class Transformer(nn.Module):
    """Velocity of states [B, *axes, channels], for any number of axes and grids of any size that the patch divides.

    Args:
        spec: the stream as trained.
        conditions: conditioners by name; vectors join the time embedding, sequences are attended to.
        inputs: what the loss shows the network beside x and t; they join the time embedding.
        width: channels of a token.
        depth: number of blocks.
        heads: of the attention.
        patch: steps of each axis that make one token; 1 by default.
        mlp_ratio: hidden width of an MLP relative to `width`.
        attention: "full", or "factorised": over space and over time in turn, where time is the axis of that name, or the
            first.
        overlap: names of axes along which what tokens say overlaps by half a patch and is cross-faded, so that there is no
            seam between patches. It takes twice the output layer for each.
        checkpoint: recompute the blocks in the backward pass instead of keeping what they made.

    Raises ValueError for a patch, a width or a number of axes that does not fit.
    """

    repeated_blocks: ClassVar[tuple[str, ...]] = ("blocks",)
    """Lists of like modules, each of which may be compiled or checkpointed by itself."""
    keep_float32: ClassVar[tuple[str, ...]] = ("time", "inputs", "positions")
    """Modules that stay in float32 when the rest is cast."""
    neutral_at_start: ClassVar[tuple[str, ...]] = ("inputs",)
    """Modules that change nothing as they are made: weights to start from may lack them."""
    patch: tuple[int, ...]

    def __init__(
        self,
        spec: StreamSpec,
        conditions: Mapping[str, Conditioner],
        inputs: Sequence[NetworkInput] = (),
        *,
        width: Count = 256,
        depth: Count = 6,
        heads: Count = 4,
        patch: tuple[Count, ...] | None = None,
        mlp_ratio: Positive = 4.0,
        attention: Literal["full", "factorised"] = "full",
        overlap: tuple[str, ...] = (),
        checkpoint: bool = False,
    ) -> None:
        super().__init__()
        self.patch = patch or (1,) * len(spec.axes)
        self.channels = spec.channels
        self.checkpoint = checkpoint
        self.heads, self.sizes = heads, tuple(axis.size for axis in spec.axes)
        self.group: SequenceGroup | None = None
        if not spec.axes:
            raise ValueError("a transformer needs a stream with at least 1 axis; a plain vector is a case for the MLP")
        self.patches = Patches(tuple(axis.name for axis in spec.axes), self.patch, overlap)
        self.patches.grid(self.sizes)

        self.attended = _attended(self.patches.names, attention)
        self.time = TimeEmbedding(width)
        self.conditions = ConditionEmbedding(conditions, width)
        self.embed = nn.Linear(spec.channels * self.patches.volume, width)
        self.positions = nn.ModuleList(
            Positions(tuple(spec.axes[i] for i in axes), tuple(self.patch[i] for i in axes), pairs=width // heads // 2)
            for axes in self.attended
        )
        self.project = nn.Linear(width, 6 * width)
        hidden, cross = int(width * mlp_ratio), self.conditions.has_sequence
        self.blocks = nn.ModuleList(Block(width, heads, hidden, cross) for _ in range(depth))
        self.table = nn.Parameter(torch.zeros(2, width))
        self.out = nn.Linear(width, spec.channels * math.prod(self.patches.reach))
        for layer in (self.project, self.out):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
        self.inputs = InputEmbeddings(inputs, width)  # last, so that all else begins as it does without them

    def forward(self, x: Tensor, t: Tensor, cond: Mapping[str, Any]) -> Tensor:
        """x [B, *axes, channels] at times t, [B] or left-aligned with x ([B, T], [B, T, H], ...).

        A token of several positions takes the earliest of their times: the positions that are given (t = 1) are there to
        be read, and the time that matters is that of those which are to be made. `cond["mask"]`, left-aligned as well,
        says which positions are real; the others change nothing.
        """
        mask = cond.get(MASK)
        inputs, cond = self.inputs.take(cond, t)
        if mask is not None:
            x = torch.where(mask.reshape(mask.shape + (1,) * (x.ndim - mask.ndim)), x, 0.0)
            t = real_times(t, mask)
            inputs |= {END_TIME: real_times(inputs[END_TIME], mask)} if END_TIME in inputs else {}
        grid = self.patches.grid(tuple(x.shape[1:-1]))
        tokens = self.patches.split(x)
        times, inputs = self.patches.times(t), {name: self.patches.times(value) for name, value in inputs.items()}
        if self.group is not None:
            inputs = {name: self._own(self.group, tokens, value)[1] for name, value in inputs.items()}
            tokens, times = self._own(self.group, tokens, times)
        embedded = self.conditions(cond)
        emb = self.time(times) + self.inputs(inputs, times)  # [B, L, width]
        if embedded.vector is not None:
            emb = emb + embedded.vector[:, None]
        emb = F.silu(emb)
        modulation = self.project(emb).float().unflatten(-1, (6, -1))

        h = self.embed(tokens).float().unflatten(1, (emb.shape[1], -1))  # [B, L, S, width]
        layouts = [Layout(grid, axes, self.group) for axes in self.attended]
        rotations = [p(tuple(grid[i] for i in axes)) for p, axes in zip(self.positions, self.attended, strict=True)]
        masks = [None if mask is None else layout.split(self.patches.mask(mask, grid))[..., 0] for layout in layouts]
        for i, block in enumerate(self.blocks):
            k = i % len(layouts)
            given = (h, modulation, layouts[k], rotations[k], masks[k], embedded.sequence, embedded.mask)
            if self.checkpoint and torch.is_grad_enabled() and not differentiated():
                h = recompute(block, *given, use_reentrant=False)
            else:
                h = block(*given)
        with torch.autocast(x.device.type, enabled=False):  # small, and no later layer undoes its rounding
            shift, scale = (self.table + emb.float()[:, :, None]).unsqueeze(2).unbind(3)
            out = self.out(modulate(h, shift, scale).to(self.out.weight.dtype)).flatten(1, 2)
        return self.patches.join(out if self.group is None else self.group.gather(out), grid, mask)

    def shard_sequence(self, group: SequenceGroup) -> None:
        """Divide the tokens of every clip among the ranks of a group from now on. ValueError: heads or tokens do not divide."""
        if self.heads % group.size:
            raise ValueError(f"{self.heads} heads do not divide among {group.size} ranks")
        self._divisible(math.prod(self.patches.grid(self.sizes)), group)
        self.group = group

    def _own(self, group: SequenceGroup, tokens: Tensor, times: Tensor) -> tuple[Tensor, Tensor]:
        """This rank's part of the tokens, and the times of these."""
        count = tokens.shape[1]
        self._divisible(count, group)
        if times.shape[1] > 1:
            if times.shape[1] % group.size:
                times = times.repeat_interleave(count // times.shape[1], 1)  # a time for each token
            times = times[:, group.part(times.shape[1])]
        return tokens[:, group.part(count)], times

    def _divisible(self, tokens: int, group: SequenceGroup) -> None:
        if tokens % group.size:
            raise ValueError(
                f"{tokens} tokens of a clip do not divide among {group.size} ranks; choose sizes or a patch {self.patch} that do"
            )


def _attended(names: tuple[str, ...], attention: str) -> tuple[tuple[int, ...], ...]:
    """Over which axes successive blocks attend, in turn."""
    every = tuple(range(len(names)))
    if attention == "full":
        return (every,)
    if attention != "factorised":
        raise ValueError(f"attention is 'full' or 'factorised', got {attention!r}")
    if len(names) < 2:
        raise ValueError(f"factorised attention needs at least 2 axes, the stream has {names}")
    time = names.index("time") if "time" in names else 0
    return tuple(i for i in every if i != time), (time,)

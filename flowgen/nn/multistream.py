"""A transformer over several streams at once: sound with picture, motion with force, any number on any axes."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

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
from flowgen.nn.patches import Patches, real_times
from flowgen.nn.positions import CommonPositions, Rotation
from flowgen.nn.transformer import modulate


@dataclass(frozen=True)
class Places:
    """Where the tokens of all streams lie, one stream after the other, each in row-major order."""

    rotation: Rotation
    mask: Tensor | None
    """Which are real, bool [B, N]."""
    sizes: Mapping[str, int]
    """Tokens of each stream."""
    near: Tensor | None
    """Which exchange, bool [N, N]; None: all."""

    def of(self, name: str) -> slice:
        """The tokens of a stream among all."""
        names = list(self.sizes)
        first = sum(self.sizes[other] for other in names[: names.index(name)])
        return slice(first, first + self.sizes[name])


class StreamBlock(nn.Module):
    """Self-attention among the tokens of all streams, cross-attention (where there is a sequence), an MLP for each stream.

    Streams are kept apart by name, so that each has modulation of its own (see `flowgen.nn.transformer.Block`).
    """

    def __init__(self, names: Sequence[str], width: int, heads: int, hidden: int, cross: bool) -> None:
        super().__init__()
        self.tables = nn.ParameterDict({name: nn.Parameter(torch.zeros(6, width)) for name in names})
        self.attention = SelfAttention(width, heads)
        self.cross = CrossAttention(width, heads) if cross else None
        self.mlps = nn.ModuleDict(
            {name: nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width)) for name in names}
        )

    def forward(
        self,
        streams: dict[str, Tensor],
        modulation: dict[str, Tensor],
        places: Places,
        sequence: Tensor | None,
        sequence_mask: Tensor | None,
    ) -> dict[str, Tensor]:
        """streams [B, L, S, width], each with one modulation [B, L, 6, width] for each L."""
        parts = {n: (self.tables[n] + modulation[n]).unsqueeze(2).unbind(3) for n in streams}
        seen = [modulate(x, *parts[n][:2]).flatten(1, 2) for n, x in streams.items()]
        made = self.attention(torch.cat(seen, 1), places.rotation, places.mask).split([s.shape[1] for s in seen], 1)
        streams = {
            n: torch.addcmul(x, parts[n][2], y.view(x.shape)) for (n, x), y in zip(streams.items(), made, strict=True)
        }
        if self.cross is not None and sequence is not None and sequence_mask is not None:
            seen = [F.layer_norm(x, x.shape[-1:]).flatten(1, 2) for x in streams.values()]
            made = self.cross(torch.cat(seen, 1), sequence, sequence_mask).split([s.shape[1] for s in seen], 1)
            streams = {n: x + y.view(x.shape) for (n, x), y in zip(streams.items(), made, strict=True)}
        return {n: torch.addcmul(x, parts[n][5], self.mlps[n](modulate(x, *parts[n][3:5]))) for n, x in streams.items()}


class Streams(nn.Module):
    """What networks over several streams share: tokens, times, positions, conditions and outputs of each, around their blocks.

    Args:
        block: makes one, from the names of the streams and whether there is a sequence to attend to.
        modulations: vectors that the projection of times and conditions gives a block, of each stream.
    """

    repeated_blocks: ClassVar[tuple[str, ...]] = ("blocks",)
    keep_float32: ClassVar[tuple[str, ...]] = ("time", "inputs", "positions")
    neutral_at_start: ClassVar[tuple[str, ...]] = ("inputs",)
    patch: dict[str, tuple[int, ...]]

    def __init__(
        self,
        spec: Mapping[str, StreamSpec],
        conditions: Mapping[str, Conditioner],
        inputs: Sequence[NetworkInput],
        block: Callable[[Sequence[str], bool], nn.Module],
        modulations: int,
        *,
        width: int,
        depth: int,
        heads: int,
        patches: Mapping[str, tuple[int, ...]] | None,
        checkpoint: bool,
    ) -> None:
        super().__init__()
        if isinstance(spec, StreamSpec):
            raise ValueError("the latents are one stream, and this network takes several: use transformer")
        if strangers := (patches or {}).keys() - spec.keys():
            raise ValueError(f"patches names {', '.join(sorted(strangers))}; the streams are {', '.join(spec)}")
        self.patch = {name: tuple((patches or {}).get(name, (1,) * len(s.axes))) for name, s in spec.items()}
        self.patches = {
            name: Patches(tuple(axis.name for axis in s.axes), self.patch[name]) for name, s in spec.items()
        }
        for name, s in spec.items():
            self.patches[name].grid(tuple(axis.size for axis in s.axes))
        self.checkpoint = checkpoint
        self.time = TimeEmbedding(width)
        self.conditions = ConditionEmbedding(conditions, width)
        volumes = {name: s.channels * self.patches[name].volume for name, s in spec.items()}
        self.embed = nn.ModuleDict({name: nn.Linear(volume, width) for name, volume in volumes.items()})
        self.stream = nn.ParameterDict({name: nn.Parameter(torch.randn(width) * 0.02) for name in spec})
        self.positions = CommonPositions({n: s.axes for n, s in spec.items()}, self.patch, width // heads // 2)
        self.project = nn.ModuleDict({name: nn.Linear(width, modulations * width) for name in spec})
        self.modulations = modulations
        self.blocks = nn.ModuleList(block(list(spec), self.conditions.has_sequence) for _ in range(depth))
        self.tables = nn.ParameterDict({name: nn.Parameter(torch.zeros(2, width)) for name in spec})
        self.out = nn.ModuleDict({name: nn.Linear(width, volume) for name, volume in volumes.items()})
        for layer in (*self.project.values(), *self.out.values()):
            for parameter in layer.parameters():
                nn.init.zeros_(parameter)
        self.inputs = InputEmbeddings(inputs, width)  # last, so that all else begins as it does without them

    def forward(self, x: Mapping[str, Tensor], t: Any, cond: Mapping[str, Any]) -> dict[str, Tensor]:
        """x by stream at times t: [B] for all, or by stream [B] or left-aligned with it ([B, T], ...).

        A token of several positions takes the earliest of their times. `cond["mask"]`, by stream and left-aligned as well,
        says which positions are real; the others change nothing.
        """
        if x.keys() != self.patches.keys():
            raise ValueError(f"the network takes the streams {', '.join(self.patches)}, got {', '.join(x)}")
        mask: Mapping[str, Tensor] | None = cond.get(MASK)
        shown = {name: self.inputs.take(_of(cond, name, self.inputs.mlps), _one(t, name)) for name in x}
        embedded = self.conditions(next(iter(shown.values()))[1])
        grids, streams, embs = {}, {}, {}
        for name, leaf in x.items():
            grids[name] = self.patches[name].grid(tuple(leaf.shape[1:-1]))
            real = None if mask is None else mask[name]
            if real is not None:
                leaf = torch.where(real.reshape(real.shape + (1,) * (leaf.ndim - real.ndim)), leaf, 0.0)
            emb = self._embedding(name, _one(t, name), shown[name][0], real)
            embs[name] = F.silu(emb if embedded.vector is None else emb + embedded.vector[:, None])
            tokens = self.embed[name](self.patches[name].split(leaf)).float()
            streams[name] = (tokens + self.stream[name]).unflatten(1, (emb.shape[1], -1))  # [B, L, S, width]
        modulation = {
            name: self.project[name](emb).float().unflatten(-1, (self.modulations, -1)) for name, emb in embs.items()
        }
        sizes = {name: math.prod(grid) for name, grid in grids.items()}
        seen = None if mask is None else self._seen(mask, grids)
        places = Places(self.positions(grids), seen, sizes, self._near(grids))
        for block in self.blocks:
            given = (streams, modulation, places, embedded.sequence, embedded.mask)
            if self.checkpoint and torch.is_grad_enabled() and not differentiated():
                streams = recompute(block, *given, use_reentrant=False)
            else:
                streams = block(*given)
        return {name: self._read(name, h, embs[name], grids[name]) for name, h in streams.items()}

    def _near(self, grids: Mapping[str, tuple[int, ...]]) -> Tensor | None:
        return None

    def _embedding(self, name: str, t: Tensor, inputs: Mapping[str, Tensor], mask: Tensor | None) -> Tensor:
        """The embedding of the times of a stream, [B, L, width]."""
        patches = self.patches[name]
        if mask is not None:
            t = real_times(t, mask)
            inputs = {k: real_times(v, mask) if k == END_TIME else v for k, v in inputs.items()}
        times = patches.times(t)
        return self.time(times) + self.inputs({k: patches.times(v) for k, v in inputs.items()}, times)

    def _seen(self, mask: Mapping[str, Tensor], grids: Mapping[str, tuple[int, ...]]) -> Tensor:
        """Which of all tokens are real, bool [B, N]."""
        return torch.cat([self.patches[n].mask(mask[n], grid).flatten(1) for n, grid in grids.items()], 1)

    def _read(self, name: str, h: Tensor, emb: Tensor, grid: tuple[int, ...]) -> Tensor:
        """The output of a stream from its tokens [B, L, S, width]."""
        with torch.autocast(h.device.type, enabled=False):  # small, and no later layer undoes its rounding
            shift, scale = (self.tables[name] + emb.float()[:, :, None]).unsqueeze(2).unbind(3)
            layer = self.out[name]
            out = layer(modulate(h, shift, scale).to(layer.weight.dtype)).flatten(1, 2)  # type: ignore[arg-type]
        return self.patches[name].join(out, grid)


class StreamTransformer(Streams):
    """Velocity of states of several streams {name: [B, *axes, channels]} of any axes and sizes that the patches divide.

    All tokens attend to all, at positions in common time: seconds on the axis "time", whatever the rates, and shares of
    the whole on others. Every stream may have a time of its own for each of its tokens, and be absent from a clip (a mask
    that is false throughout): it is seen by no other stream then, and parameters that are its own get no gradient.

    Args:
        spec: the streams as trained, by name.
        conditions: conditioners by name; vectors join the time embedding, sequences are attended to.
        inputs: what the loss shows the network beside x and t; they join the time embedding.
        width: channels of a token.
        depth: number of blocks.
        heads: of the attention.
        patches: by stream, steps of each of its axes that make one token; 1 by default.
        mlp_ratio: hidden width of an MLP relative to `width`.
        checkpoint: recompute the blocks in the backward pass instead of keeping what they made.

    Raises ValueError for a patch or a width that does not fit, and for one stream alone.
    """

    def __init__(
        self,
        spec: Mapping[str, StreamSpec],
        conditions: Mapping[str, Conditioner],
        inputs: Sequence[NetworkInput] = (),
        *,
        width: Count = 256,
        depth: Count = 6,
        heads: Count = 4,
        patches: dict[str, tuple[Count, ...]] | None = None,
        mlp_ratio: Positive = 4.0,
        checkpoint: bool = False,
    ) -> None:
        def block(names: Sequence[str], cross: bool) -> StreamBlock:
            return StreamBlock(names, width, heads, int(width * mlp_ratio), cross)

        shape: Any = {"width": width, "depth": depth, "heads": heads, "patches": patches, "checkpoint": checkpoint}
        super().__init__(spec, conditions, inputs, block, 6, **shape)


def _one(t: Any, name: str) -> Tensor:
    return t[name] if isinstance(t, Mapping) else t


def _of(cond: Mapping[str, Any], name: str, inputs: Any) -> dict[str, Any]:
    """Conditions, of which the network's inputs may be given by stream."""
    return {k: _one(v, name) if k in inputs else v for k, v in cond.items()}

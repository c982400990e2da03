"""A network for each stream, and an exchange between them: what one says to the others is gated by its own noise level."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flowgen.core.interfaces import NetworkInput
from flowgen.core.ranges import Count, Positive
from flowgen.media.conditions import Conditioner
from flowgen.media.streams import StreamSpec
from flowgen.nn.attention import CrossAttention, SelfAttention, attended, normed
from flowgen.nn.multistream import Places, Streams
from flowgen.nn.positions import Rotation, rotate
from flowgen.nn.transformer import modulate


class Exchange(nn.Module):
    """Cross-attention from the tokens of each stream to those of each other one, at positions in common time.

    A learned key beside them has no value: whoever finds nobody (the other is absent, or nothing lies in the window) hears
    nothing. Each other stream has a softmax of its own, so that one whose gate is closed takes nothing from the rest.
    """

    def __init__(self, names: Sequence[str], width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q = nn.ModuleDict({name: nn.Linear(width, width) for name in names})
        self.kv = nn.ModuleDict({name: nn.Linear(width, 2 * width) for name in names})
        self.gains = nn.ParameterDict({name: nn.Parameter(torch.ones(2, heads, 1)) for name in names})
        self.nobody = nn.ParameterDict(
            {name: nn.Parameter(torch.randn(heads, width // heads) * 0.02) for name in names}
        )
        self.out = nn.ModuleDict({name: nn.Linear(width, width, bias=False) for name in names})

    def forward(
        self, heard: Mapping[str, Tensor], said: Mapping[str, tuple[Tensor, Tensor]], places: Places
    ) -> dict[str, Tensor]:
        """What each stream takes from the others [B, N, width].

        Args:
            heard: by stream, the tokens that ask [B, N, width].
            said: by stream, the tokens that answer, and the gates of what they say [B, N, width].
        """
        rotation = places.rotation
        keys, values = {}, {}
        for name, (tokens, gate) in said.items():
            k, v = self.kv[name](tokens).chunk(2, -1)
            keys[name] = self._turned(k, self.gains[name][1], rotation[places.of(name)]).to(v.dtype)
            values[name] = (v * gate.to(v.dtype)).unflatten(-1, (self.heads, -1))
        return {name: self._asked(name, tokens, keys, values, places) for name, tokens in heard.items()}

    def _asked(
        self, name: str, tokens: Tensor, keys: Mapping[str, Tensor], values: Mapping[str, Tensor], places: Places
    ) -> Tensor:
        q = self._turned(self.q[name](tokens), self.gains[name][0], places.rotation[places.of(name)])
        nobody = normed(self.nobody[name].float(), self.gains[name][1]).expand(len(q), 1, -1, -1)
        taken = []
        for other, k in keys.items():
            if other != name:
                k, v = torch.cat([nobody.to(k.dtype), k], 1), F.pad(values[other], (0, 0, 0, 0, 1, 0))
                mask = self._mask(places.of(name), places.of(other), places)
                taken.append(attended(q.to(v.dtype).transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), mask))
        return self.out[name](torch.stack(taken).sum(0).transpose(1, 2).flatten(2))

    def _turned(self, x: Tensor, gain: Tensor, rotation: Rotation) -> Tensor:
        """Heads [B, N, heads, D], normed and at their positions (see SelfAttention)."""
        return rotate(normed(x.unflatten(-1, (self.heads, -1)), gain)[:, :, None], rotation)[:, :, 0]

    @staticmethod
    def _mask(own: slice, other: slice, places: Places) -> Tensor | None:
        """Which keys each token may take, bool [B or 1, 1, N or 1, 1 + M], the first for all; None: any."""
        found = None if places.mask is None else places.mask[:, None, other]
        if places.near is not None:
            near = places.near[None, own, other]
            found = near if found is None else found & near
        return None if found is None else F.pad(found, (1, 0), value=True)[:, None]


class ExchangeBlock(nn.Module):
    """For each stream self-attention, cross-attention (where there is a sequence), what the others say, and an MLP.

    Shift, scale and gate of attention and MLP are of the stream's own times, as in `flowgen.nn.transformer.Block`; those of
    what it says to the others, too: of a stream in strong noise little is believed. They start at zero.
    """

    def __init__(self, names: Sequence[str], width: int, heads: int, hidden: int, cross: bool) -> None:
        super().__init__()
        self.tables = nn.ParameterDict({name: nn.Parameter(torch.zeros(9, width)) for name in names})
        self.attention = nn.ModuleDict({name: SelfAttention(width, heads) for name in names})
        self.cross = nn.ModuleDict({name: CrossAttention(width, heads) for name in names} if cross else {})
        self.exchange = Exchange(names, width, heads)
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
        """streams [B, L, S, width], each with one modulation [B, L, 9, width] for each L."""
        parts = {n: (self.tables[n] + modulation[n]).unsqueeze(2).unbind(3) for n in streams}
        for n, x in streams.items():
            own = places.of(n)
            mask = None if places.mask is None else places.mask[:, own]
            seen = modulate(x, *parts[n][:2]).flatten(1, 2)
            x = torch.addcmul(x, parts[n][2], self.attention[n](seen, places.rotation[own], mask).view(x.shape))
            if n in self.cross and sequence is not None and sequence_mask is not None:
                x = x + self.cross[n](_normed(x), sequence, sequence_mask).view(x.shape)
            streams = {**streams, n: x}
        said = {
            n: (modulate(x, *parts[n][6:8]).flatten(1, 2), parts[n][8].expand(x.shape).flatten(1, 2))
            for n, x in streams.items()
        }
        taken = self.exchange({n: _normed(x) for n, x in streams.items()}, said, places)
        streams = {n: x + taken[n].view(x.shape) for n, x in streams.items()}
        return {n: torch.addcmul(x, parts[n][5], self.mlps[n](modulate(x, *parts[n][3:5]))) for n, x in streams.items()}


def _normed(x: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:]).flatten(1, 2)


class ExchangeTransformer(Streams):
    """Velocity of states of several streams {name: [B, *axes, channels]}: a transformer for each, which exchange in every block.

    The tokens of a stream attend to each other, and to those of all other streams by cross-attention at positions in common
    time (seconds on the axis "time", whatever the rates). What a stream says is gated by its own noise level, that of each of its
    tokens. No parameter but the time embedding and the conditions is shared: a stream may be absent from a clip, and its own
    parameters get no gradient. Attention costs as much as that of all to all (`stream-transformer`); the weights are more.

    Args:
        window_s: exchange with what lies within so many seconds alone; streams without an axis "time" exchange with all.

    The others, and errors, are those of `flowgen.nn.StreamTransformer`; the width is that of each stream.
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
        window_s: Positive | None = None,
        checkpoint: bool = False,
    ) -> None:
        def block(names: Sequence[str], cross: bool) -> ExchangeBlock:
            return ExchangeBlock(names, width, heads, int(width * mlp_ratio), cross)

        shape: Any = {"width": width, "depth": depth, "heads": heads, "patches": patches, "checkpoint": checkpoint}
        super().__init__(spec, conditions, inputs, block, 9, **shape)
        self.window_s = window_s

    def _near(self, grids: Mapping[str, tuple[int, ...]]) -> Tensor | None:
        if self.window_s is None:
            return None
        at = self.positions.seconds(grids)
        apart = (at[:, None] - at[None]).abs()
        return (apart <= self.window_s + 1e-6) | apart.isnan()

"""Times and conditions as vectors and sequences of a network's width."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from flowgen.core.interfaces import END_TIME, MASK, NetworkInput
from flowgen.core.tree import left
from flowgen.media.conditions import ClassCondition, Conditioner, NumberCondition, TextCondition
from flowgen.media.interfaces import BringsEmbedder
from flowgen.nn.attention import SelfAttention


def fourier(x: Tensor, features: int, low: float, high: float) -> Tensor:
    """cos and sin of x [...] at `features`/2 angular frequencies from low to high, geometric: float32 [..., features]."""
    band = torch.logspace(math.log10(low), math.log10(high), features // 2, device=x.device)
    angle = x.float()[..., None] * band
    return torch.cat([angle.cos(), angle.sin()], -1)


class TimeEmbedding(nn.Module):
    """Times in [0, 1] of any shape to [..., width], in float32 whatever autocast says: in bfloat16, 0.999 is 1.

    The highest frequency, 256, tells t = 0.999 from 1 (a quarter of a radian) and keeps the network smooth in t, which
    large steps and derivatives by t ask for.
    """

    features = 256

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mlp = _mlp(self.features, width)

    def forward(self, t: Tensor) -> Tensor:
        with torch.autocast(t.device.type, enabled=False):
            return self.mlp(fourier(t, self.features, 1.0, 256.0).to(next(self.mlp.parameters()).dtype))


class InputEmbeddings(nn.Module):
    """What a loss shows a network beside x and t, as a vector to add to the embedding of t.

    The last layers start at zero: a network that starts from weights without these inputs says what those said. Of the
    second time of a flow map, its distance s - t is embedded (Geng et al. 2025, table 1c).
    """

    features = 256

    def __init__(self, inputs: Sequence[NetworkInput], width: int, highest: float = 256.0) -> None:
        """`highest`: the frequency above which the network is not shown its time, either."""
        super().__init__()
        self.frequencies = {given.name: min(given.frequency, highest) for given in inputs}
        self.mlps = nn.ModuleDict({given.name: _mlp(self.features, width) for given in inputs})
        for mlp in self.mlps.values():
            nn.init.zeros_(mlp[-1].weight)  # type: ignore[index]
            nn.init.zeros_(mlp[-1].bias)  # type: ignore[index]

    def take(self, cond: Mapping[str, Any], t: Tensor) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """The inputs in `cond`, each as t is shaped, and the rest of it. ValueError: an input is missing."""
        missing = sorted(self.mlps.keys() - cond.keys() - {END_TIME})
        if missing:
            raise ValueError(
                f"the network takes the inputs {', '.join(missing)} beside the conditions, and was not given them"
            )
        given = {name: left(cond.get(name, t), t).expand(t.shape) for name in self.mlps}
        return given, {k: v for k, v in cond.items() if k not in self.mlps}

    def forward(self, given: Mapping[str, Tensor], t: Tensor) -> Tensor:
        """[..., width] for values of the shape of t; 0 where there are no inputs."""
        total = torch.zeros((), device=t.device)  # a tensor: ZeRO 3 takes no other output of a module
        with torch.autocast(t.device.type, enabled=False):
            for name, mlp in self.mlps.items():
                value = given[name].float() - (t.float() if name == END_TIME else 0.0)
                features = fourier(value, self.features, 1.0, self.frequencies[name])
                total = total + mlp(features.to(next(mlp.parameters()).dtype))
        return total


class ClassEmbedding(nn.Embedding):
    """A row for each class, and one for none."""

    def __init__(self, condition: ClassCondition, width: int) -> None:
        super().__init__(len(condition.names) + 1, width)
        nn.init.normal_(self.weight, std=0.3)  # of the size of the time embedding: learnt from the first steps on


class NumberEmbedding(nn.Module):
    """Numbers in [-1, 1] by Fourier features and an MLP; not-a-number is a learned vector."""

    features = 64

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mlp = _mlp(self.features, width)
        self.null = nn.Parameter(torch.randn(width) * 0.02)

    def forward(self, value: Tensor) -> Tensor:
        with torch.autocast(value.device.type, enabled=False):
            features = fourier(value.nan_to_num(), self.features, math.pi / 2, 16 * math.pi)
            return torch.where(value.isnan()[:, None], self.null, self.mlp(features.to(self.null.dtype)))


class TextEmbedding(nn.Module):
    """Bytes to a sequence: embedding, learned positions and two transformer layers, for vocabularies of hundreds of words.

    A recipe that needs real language brings a conditioner over a pretrained text encoder.
    """

    depth = 2

    def __init__(self, condition: TextCondition, width: int) -> None:
        super().__init__()
        heads = max(1, width // 64)
        heads = heads if width % (2 * heads) == 0 else 1
        self.byte = nn.Embedding(257, width)
        self.position = nn.Parameter(torch.randn(condition.max_bytes, width) * 0.02)
        self.attention = nn.ModuleList(SelfAttention(width, heads) for _ in range(self.depth))
        self.mlp = nn.ModuleList(_mlp(width, width, 2 * width) for _ in range(self.depth))
        self.norm = nn.ModuleList(nn.LayerNorm(width) for _ in range(2 * self.depth + 1))
        nn.init.normal_(self.byte.weight, std=0.02)

    def forward(self, value: Tensor) -> tuple[Tensor, Tensor]:
        mask = value != 0
        x = self.byte(value) + self.position[: value.shape[1]]
        for i in range(self.depth):
            x = x + self.attention[i](self.norm[2 * i](x), mask=mask)
            x = x + self.mlp[i](self.norm[2 * i + 1](x))
        return self.norm[-1](x), mask


@dataclass(frozen=True)
class Embedded:
    """Conditions as a network meets them: one vector [B, width], and one sequence [B, L, width] with its mask [B, L]."""

    vector: Tensor | None = None
    sequence: Tensor | None = None
    mask: Tensor | None = None


class ConditionEmbedding(nn.Module):
    """All conditions of a network: vectors are summed, sequences strung together.

    A conditioner of a plugin brings its own embedder by a method `embedder(width) -> nn.Module`, which takes its batch of
    encoded values to [B, width] (role "vector") or to a pair of [B, L, width] and bool [B, L] (role "sequence").
    """

    def __init__(self, conditions: Mapping[str, Conditioner], width: int) -> None:
        super().__init__()
        self.roles = {name: conditioner.role for name, conditioner in conditions.items()}
        self.has_sequence = "sequence" in self.roles.values()
        self.embedders = nn.ModuleDict({name: _embedder(name, c, width) for name, c in conditions.items()})

    def forward(self, cond: Mapping[str, Any]) -> Embedded:
        """ValueError: a condition is missing (its null value is not), or none of this network's."""
        if cond.keys() - {MASK} != self.roles.keys():
            given, expected = sorted(cond.keys() - {MASK}), sorted(self.roles)
            raise ValueError(
                f"the network takes the conditions {expected}, got {given}; give the null value of what is not asked for"
            )
        vectors: list[Tensor] = []
        sequences: list[tuple[Tensor, Tensor]] = []
        for name, role in self.roles.items():
            (vectors if role == "vector" else sequences).append(self.embedders[name](cond[name]))
        return Embedded(
            torch.stack(vectors).sum(0) if vectors else None,
            torch.cat([s for s, _ in sequences], 1) if sequences else None,
            torch.cat([m for _, m in sequences], 1) if sequences else None,
        )


def _embedder(name: str, conditioner: Conditioner, width: int) -> nn.Module:
    match conditioner:
        case BringsEmbedder():
            return conditioner.embedder(width)
        case ClassCondition():
            return ClassEmbedding(conditioner, width)
        case NumberCondition():
            return NumberEmbedding(width)
        case TextCondition():
            return TextEmbedding(conditioner, width)
    raise ValueError(
        f"condition {name!r}: {type(conditioner).__name__} has no embedder; give it a method embedder(width) -> nn.Module"
    )


def _mlp(inputs: int, outputs: int, hidden: int | None = None) -> nn.Sequential:
    hidden = hidden or outputs
    return nn.Sequential(nn.Linear(inputs, hidden), nn.SiLU(), nn.Linear(hidden, outputs))

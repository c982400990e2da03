"""A velocity network for states without axes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flowgen.core.interfaces import NetworkInput
from flowgen.core.ranges import Count, Positive, Whole
from flowgen.media.conditions import Conditioner
from flowgen.media.streams import StreamSpec
from flowgen.nn.embedding import ConditionEmbedding, InputEmbeddings


class MLP(nn.Module):
    """Velocity of plain vectors [B, channels]: linear layers with ReLU, time and conditions added to the first.

    Args:
        spec: the stream, which has no axes.
        conditions: conditioners by name, all of role "vector".
        inputs: what the loss shows the network beside x and t.
        width: of the hidden layers and of the time embedding.
        depth: number of hidden layers.
        max_frequency: time is embedded as sine and cosine of t at `width`/2 frequencies from this one down to 1; 10,000 is
            what the widely watched flow-matching tutorials took over from the positions of language models.
        octaves: show the network sin and cos of 1, 2, 4, ... times each channel as well, for so many octaves. Sharp edges
            are learned many times faster (Tancik et al. 2020).

    Raises ValueError for a stream with axes, and for a condition that is a sequence.
    """

    repeated_blocks: ClassVar[tuple[str, ...]] = ()
    keep_float32: ClassVar[tuple[str, ...]] = ("time", "inputs")
    neutral_at_start: ClassVar[tuple[str, ...]] = ("inputs",)
    """Modules that change nothing as they are made: weights to start from may lack them."""

    def __init__(
        self,
        spec: StreamSpec,
        conditions: Mapping[str, Conditioner],
        inputs: Sequence[NetworkInput] = (),
        *,
        width: Count = 512,
        depth: Count = 4,
        max_frequency: Positive = 10_000.0,
        octaves: Whole = 0,
    ) -> None:
        super().__init__()
        if spec.axes:
            names = ", ".join(axis.name for axis in spec.axes)
            raise ValueError(f"the MLP takes plain vectors, but the stream has the axes {names}; use the transformer")
        if width % 2 or width < 4:
            raise ValueError(f"width must be even and at least 4, got {width}")
        sequences = [name for name, conditioner in conditions.items() if conditioner.role == "sequence"]
        if sequences:
            raise ValueError(f"the MLP takes no sequences, but {sequences} are; use the transformer")
        self.max_frequency = max_frequency
        self.octaves = octaves
        self.embed = nn.Linear(spec.channels * (1 + 2 * octaves), width)
        self.time = nn.Linear(width, width)
        self.conditions = ConditionEmbedding(conditions, width)
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        self.out = nn.Linear(width, spec.channels)
        self.inputs = InputEmbeddings(
            inputs, width, max_frequency
        )  # last, so that all else begins as it does without them

    def forward(self, x: Tensor, t: Tensor, cond: Mapping[str, Any]) -> Tensor:
        """x [B, channels] at times t [B]."""
        given, cond = self.inputs.take(cond, t)
        with torch.autocast(x.device.type, enabled=False):
            half = self.time.in_features // 2
            band = self.max_frequency ** (1 - torch.arange(half, device=t.device) / (half - 1))
            angle = t.float()[:, None] * band
            h = self.time(torch.cat([angle.sin(), angle.cos()], -1).to(self.time.weight.dtype)) + self.inputs(given, t)
        vector = self.conditions(cond).vector
        if self.octaves:
            angle = x.unsqueeze(-1) * 2.0 ** torch.arange(self.octaves, device=x.device)
            x = torch.cat([x, angle.sin().flatten(1), angle.cos().flatten(1)], -1)
        h = self.embed(x) + (h if vector is None else h + vector)
        for layer in self.layers:
            h = F.relu(layer(h))
        return self.out(h)

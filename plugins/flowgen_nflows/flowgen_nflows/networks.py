"""Invertible networks: between data and noise in both directions, with the density that follows.

Called as every network is, with noise x at t = 0, one gives the data that x stands for; its loss asks for `log_prob`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import zuko
from torch import Tensor, nn

from flowgen.core.ranges import Count
from flowgen.media.conditions import Conditioner
from flowgen.media.streams import StreamSpec
from flowgen.nn import ConditionEmbedding

CONTEXT = 64  # width in which conditions are shown


class Invertible(nn.Module, ABC):
    """What the families share: latents as flat vectors, and conditions embedded as one."""

    repeated_blocks: ClassVar[tuple[str, ...]] = ()
    keep_float32: ClassVar[tuple[str, ...]] = ()

    def __init__(self, spec: StreamSpec, conditions: Mapping[str, Conditioner]) -> None:
        super().__init__()
        if not isinstance(spec, StreamSpec):
            raise ValueError(f"a normalising flow has one stream; the latents have {', '.join(spec)}")
        sequences = [name for name, conditioner in conditions.items() if conditioner.role == "sequence"]
        if sequences:
            raise ValueError(f"a normalising flow takes no sequences as conditions, but {', '.join(sequences)} are")
        self.size = 1
        for n in spec.shape:
            self.size *= n
        self.embedding = ConditionEmbedding(conditions, CONTEXT)
        self.context = CONTEXT if conditions else 0

    def forward(self, x: Tensor, t: Tensor, cond: Mapping[str, Any]) -> Tensor:
        """Data for noise x [B, ...]; t is 0 throughout."""
        return self.decode(x.flatten(1), self.embedding(cond).vector).reshape(x.shape)

    def log_prob(self, x1: Tensor, cond: Mapping[str, Any]) -> Tensor:
        """log p(x1) [B] in nats."""
        return self.density(x1.flatten(1), self.embedding(cond).vector)

    @abstractmethod
    def decode(self, z: Tensor, context: Tensor | None) -> Tensor:
        """Data [B, size] for noise z [B, size], under the embedded conditions [B, CONTEXT]."""

    @abstractmethod
    def density(self, x: Tensor, context: Tensor | None) -> Tensor:
        """log p(x) [B] in nats."""


class _Zuko(Invertible):
    flow: zuko.flows.Flow

    def decode(self, z: Tensor, context: Tensor | None) -> Tensor:
        return self.flow(context).transform.inv(z)

    def density(self, x: Tensor, context: Tensor | None) -> Tensor:
        return self.flow(context).log_prob(x)


class Coupling(_Zuko):
    """RealNVP (Dinh et al. 2016): one half of the channels scales and moves the other. Fast in both directions."""

    def __init__(
        self,
        spec: StreamSpec,
        conditions: Mapping[str, Conditioner],
        *,
        transforms: Count = 8,
        width: Count = 128,
        depth: Count = 2,
    ) -> None:
        super().__init__(spec, conditions)
        if self.size < 2:
            raise ValueError("a coupling needs at least two numbers, one to move the other by")
        self.flow = zuko.flows.RealNVP(
            self.size, self.context, transforms=transforms, hidden_features=(width,) * depth, randmask=self.size > 2
        )


class Autoregressive(_Zuko):
    """Neural spline flow (Durkan et al. 2019): monotonic splines, each channel's given the ones before it.

    The density takes one pass; sampling one for each channel. Splines reach from -5 to 5.
    """

    def __init__(
        self,
        spec: StreamSpec,
        conditions: Mapping[str, Conditioner],
        *,
        transforms: Count = 4,
        bins: Count = 12,
        width: Count = 128,
        depth: Count = 2,
    ) -> None:
        super().__init__(spec, conditions)
        self.flow = zuko.flows.NSF(
            self.size, self.context, bins=bins, transforms=transforms, hidden_features=(width,) * depth
        )

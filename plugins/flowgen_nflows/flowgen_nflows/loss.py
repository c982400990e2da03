"""Exact maximum likelihood, and what flowgen's sampler makes of an invertible network."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from flowgen.core.estimate import Estimate
from flowgen.core.flow import NetworkFlow
from flowgen.core.interfaces import MASK, Cond, Flow, KnowsDensity, LossOutput, Path, Prediction
from flowgen.core.paths import Linear
from flowgen.core.random import Randomness
from flowgen.core.tree import State


@dataclass(frozen=True)
class OneStep:
    """A flow that knows, of noise at t = 0, which data it becomes: one Euler step is the whole sample."""

    network: Callable[..., State]
    path: Path = field(default_factory=Linear)
    predicts: Prediction = "data"

    def __call__(self, x: State, t: Any, cond: Cond | None = None) -> Estimate:
        if bool((t != 0).any()):
            raise ValueError(
                "a normalising flow leads from noise to data at once and knows nothing between: sample with one step of "
                "euler (sample.steps=1)"
            )
        return NetworkFlow(self.network, self.path, self.predicts)(x, t, cond)

    def log_prob(self, x: State, cond: Cond) -> Tensor:
        """The exact log p(x | cond) [B] in nats. ValueError: the network knows none, or x is padded or of several streams."""
        return _invertible(self.network).log_prob(_whole(x, cond), cond)


@dataclass(frozen=True)
class NormalisingFlow:
    """-log p(x1) per dimension, exactly, of a network of this plugin. Sample with one Euler step."""

    path: Path = field(default_factory=Linear)
    predicts = "data"

    def flow(self, network: Callable[..., State]) -> Flow:
        return OneStep(network, self.path)

    def __call__(
        self, network: Any, x1: State, cond: Cond, random: Randomness, known: State | None = None
    ) -> LossOutput:
        if known is not None:
            raise ValueError("a normalising flow has the density of a whole clip: no known regions")
        x = _whole(x1, cond)
        each = -_invertible(network).log_prob(x, cond) / x[0].numel()
        return LossOutput(each, torch.zeros(len(x), device=x.device), {})


def _invertible(network: Any) -> KnowsDensity:
    if not isinstance(network, KnowsDensity):
        raise ValueError(
            f"the normalising-flow loss wants an invertible network (coupling, autoregressive or residual), "
            f"got {type(network).__name__}"
        )
    return network


def _whole(x: State, cond: Cond) -> Tensor:
    """The latents in float32. ValueError: they are several streams, or padded."""
    if not isinstance(x, Tensor) or cond.get(MASK) is not None:
        raise ValueError("a normalising flow has the density of a whole clip of one stream: no masks")
    return x.float()

"""A weighting that is learned with the network."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from flowgen.core.couplings import Independent
from flowgen.core.interfaces import Cond, Coupling, Flow, LossOutput, Paths, Prediction, Times
from flowgen.core.losses.matching import FlowMatching
from flowgen.core.paths import Linear
from flowgen.core.random import Randomness
from flowgen.core.ranges import Count, Positive
from flowgen.core.times import Shift, Uniform
from flowgen.core.tree import State


class Uncertainty(nn.Module):
    """Flow matching in which every time has the same say: L(t)/exp(u(t)) + u(t), u learned (Karras et al. 2024, eq. 21).

    At its optimum exp(u(t)) is the mean loss at t. u is piecewise linear between `knots` equidistant times; its
    parameters are trained beside the network's.
    """

    def __init__(
        self,
        path: Paths = Linear(),
        times: Times = Uniform(),
        coupling: Coupling = Independent(),
        shift: Shift = 1.0,
        predicts: Prediction = "velocity",
        space: Prediction | None = None,
        huber: Positive | None = None,
        knots: Count = 16,
    ) -> None:
        super().__init__()
        if knots < 2:
            raise ValueError(f"expected at least 2 knots, got {knots}")
        self.matching = FlowMatching(path, times, coupling, shift, predicts, space, huber=huber)
        self.u = nn.Parameter(torch.zeros(knots))

    @property
    def path(self) -> Paths:
        return self.matching.path

    @property
    def predicts(self) -> Prediction:
        return self.matching.predicts

    def flow(self, network: Callable[..., State]) -> Flow:
        return self.matching.flow(network)

    def log_loss(self, t: Tensor) -> Tensor:
        """u(t) [B]: the logarithm of the loss expected at t."""
        place = t * (len(self.u) - 1)
        below = place.long().clamp(0, len(self.u) - 2)
        return torch.lerp(self.u[below], self.u[below + 1], place - below)

    def forward(
        self, network: Callable[..., State], x1: State, cond: Cond, random: Randomness, known: State | None = None
    ) -> LossOutput:
        plain = self.matching(network, x1, cond, random, known)
        u = self.log_loss(plain.t)
        return plain._replace(total=plain.total * torch.exp(-u) + u)

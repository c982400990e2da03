"""A weighting that is learned with the network."""

from __future__ import annotations

from collections.abc import Callable, Collection

import torch
from torch import Tensor, nn

from flowgen.core.couplings import Independent
from flowgen.core.interfaces import Cond, Coupling, Flow, LossOutput, Paths, Prediction, Predictions, Times
from flowgen.core.losses.base import refuse_by_stream
from flowgen.core.losses.matching import FlowMatching
from flowgen.core.paths import Linear
from flowgen.core.random import Randomness
from flowgen.core.ranges import Count, NonNegative, Positive
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
        predicts: Prediction | dict[str, Prediction] = "velocity",
        space: Prediction | None = None,
        huber: Positive | None = None,
        knots: Count = 16,
        weights: dict[str, NonNegative] | None = None,
    ) -> None:
        super().__init__()
        refuse_by_stream("the uncertainty loss", times=times, shift=shift)
        if knots < 2:
            raise ValueError(f"expected at least 2 knots, got {knots}")
        self.matching = FlowMatching(path, times, coupling, shift, predicts, space, huber=huber, weights=weights)
        self.u = nn.Parameter(torch.zeros(knots))

    @property
    def path(self) -> Paths:
        return self.matching.path

    @property
    def predicts(self) -> Predictions:
        return self.matching.predicts

    def streams_named(self) -> dict[str, Collection[str]]:
        """The streams that options name, by option."""
        return self.matching.streams_named()

    def check_limits(self) -> None:
        self.matching.check_limits()

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
        assert isinstance(plain.t, Tensor)
        u = self.log_loss(plain.t)
        return plain._replace(total=plain.total * torch.exp(-u) + u)

"""A loss that asks for all that a loss may ask for: a teacher, its own average, an input, and modules trained on their own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from flowgen.core.couplings import Independent
from flowgen.core.interfaces import Cond, Coupling, Flow, Group, Loss, LossOutput, NetworkInput, Paths, Times
from flowgen.core.losses import FlowMatching
from flowgen.core.paths import Linear
from flowgen.core.random import Randomness
from flowgen.core.times import Shift, Uniform
from flowgen.core.tree import State


class Asking(nn.Module):
    """Flow matching of the network towards the data, its teacher and its average, judged by a critic of its own."""

    inputs: ClassVar = (NetworkInput("scale"),)

    def __init__(
        self,
        teacher: str,
        path: Paths = Linear(),
        times: Times = Uniform(),
        coupling: Coupling = Independent(),
        shift: Shift = 1.0,
        rate: float = 0.5,
        start: int = 0,
    ) -> None:
        super().__init__()
        self.matching = FlowMatching(path, times, coupling, shift)
        self.path, self.predicts, self.teacher = path, self.matching.predicts, teacher
        self.critic, self.bias = nn.Linear(2, 3), nn.Parameter(torch.zeros(3))
        self.how = Group(rate, start)
        self.flow_of_teacher: Flow | None = None
        self.average: Callable[..., State] | None = None

    def groups(self) -> Mapping[str, Group]:
        return {"critic": self.how}

    def with_teacher(self, flow: Flow, null: Cond) -> Loss:
        assert set(null) == {"kind"}
        self.flow_of_teacher = flow
        return self

    def with_average(self, network: Callable[..., State]) -> Loss:
        self.average = network
        return self

    def flow(self, network: Callable[..., State]) -> Flow:
        return self.matching.flow(self._scaled(network))

    def _scaled(self, network: Callable[..., State]) -> Callable[..., State]:
        return lambda x, t, cond: network(x, t, {**cond, "scale": torch.full_like(t, 0.5)})

    def forward(
        self, network: Callable[..., State], x1: Any, cond: Cond, random: Randomness, known: State | None = None
    ) -> LossOutput:
        assert self.flow_of_teacher is not None
        assert self.average is not None
        plain = self.matching(self._scaled(network), x1, cond, random, known)
        t = random.uniform("asked").float()
        said: Any = self._scaled(network)(x1, t, dict(cond))
        with torch.no_grad():
            theirs: Any = self.flow_of_teacher(x1, t, cond).velocity
            before: Any = self._scaled(self.average)(x1, t, dict(cond))
        judged: Tensor = (self.critic(said) + self.bias).square().mean(-1)
        off = (said - theirs).square().mean(-1) + (said - before).square().mean(-1)
        return plain._replace(total=plain.total + off + judged)

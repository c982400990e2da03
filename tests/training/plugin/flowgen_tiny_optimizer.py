"""An optimizer of a plugin: its state is one tensor a parameter, and it counts no steps."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from flowgen.training.optimizers import Part, groups


class Momentum(torch.optim.SGD):
    """Gradient descent with momentum."""

    def __init__(self, parts: Sequence[Part], lr: float = 0.05, momentum: float = 0.9) -> None:
        super().__init__(groups(parts), lr=lr, momentum=momentum)

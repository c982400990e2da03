"""What the losses of autoencoders share: a weighted sum of distances, each logged under its name."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping

from torch import Tensor, nn

from flowgen.core.interfaces import MASK, Autoencoder, Cond, Flow, LossOutput
from flowgen.core.paths import Linear
from flowgen.core.random import Randomness
from flowgen.core.tree import State


class WeightedReconstruction(nn.Module):
    """The sum of distances by their weights, and of what the bottleneck adds.

    A subclass gives the distances in `reconstruction_loss`. ValueError: every weight is 0.
    """

    predicts = "data"

    def __init__(self, weights: Mapping[str, float]) -> None:
        super().__init__()
        self.path = Linear()
        self.weights = {name: weight for name, weight in weights.items() if weight}
        if not self.weights:
            raise ValueError("every weight is 0; give one of " + ", ".join(weights))

    @abstractmethod
    def reconstruction_loss(self, x: Tensor, made: Tensor, mask: Tensor | None = None) -> dict[str, Tensor]:
        """By name, the distances [B] of states x [B, *axes, C] and those given back, that have a weight."""

    def flow(self, network: Callable[..., State]) -> Flow:
        raise ValueError(
            "the network is an autoencoder and makes no flow; use it as encoder: {type: trained, run: FOLDER}"
        )

    def forward(
        self, network: Callable[..., State], x1: State, cond: Cond, random: Randomness, known: State | None = None
    ) -> LossOutput:
        if not isinstance(network, Autoencoder):
            raise ValueError("the network is no autoencoder, which this loss trains; choose one that is")
        if known is not None:
            raise ValueError(
                "an autoencoder gives back what it is shown, so nothing can be known: remove the section known"
            )
        assert isinstance(x1, Tensor)
        mask = cond.get(MASK)
        if isinstance(network, nn.Module) and network.training:
            x1 = self.varied(x1, random)
        made, penalty = network.reconstruct(x1, random, mask)
        parts = self.reconstruction_loss(x1, made, mask)
        total = sum((self.weights[name] * part for name, part in parts.items()), penalty)
        return LossOutput(total, None, {}, {**parts, "bottleneck": penalty})

    def varied(self, x: Tensor, random: Randomness) -> Tensor:
        """States as training shows them: a function of (seed, step, row)."""
        return x

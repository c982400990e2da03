"""Residual flows: z = x + g(x) with a contraction g, invertible by iteration."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.func import jacrev, vmap

from flowgen.core.ranges import Count, Positive
from flowgen.media.conditions import Conditioner
from flowgen.media.streams import StreamSpec
from flowgen_nflows.networks import Invertible


class Contraction(nn.Module):
    """g(x, context) with a Lipschitz constant in x below `bound`: weights divided by their largest singular value."""

    def __init__(self, size: int, context: int, width: int, depth: int, bound: float) -> None:
        super().__init__()
        sizes = [size, *[width] * depth, size]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in itertools.pairwise(sizes))
        self.context = nn.Linear(context, width) if context else None
        self.bound = bound ** (1 / len(self.layers))

    def weights(self) -> list[Tensor]:
        """The bounded weights; taken once for all uses within a pass."""
        return [
            layer.weight * (self.bound / torch.linalg.matrix_norm(layer.weight, 2)).clamp(max=1.0)
            for layer in self.layers  # type: ignore[union-attr]
        ]

    def forward(self, x: Tensor, weights: list[Tensor], context: Tensor | None) -> Tensor:
        for i, (layer, weight) in enumerate(zip(self.layers, weights, strict=True)):
            if i:
                x = x * torch.sigmoid(x) / 1.1  # LipSwish (Chen et al. 2019): slope at most 1
            x = nn.functional.linear(x, weight, layer.bias)  # type: ignore[arg-type]
            if i == 0 and context is not None and self.context is not None:
                x = x + self.context(context)
        return x


class Residual(Invertible):
    """Residual flow (Behrmann et al. 2019; Chen et al. 2019), with affine layers between the blocks.

    The log-determinant is exact, which takes as many backward passes as there are numbers in a clip: for small ones. Sampling
    inverts each block by fixed-point iteration to 1e-5.
    """

    def __init__(
        self,
        spec: StreamSpec,
        conditions: Mapping[str, Conditioner],
        *,
        blocks: Count = 12,
        width: Count = 64,
        depth: Count = 2,
        bound: Positive = 0.95,
    ) -> None:
        super().__init__(spec, conditions)
        if self.size > 64:
            raise ValueError(f"the residual flow is for clips of at most 64 numbers, these have {self.size}")
        if not 0 < bound < 1:
            raise ValueError(f"bound must lie in (0, 1), got {bound}")
        self.blocks = nn.ModuleList(Contraction(self.size, self.context, width, depth, bound) for _ in range(blocks))
        self.log_scale = nn.Parameter(torch.zeros(blocks, self.size))
        self.shift = nn.Parameter(torch.zeros(blocks, self.size))
        self.bound = bound

    def density(self, x: Tensor, context: Tensor | None) -> Tensor:
        log_det = self.log_scale.sum().expand(len(x))
        eye = torch.eye(self.size, device=x.device)
        for i, block in enumerate(self.blocks):
            x = x * self.log_scale[i].exp() + self.shift[i]
            weights = block.weights()  # type: ignore[operator, union-attr]

            def g(row: Tensor, *context: Tensor, block: nn.Module = block, weights: list[Tensor] = weights) -> Tensor:
                return block(row[None], weights, context[0][None] if context else None)[0]

            given = (x,) if context is None else (x, context)
            jacobian = vmap(jacrev(g))(*given)
            log_det = log_det + torch.linalg.slogdet(eye + jacobian).logabsdet
            x = x + block(x, weights, context)
        return log_det - 0.5 * (x.square() + math.log(2 * math.pi)).sum(1)

    def decode(self, z: Tensor, context: Tensor | None) -> Tensor:
        for i in reversed(range(len(self.blocks))):
            block = self.blocks[i]
            weights = block.weights()  # type: ignore[operator]
            x = z
            # a contraction by `bound` gains its digits in this many steps
            for _ in range(math.ceil(math.log(1e-6) / math.log(self.bound))):
                new = z - block(x, weights, context)
                moved = float((new - x).detach().abs().max())
                x = new
                if moved < 1e-5 * (1 - self.bound):
                    break
            z = (x - self.shift[i]) * torch.exp(-self.log_scale[i])
        return z

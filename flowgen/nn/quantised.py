"""Linear layers whose frozen weights are kept in 16, 8 or 4 bits and multiplied in the precision of their input.

Not torchao's (0.18 with torch 2.14): its weights are wrapper tensors without a storage, which safetensors cannot write and
FakeTensorMode cannot size; its 4-bit weights take 8 bits each on a CPU; its int8 layer leaves autocast.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Precision = Literal["float32", "bfloat16", "int8", "int4"]
GROUP = 32
"""Inputs that share a scale in int4."""


class QuantisedLinear(nn.Linear):
    """A linear layer [..., in] -> [..., out] with a frozen, quantised weight, dequantised in each pass and then dropped.

    int8: symmetric with a scale for each output (absmax, Dettmers et al. 2022, arXiv 2208.07339, eq. 1). int4: two to a byte,
    with a scale for each 32 inputs of an output. bfloat16: cast. The backward pass dequantises again: no pass keeps a whole
    weight.

    Args:
        weight: [out, in], real.
        bias: [out] or None; kept as it is.
        precision: "bfloat16", "int8" or "int4".
    """

    bias: nn.Parameter | None  # type: ignore[assignment]  # as in torch, whose stub leaves None out
    quantised: Tensor
    scale: Tensor | None

    def __init__(self, weight: Tensor, bias: nn.Parameter | None, precision: Precision) -> None:
        nn.Module.__init__(self)  # that of nn.Linear would make a weight
        self.out_features, self.in_features = weight.shape
        self.precision = precision
        self.register_parameter("bias", bias)
        quantised, scale = _quantised(weight.detach().float(), precision)
        self.register_buffer("quantised", quantised)
        self.register_buffer("scale", scale)

    @property
    def weight(self) -> Tensor:  # type: ignore[override]
        """[out, in] in float32, dequantised at every call: changes to it are lost."""
        return self.dequantised(torch.float32)

    def dequantised(self, dtype: torch.dtype) -> Tensor:
        """The weight [out, in]."""
        q, scale = self.quantised, self.scale
        if scale is None:
            return q.to(dtype)
        if self.precision == "int8":
            return q.to(dtype) * scale.to(dtype)
        nibbles = torch.stack((q & 15, q >> 4), -1).view(self.out_features, -1, GROUP)
        whole = (nibbles.to(dtype) - 8) * scale.to(dtype).unsqueeze(-1)
        return whole.view(self.out_features, -1)[:, : self.in_features]

    def forward(self, input: Tensor) -> Tensor:
        kind = input.device.type
        if torch.is_autocast_enabled(kind):
            input = input.to(torch.get_autocast_dtype(kind))
        made: Tensor = _Product.apply(input, self)
        return made if self.bias is None else made + self.bias.to(made.dtype)

    def extra_repr(self) -> str:
        return f"{self.in_features}, {self.out_features}, bias={self.bias is not None}, {self.precision}"


class _Product(torch.autograd.Function):
    """x W^T; autograd would keep the dequantised W for the backward pass."""

    @staticmethod
    def forward(x: Tensor, layer: QuantisedLinear) -> Tensor:
        return x @ layer.dequantised(x.dtype).t()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.layer = inputs[1]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad @ ctx.layer.dequantised(grad.dtype), None

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, _: None) -> Tensor:
        return tangent @ ctx.layer.dequantised(tangent.dtype).t()


def _quantised(weight: Tensor, precision: Precision) -> tuple[Tensor, Tensor | None]:
    if precision == "bfloat16":
        return weight.to(torch.bfloat16), None
    if precision == "int8":
        scale = _scale(weight.abs().amax(1, keepdim=True), 127)
        return (weight / scale.float()).round().clamp(-127, 127).to(torch.int8), scale
    groups = F.pad(weight, (0, -weight.shape[1] % GROUP)).view(len(weight), -1, GROUP)
    scale = _scale(groups.abs().amax(-1), 7)
    q = ((groups / scale.float().unsqueeze(-1)).round().clamp(-7, 7) + 8).to(torch.uint8).view(len(weight), -1)
    return q[:, 0::2] | (q[:, 1::2] << 4), scale


def _scale(largest: Tensor, levels: int) -> Tensor:
    """In bfloat16, which an engine of half precision leaves as it is; rounded up, so that the largest is not cut off."""
    return (largest / levels * (1 + 2**-8)).clamp(min=1e-30).to(torch.bfloat16)


def quantise(network: nn.Module, precision: Precision, but: Collection[str] = ()) -> None:
    """Put quantised layers in the place of linear ones, in place. `but`: names of parameters that stay as they are."""
    if precision == "float32":
        return
    for name, layer in list(network.named_modules()):
        # a subclass does something else with its weight
        if type(layer) is nn.Linear and f"{name}.weight" not in but:
            parent, _, leaf = name.rpartition(".")
            setattr(network.get_submodule(parent), leaf, QuantisedLinear(layer.weight, layer.bias, precision))


def bytes_of(network: nn.Module) -> int:
    """Bytes of parameters and buffers."""
    return sum(tensor.nbytes for tensor in (*network.parameters(), *network.buffers()))

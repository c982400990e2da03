"""Optimizers, as components: from the parts of what is trained to what DeepSpeed steps.

The learning rate has one owner, the schedule: `lr` is its peak, and before every step each group gets the schedule's rate
times its own factor "rate", from its step "start" on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from torch import nn

from flowgen.config import ComponentConfig, options_model
from flowgen.core.interfaces import Group
from flowgen.core.ranges import Decay, NonNegative, Positive
from flowgen.errors import FlowgenError


class Part(NamedTuple):
    """Parameters that are trained alike: those of the network, or a group of the loss."""

    parameters: Sequence[nn.Parameter]
    how: Group


class MakeOptimizer(Protocol):
    """An optimizer: a function of the parts and of its options, of which `lr` is one.

    What it returns keeps its state by parameter as tensors of the parameter's size and a count "step"; each of its groups
    has the keys "rate" and "start" (see `groups`), by which the schedule sets "lr". Under ZeRO 1 to 3 its parameters are flat
    pieces of them all.
    """

    def __call__(self, parts: Sequence[Part], lr: float) -> torch.optim.Optimizer: ...


@runtime_checkable
class WholeMatrices(Protocol):
    """An optimizer that needs each matrix whole: ZeRO 1 to 3 are refused."""

    whole_matrices: bool


@runtime_checkable
class OnHost(Protocol):
    """An optimizer whose parameters lie on the CPU: on a GPU it is refused without offload_optimizer."""

    on_host: bool


def peak_rate(optimizer: ComponentConfig) -> float:
    """The `lr` of an optimizer section, on which the schedule rests. FlowgenError: the optimizer has no such option."""
    options = options_model("optimizer", optimizer.type)(**optimizer.options).model_dump()
    if "lr" not in options:
        raise FlowgenError(f"the optimizer {optimizer.type!r} has no option 'lr', which the schedule needs; add it")
    return float(options["lr"])


def groups(
    parts: Sequence[Part], belongs: Callable[[nn.Parameter], bool] = lambda p: True, **options: Any
) -> list[dict[str, Any]]:
    """Groups for a torch optimizer of the parameters that belong; weight decay spares biases, norms and embeddings of one
    dimension."""
    found: list[dict[str, Any]] = []
    for part in parts:
        decayed = [p for p in part.parameters if belongs(p) and p.ndim >= 2]
        spared = [p for p in part.parameters if belongs(p) and p.ndim < 2]
        found += [{"params": decayed, **part.how._asdict(), **options}]
        found += [{"params": spared, **part.how._asdict(), **options, "weight_decay": 0.0}]
    return [group for group in found if group["params"]]


def adamw(
    parts: Sequence[Part],
    lr: Positive = 3e-4,
    betas: tuple[Decay, Decay] = (0.9, 0.99),
    eps: Positive = 1e-8,
    weight_decay: NonNegative = 0.0,
) -> torch.optim.Optimizer:
    """AdamW (Loshchilov and Hutter 2017), in one pass over memory, on the CPU as well."""
    return torch.optim.AdamW(groups(parts), lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, fused=True)


def cpu_adam(
    parts: Sequence[Part],
    lr: Positive = 3e-4,
    betas: tuple[Decay, Decay] = (0.9, 0.99),
    eps: Positive = 1e-8,
    weight_decay: NonNegative = 0.0,
) -> torch.optim.Optimizer:
    """DeepSpeed's AdamW for parameters on the CPU, as under offload_optimizer. It is compiled when first used (a minute)."""
    from deepspeed.ops.adam import DeepSpeedCPUAdam

    made = DeepSpeedCPUAdam(groups(parts), lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, adamw_mode=True)
    vars(made)["on_host"] = True
    return made


class Muon(torch.optim.Optimizer):
    """Muon (Jordan et al. 2024) for matrices, AdamW for all else.

    Updates of matrices are orthogonalised and scaled to the size of AdamW's (Liu et al. 2025, section 2.2), so that both take
    the same `lr`.

    Args:
        momentum: of Muon.
        adamw_rate: the learning rate of AdamW relative to that of Muon.
    """

    whole_matrices = True

    def __init__(
        self,
        parts: Sequence[Part],
        lr: Positive = 1e-3,
        momentum: NonNegative = 0.95,
        weight_decay: NonNegative = 0.0,
        adamw_rate: Positive = 1.0,
        betas: tuple[Decay, Decay] = (0.9, 0.99),
        eps: Positive = 1e-8,
    ) -> None:
        matrices = groups(parts, lambda p: p.ndim == 2)
        rest = groups([Part(p, how._replace(rate=how.rate * adamw_rate)) for p, how in parts], lambda p: p.ndim != 2)
        super().__init__([*matrices, *rest], {"lr": lr, "weight_decay": weight_decay})
        owned, other = self.param_groups[: len(matrices)], self.param_groups[len(matrices) :]
        self._each: list[torch.optim.Optimizer] = []
        if owned:
            scaled = "match_rms_adamw"
            self._each += [torch.optim.Muon(owned, lr, weight_decay, momentum, adjust_lr_fn=scaled)]
        if other:
            self._each += [torch.optim.AdamW(other, lr, betas, eps, weight_decay, fused=True)]
        self.param_groups = [group for optimizer in self._each for group in optimizer.param_groups]
        self._share()

    def _share(self) -> None:
        """Give both this object's groups and state, so that whoever sets a rate or loads a state does it here."""
        groups = iter(self.param_groups)
        for optimizer in self._each:
            optimizer.param_groups = [next(groups) for _ in optimizer.param_groups]
            optimizer.state = self.state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a state, in both."""
        super().load_state_dict(state_dict)
        self._share()

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        for optimizer in self._each:
            optimizer.step()

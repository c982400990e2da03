"""Flow maps: where the flow leads, in one evaluation. u(x, t, s) = (X_{t->s}(x) - x)/(s - t), and u(x, t, t) = v(x, t).

A flow map travels as a flow that reads where to go from `cond[END_TIME]`, so that guidance, known regions and conditions
wrap it as they wrap any flow. `FlowMapSolver` asks for jumps; every other solver integrates u(x, t, t).
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from flowgen.core.estimate import Estimate
from flowgen.core.flow import check_output
from flowgen.core.interfaces import END_TIME, Cond, Flow, FlowMap, Paths, Prediction, Predictions
from flowgen.core.paths import Linear
from flowgen.core.tree import State, first_leaf, leaves, left, lincomb, tree_map


@dataclass(frozen=True)
class NetworkFlowMap:
    """The flow map of a network `network(x, t, cond)` that takes a second time in `cond[END_TIME]`.

    It says u(x, t, s) (`predicts` "velocity"), or on the linear path the data that lie in this direction, x + (1 - t) u
    ("data"), which is its data estimate where s = t. Positions whose time t is beyond s (known ones, shown at t = 1) go
    nowhere. States stay in the caller's precision, the network sees float32.

    Args:
        end: the last s that the network is shown; beyond it goes on straight (u(x, t, s) = u(x, t, end)).
    """

    network: Callable[..., State]
    path: Paths
    predicts: Prediction = "velocity"
    end: float = 1.0

    def __post_init__(self) -> None:
        check_prediction(self.predicts, self.path)

    def average(self, x: State, t: Any, s: Any, cond: Cond | None = None) -> State:
        return self.estimate(x, t, s, cond).velocity

    def estimate(self, x: State, t: Any, s: Any, cond: Cond | None = None) -> Estimate:
        """What the network says of the way from t to s, read as an estimate at t."""
        seen = tree_map(lambda x: x.float(), x)
        times = tree_map(lambda x, t: _times(t, x), seen, t)
        ends = tree_map(lambda t, s: torch.maximum(t, left(_times(s, t), t).clamp(max=self.end)), times, s)
        if isinstance(x, dict) and not isinstance(t, dict) and not isinstance(s, dict):
            times, ends = first_leaf(times), first_leaf(ends)  # one time for all streams stays one
        value = self.network(seen, times, {**(cond or {}), END_TIME: ends})
        check_output(value, x)
        return Estimate(self.path, x, t, self.predicts, tree_map(lambda v, x: v.to(x.dtype), value, x))

    def __call__(self, x: State, t: Any, s: Any, cond: Cond | None = None) -> State:
        return _moved(x, t, s, self.average(x, t, s, cond))


def check_prediction(predicts: str, path: Paths) -> None:
    """ValueError: a network of a flow map cannot predict this on this path."""
    if predicts not in ("velocity", "data"):
        raise ValueError(f"a flow map predicts velocity or data, got {predicts!r}")
    if predicts == "data" and not all(isinstance(each, Linear) for each in leaves(path)):
        raise ValueError(f"a flow map predicts data on the linear path alone, got {path}; let it predict velocity")


@dataclass(frozen=True)
class MapFlow:
    """A flow map as a flow: with `cond[END_TIME]` = s its velocity is the average one up to s, without it that at t.

    This is what a loss that trains a flow map returns from `flow`.
    """

    flow_map: FlowMap

    @property
    def path(self) -> Paths:
        return self.flow_map.path

    @property
    def predicts(self) -> Predictions:
        return self.flow_map.predicts if isinstance(self.flow_map, NetworkFlowMap) else "velocity"

    def __call__(self, x: State, t: Any, cond: Cond | None = None) -> Estimate:
        rest = {k: v for k, v in (cond or {}).items() if k != END_TIME}
        s = (cond or {}).get(END_TIME, t)
        if isinstance(self.flow_map, NetworkFlowMap):
            return self.flow_map.estimate(x, t, s, rest)
        return Estimate(self.path, x, t, "velocity", self.flow_map.average(x, t, s, rest))


def jump(flow: Flow, x: State, t: Any, s: Any, cond: Cond | None = None) -> State:
    """X_{t->s}(x) of a flow that is a flow map, whatever guidance or known regions wrap it.

    ValueError: the flow is no flow map.
    """
    n = len(first_leaf(x))
    # a row for each sample: guidance repeats conditions with the batch
    ends = tree_map(lambda s: s.expand(n) if s.ndim == 0 else s, s)
    estimate = flow(x, t, {**(cond or {}), END_TIME: ends})
    return _moved(estimate.x, t, s, estimate.velocity)


def _moved(x: State, t: Any, s: Any, u: State) -> State:
    def leaf(x: Tensor, u: Tensor, t: Tensor, s: Tensor) -> State:
        return lincomb((1.0, x), (left(s, t) - left(t, s), u))

    return tree_map(leaf, x, u, t, s)


def _times(t: Tensor, like: Tensor) -> Tensor:
    t = t.to(like.device, torch.float32)
    return t if t.ndim else t.expand(len(like))


FORWARD_CONTEXTS: list[Callable[[], AbstractContextManager[Any]]] = []
"""Entered as well: an engine that puts functions without a forward derivative in place of torch's takes them out here."""

_DIFFERENTIATED: ContextVar[bool] = ContextVar("differentiated", default=False)


def differentiated() -> bool:
    """Whether networks are being differentiated forward: what has no forward derivative (recomputation) is to be left out."""
    return _DIFFERENTIATED.get()


@contextmanager
def forward_differentiable() -> Iterator[None]:
    """Networks that are called in this block have forward derivatives.

    Attention takes the MATH backend (fused kernels have no forward derivative), blocks are neither recomputed nor compiled.
    """
    from torch.nn.attention import SDPBackend, sdpa_kernel

    token = _DIFFERENTIATED.set(True)
    try:
        with ExitStack() as stack:
            stack.enter_context(sdpa_kernel(SDPBackend.MATH))
            if "torch._dynamo" in sys.modules:  # its import takes seconds, and without it nothing is compiled
                stack.enter_context(torch.compiler.set_stance("force_eager"))
            for context in FORWARD_CONTEXTS:
                stack.enter_context(context())
            yield
    finally:
        _DIFFERENTIATED.reset(token)


def jvp(fn: Callable[..., State], primals: tuple[Any, ...], tangents: tuple[Any, ...]) -> tuple[State, State]:
    """fn(*primals), and its derivative along `tangents` (trees of the structure of `primals`).

    Gradients flow through both where they are enabled; a target takes it under `torch.no_grad`, and the value that is
    trained by a call of its own: that is what activation checkpointing and ZeRO 3 allow.
    """
    with forward_differentiable(), forward_ad.dual_level():
        duals = [tree_map(forward_ad.make_dual, p, v) for p, v in zip(primals, tangents, strict=True)]
        made = tree_map(lambda y: forward_ad.unpack_dual(y), fn(*duals))
        value = tree_map(lambda y: y.primal, made)
        return value, tree_map(lambda y: torch.zeros_like(y.primal) if y.tangent is None else y.tangent, made)

"""How long a step would take: its operations, counted on tensors that have no memory, at rates that were measured.

An operation takes a launch and the longer of its arithmetic at the rate of matrix products and its bytes at the rate of
memory (the roofline of Williams et al. 2009, operation by operation); on a CPU, the sum of the two. That is a lower bound:
no product reaches the rate of the largest. Messages take their bytes at the rate of the slowest link: of a ring over the
ranks, the edge between two nodes carries what one rank sends.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import flop_registry

from flowgen.config import Config
from flowgen.device import accelerator, default_device, device_name, synchronize
from flowgen.runs.experiment import Experiment
from flowgen.training.deepspeed_config import user_config
from flowgen.training.internals import CPU_ATTENTION, CPU_ATTENTION_BACKWARD, TorchDispatchMode, tree_leaves
from flowgen.training.plan import Plan, complete, trace


@dataclass(frozen=True)
class Rates:
    """What a device does: operations a second of matrix products, bytes a second of memory, seconds to start an operation."""

    matrix: float
    memory: float
    launch: float
    overlaps: bool = True
    """Whether it computes while it reads."""


@dataclass(frozen=True)
class Cluster:
    """Nodes, ranks on each, bytes a second between two ranks of a node and out of a node, and watts of a rank."""

    nodes: int
    gpus: int
    link: float
    interconnect: float
    watts: float

    @property
    def ranks(self) -> int:
        return self.nodes * self.gpus

    @property
    def slowest(self) -> float:
        """Bytes a second of the ring over all ranks."""
        return self.link if self.nodes == 1 else min(self.link, self.interconnect)


@dataclass(frozen=True)
class Forecast:
    """Seconds of one optimizer step by part, and what follows for the run."""

    passes: float
    """Forward and backward passes of a rank's micro-batches."""
    update: float
    """Optimizer and averages."""
    messages: float
    """What the ranks send; where stage 3 sends while it computes, what is left after the passes."""
    steps: int
    positions: int
    ranks: int
    watts: float

    @property
    def step(self) -> float:
        return self.passes + self.update + self.messages

    @property
    def positions_per_second(self) -> float:
        return self.positions / self.step

    @property
    def days(self) -> float:
        return self.steps * self.step / 86400

    @property
    def kilowatt_hours(self) -> float:
        return self.ranks * self.watts * self.steps * self.step / 3.6e6


class Costs(TorchDispatchMode):
    """Counts operations by (arithmetic, bytes); views cost nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.found: Counter[tuple[int, int]] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None) -> Any:
        made = func(*args, **(kwargs or {}))
        inputs, outputs = (_tensors(tree) for tree in ((args, kwargs), made))
        known = {id(tensor.untyped_storage()) for tensor in inputs}
        in_place = func.name().partition(".")[0].endswith("_")
        if not outputs or (not in_place and all(id(tensor.untyped_storage()) in known for tensor in outputs)):
            return made
        moved = sum(tensor.numel() * tensor.element_size() for tensor in (*inputs, *outputs))
        flops = _arithmetic(func, args, kwargs or {}, made, inputs)
        self.found[flops, moved] += 1
        return made

    def seconds(self, rates: Rates) -> float:
        both = max if rates.overlaps else lambda a, b: a + b
        return sum(
            count * (rates.launch + both(flops / rates.matrix, moved / rates.memory))
            for (flops, moved), count in self.found.items()
        )


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def _arithmetic(func: Any, args: Any, kwargs: Any, made: Any, inputs: list[Tensor]) -> int:
    packet = func.overloadpacket
    if packet in flop_registry:
        return int(flop_registry[packet](*args, **kwargs, out_val=made))
    if packet in (CPU_ATTENTION, CPU_ATTENTION_BACKWARD):  # two products forward, five backward
        q, k = inputs[:2] if packet == CPU_ATTENTION else inputs[1:3]
        return (4 if packet == CPU_ATTENTION else 10) * q.numel() * k.shape[-2]
    return 0


def costs_of_step(objective: nn.Module, inputs: Callable[[], tuple[Any, ...]], autocast: bool = False) -> Costs:
    """What one forward and backward pass does. To be called as `activations.peak_of_step`."""
    with Costs() as costs:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
            output = objective(*inputs())
        output.total.mean().backward()
    return costs


def measured_rates(device: torch.device, dtype: torch.dtype, size: int) -> Rates:
    """The rates of this device in a precision: a product of two size x size matrices, a copy of 2^26 numbers, a
    chain of products of one."""
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    large, into = (torch.zeros(1 << 26, device=device) for _ in range(2))
    one = torch.zeros(1, device=device, requires_grad=True)

    def small() -> None:
        total = one
        for _ in range(100):
            total = total * one
        total.backward()

    matrix = 2 * size**3 / _seconds(lambda: a @ b, device)
    memory = 2 * large.nbytes / _seconds(lambda: into.copy_(large), device)
    launch = _seconds(small, device) / 500  # a product, two for its gradients, and their sums
    return Rates(matrix, memory, launch, device.type != "cpu")


def _seconds(work: Callable[[], object], device: torch.device, repeats: int = 5) -> float:
    best = math.inf
    for repeat in range(repeats + 1):
        synchronize(device)
        began = time.perf_counter()
        work()
        synchronize(device)
        best = min(best, time.perf_counter() - began) if repeat else best
    return best


_LAUNCH = 5e-6
"""Seconds of the shortest operation of a GPU whose rates are given."""


def rates_of(config: Config, matrix: float | None, memory: float | None) -> tuple[Rates, str]:
    """The rates that are given (TFLOP/s, GB/s), or those of this machine in the precision of the run; and whose they are."""
    if matrix is not None and memory is not None:
        return Rates(matrix * 1e12, memory * 1e9, _LAUNCH), "as given"
    device, size = default_device(), 1024 if accelerator() is None else 8192
    user = user_config(config)
    low = config.train.precision == "bfloat16" or any(user.get(key, {}).get("enabled") for key in ("bf16", "fp16"))
    own = measured_rates(device, torch.bfloat16 if low else torch.float32, size)
    if matrix is None and memory is None:
        return own, f"measured here, {device_name(device)}"
    given = Rates(matrix * 1e12 if matrix else own.matrix, memory * 1e9 if memory else own.memory, _LAUNCH)
    return given, f"the one as given, the other measured here, {device_name(device)}"


def forecasts(config: Config, made: Plan, rates: Rates, cluster: Cluster) -> dict[int, Forecast]:
    """A step at every ZeRO stage."""
    experiment, _ = complete(Experiment(config))
    _, costs = trace(experiment, made.micro, costs_of_step)
    return {stage: forecast(config, made, costs, rates, cluster, stage) for stage in made.stages}


def forecast(config: Config, made: Plan, costs: Costs, rates: Rates, cluster: Cluster, stage: int) -> Forecast:
    """A step of a plan at a ZeRO stage. Encoding, loading, previews and checkpoints are not in it.

    The optimizer reads and writes weight, gradient, two moments and each average of the parameters that a rank updates.
    """
    passes = made.accumulation * costs.seconds(rates)
    averages = 1 + len(config.train.ema.profiles)
    own = made.parameters if stage == 0 else made.parameters / cluster.ranks
    update = 4 * own * (7 + 3 * averages) / rates.memory
    messages = made.communicated[stage] / cluster.slowest
    if stage == 3:
        messages = max(0.0, messages - passes)
    return Forecast(passes, update, messages, config.train.steps, made.positions, cluster.ranks, cluster.watts)

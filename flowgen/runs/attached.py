"""Adapters put on a run for sampling: several, each with a weight and an interval of time."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from flowgen.core.tree import leaves
from flowgen.errors import FlowgenError, UsageError
from flowgen.runs.adapted import BASE, DEFAULT, fingerprint, inject, is_correction
from flowgen.runs.layouts import AdapterFile, Correction, read_layout
from flowgen.runs.run import Run
from flowgen.weights import read_tensors

_WRITTEN = re.compile(r"(?P<path>.+?)(?::(?P<weight>-?[\d.]+(?:e-?\d+)?))?(?:@(?P<start>[\d.]+)-(?P<end>[\d.]+))?")


@dataclass(frozen=True)
class Attachment:
    """An adapter with its weight, in force while start <= t <= end; t = 0 is noise.

    Args:
        path: the run of an adapter, or a file of one in a layout of `flowgen.runs.layouts`.
    """

    path: Path
    weight: float = 1.0
    start: float = 0.0
    end: float = 1.0

    @classmethod
    def parse(cls, text: str) -> Attachment:
        """PATH[:WEIGHT][@START-END]. UsageError: it cannot be read."""
        match = _WRITTEN.fullmatch(text)
        try:
            assert match is not None
            numbers = {k: float(v) for k, v in match.groupdict().items() if k != "path" and v is not None}
            found = cls(Path(match["path"]), **numbers)
        except (AssertionError, ValueError):
            raise UsageError(f"--adapter {text!r}: expected PATH, PATH:WEIGHT or PATH:WEIGHT@START-END") from None
        if not 0 <= found.start < found.end <= 1:
            raise UsageError(f"--adapter {text!r}: the interval of t lies in 0 to 1, and begins before it ends")
        return found

    def __str__(self) -> str:
        return f"{self.path}:{self.weight:g}@{self.start:g}-{self.end:g}"


def attach(network: nn.Module, attachments: Sequence[Attachment]) -> None:
    """Put adapters on a network, in place; from now on it is to be sampled only.

    Raises UsageError for an adapter that was trained on other weights or trains parameters as a whole, FlowgenError for a file
    that is none for this network.
    """
    digest = fingerprint(network)
    linear = [name for name, module in network.named_modules() if isinstance(module, nn.Linear)]
    for i, own in enumerate(attachments):
        file = _of_run(own.path, digest) if own.path.is_dir() else _of_file(own.path, linear)
        _inject(network, _name(i), file)
    network.requires_grad_(False)
    network.register_forward_pre_hook(_Switch(network, attachments))


class _Switch:
    """Before every call, the weights of the adapters that are in force at its time."""

    def __init__(self, network: nn.Module, attachments: Sequence[Attachment]) -> None:
        from peft.tuners.lora import LoraLayer

        self.attachments = attachments
        self.layers: list[Any] = [module for module in network.modules() if isinstance(module, LoraLayer)]
        self.scales = [dict(layer.scaling) for layer in self.layers]

    def __call__(self, network: nn.Module, arguments: tuple[Any, ...]) -> None:
        t = max(float(torch.as_tensor(leaf).max()) for leaf in leaves(arguments[1]))
        active = {_name(i): own.weight for i, own in enumerate(self.attachments) if own.start <= t <= own.end}
        for layer, scales in zip(self.layers, self.scales, strict=True):
            layer._active_adapter = [name for name in scales if name in active]
            for name in layer._active_adapter:
                layer.scaling[name] = active[name] * scales[name]


def _name(i: int) -> str:
    return f"adapter{i}"


def _inject(network: nn.Module, name: str, file: AdapterFile) -> None:
    """Layers of like rank and scale together, as peft takes them."""
    kinds: dict[tuple[int, float, bool], list[str]] = {}
    for layer, own in file.layers.items():
        rank = len(own.down)
        kinds.setdefault((rank, rank if own.alpha is None else own.alpha, own.magnitude is not None), []).append(layer)
    for (rank, alpha, dora), layers in kinds.items():
        if len(kinds) > 1:
            raise FlowgenError(
                "the layers of an adapter are of one rank and one scale here; merge it in its own program"
            )
        inject(network, name, layers, rank, alpha, dora=dora)
    own_parameters = dict(network.named_parameters())
    with torch.no_grad():
        for layer, own in file.layers.items():
            for leaf, value in (("lora_A", own.down), ("lora_B", own.up), ("lora_magnitude_vector", own.magnitude)):
                if value is not None:
                    own_parameters[f"{layer}.{leaf}.{name}.weight"].copy_(value)


def _of_run(folder: Path, digest: bytes) -> AdapterFile:
    run = Run(folder)
    config = run.config()
    if config.network.type != "lora":
        raise UsageError(f"--adapter {folder}: the run is no adapter (its network is {config.network.type!r})")
    tensors = run.newest_checkpoint().weights("ema")
    if bytes(tensors.pop(BASE).tolist()) != digest:
        raise UsageError(f"--adapter {folder} was trained on other weights than those of this run; sample it by itself")
    if whole := [name for name in tensors if not is_correction(name)]:
        raise UsageError(f"--adapter {folder} trains {whole[0]} as a whole, which cannot be added; sample it by itself")
    return AdapterFile(corrections(tensors, config.network.options.get("alpha")))


def corrections(tensors: Mapping[str, Tensor], alpha: float | None) -> dict[str, Correction]:
    """Of a checkpoint of the network `lora`, by layer."""
    layers = sorted({name.partition(".lora_")[0] for name in tensors if is_correction(name)})
    return {
        layer: Correction(
            tensors[f"{layer}.lora_A.{DEFAULT}.weight"],
            tensors[f"{layer}.lora_B.{DEFAULT}.weight"],
            tensors.get(f"{layer}.lora_magnitude_vector.{DEFAULT}.weight"),
            alpha,
        )
        for layer in layers
    }


def _of_file(path: Path, linear: Sequence[str]) -> AdapterFile:
    beside = path.with_name("adapter_config.json")
    alpha = None
    if beside.is_file():
        try:
            alpha = float(json.loads(beside.read_text(encoding="utf-8"))["lora_alpha"])
        except (OSError, ValueError, KeyError, TypeError):
            raise FlowgenError(
                f"{beside} does not say lora_alpha; put the file of the adapter beside its own"
            ) from None
    try:
        return read_layout(read_tensors(path), linear, alpha)
    except FlowgenError as error:
        raise FlowgenError(f"{path}: {error}") from None

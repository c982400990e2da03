"""The network `lora`: a trained network, frozen, with low-rank corrections that are trained, stored and averaged alone.

The layers are those of the library peft: LoRA (Hu et al. 2021, arXiv 2106.09685) and DoRA (Liu et al. 2024, arXiv 2402.09353).
"""

from __future__ import annotations

import fnmatch
import hashlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from torch import Tensor, nn

from flowgen.config import ComponentConfig, Config, build
from flowgen.config.schema import Named, Slot
from flowgen.core.interfaces import NetworkInput
from flowgen.core.ranges import Count, Positive, Share
from flowgen.errors import FlowgenError, UsageError
from flowgen.media.conditions import Conditioner
from flowgen.media.interfaces import Modality, RepeatedBlocks
from flowgen.nn.quantised import Precision, QuantisedLinear, quantise
from flowgen.nn.swapping import BlockSwap
from flowgen.runs.experiment import Experiment
from flowgen.runs.run import Run
from flowgen.weights import has_values, real_tensors

BASE = "adapter_base"
"""The buffer that says by a checksum which weights an adapter was trained on."""
SWAP = "swapped_blocks"
"""The module that swaps the frozen weights of blocks."""
DEFAULT = "default"
"""The name of the one adapter that is trained, in peft."""


def lora(
    spec: Any,
    conditions: Mapping[str, Conditioner],
    inputs: Sequence[NetworkInput] = (),
    modality: Modality | None = None,
    *,
    run: str | None = None,
    network: Annotated[Named | None, Slot("network")] = None,
    weights: Literal["ema", "raw"] = "ema",
    rank: Count = 8,
    alpha: Positive | None = None,
    dropout: Share = 0.0,
    dora: bool = False,
    targets: tuple[str, ...] = ("blocks",),
    whole: tuple[str, ...] = (),
    precision: Precision = "float32",
    swap_blocks: bool = False,
) -> nn.Module:
    """The network of a run (or one that brings its own weights), in which linear layers gain a low-rank correction.

    What is not trained is frozen: it is in no optimizer, gradient, average or checkpoint. At the start the network is the base.

    Args:
        run: the run or export whose network and weights are the base. Its conditions must be those of this run.
        network: a network that loads weights by itself, such as a pretrained one, in place of `run`.
        weights: of the run, averaged ones or those of the last step.
        rank: of the corrections.
        alpha: their scale is alpha / rank; the rank by default, a scale of 1.
        dropout: of their inputs, in training.
        dora: learn magnitudes of the weights, too.
        targets: patterns of the names of linear layers; "blocks" stands for all those of the repeated blocks, "linear" for all.
        whole: patterns of parameters of the base that are trained as a whole, such as "conditions.*".
        precision: in which the frozen weights of linear layers are kept; int8 by output, int4 by groups of 32 inputs.
        swap_blocks: keep the frozen weights of repeated blocks in memory of the host, and at most two blocks on the device.

    Raises UsageError for a base that does not fit and a pattern that matches nothing.
    """
    if (run is None) == (network is None):
        raise UsageError(
            "network: give the base of the adapter: run (a run folder or an export), or network, and not both"
        )
    given = {"spec": spec, "conditions": conditions, "inputs": inputs, "modality": modality}
    if run is not None:
        base = _of_run(Path(run), weights, conditions, given)
    else:
        assert network is not None
        base = build("network", network, **given)
    digest = fingerprint(base) if has_values(base) else bytes(32)
    base.requires_grad_(False)
    layers = _layers(base, targets)
    parameters = _matching([name for name, _ in base.named_parameters()], whole, "whole")
    quantise(base, precision, parameters)
    inject(base, DEFAULT, layers, rank, rank if alpha is None else alpha, dropout, dora)
    own = dict(base.named_parameters())
    for name in parameters:
        own[_injected(own, name)].requires_grad_(True)
    if swap_blocks:
        base.add_module(SWAP, BlockSwap(_blocks(base), has_values(base)))
    return keep_adapter_alone(base, digest)


def _blocks(network: nn.Module) -> list[nn.Module]:
    """The repeated blocks. UsageError: it declares none."""
    named = network.repeated_blocks if isinstance(network, RepeatedBlocks) else ()
    if not named:
        raise UsageError(
            f"network.swap_blocks works on repeated blocks, and {type(network).__name__} declares none; leave it out"
        )
    return [block for name in named for block in network.get_submodule(name).children()]


def inject(
    network: nn.Module,
    name: str,
    layers: Sequence[str],
    rank: int,
    alpha: float,
    dropout: float = 0.0,
    dora: bool = False,
) -> None:
    """Put a correction on linear layers, in place. UsageError: peft is not installed."""
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError:
        raise UsageError("adapters need the library peft; install it with: pip install 'flowgen[adapters]'") from None
    options = LoraConfig(
        r=rank,
        lora_alpha=alpha,  # type: ignore[arg-type]  # a real number is as good
        lora_dropout=dropout,
        use_dora=dora,
        target_modules=_exactly(layers),
        bias="none",
    )
    trained = {n for n, p in network.named_parameters() if p.requires_grad}
    with real_tensors():  # peft moves its layers, which fake tensors do not allow
        inject_adapter_in_model(options, network, name)
    if not has_values(network):
        for layer in network.modules():
            for leaf, p in list(layer.named_parameters(recurse=False)):
                layer.register_parameter(leaf, nn.Parameter(torch.empty_like(p), p.requires_grad))
    for n, p in network.named_parameters():
        p.requires_grad_(n in trained or is_correction(n))


def is_correction(name: str) -> bool:
    """Whether a parameter is one that peft added."""
    return ".lora_" in name


def fingerprint(network: nn.Module) -> bytes:
    """A checksum of parameters and buffers, 32 bytes; corrections left out."""
    found = hashlib.blake2b(digest_size=32)
    for name, tensor in sorted(network.state_dict().items()):
        if not is_correction(name) and not name.endswith(BASE):
            found.update(name.replace(".base_layer", "").encode())
            found.update(
                tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes() if tensor.numel() else b""
            )
    return found.digest()


def keep_adapter_alone(network: nn.Module, digest: bytes) -> nn.Module:
    """From now on its state is what is trained and the checksum of the base, which is compared when a state is loaded."""
    network.register_buffer(BASE, torch.tensor(list(digest), dtype=torch.uint8))
    kept = {name for name, p in network.named_parameters() if p.requires_grad} | {BASE}

    def leave_out(module: nn.Module, state: dict[str, Tensor], prefix: str, metadata: Any) -> None:
        for name in [n for n in state if n.startswith(prefix) and n[len(prefix) :] not in kept]:
            del state[name]

    def compare(module: nn.Module, state: Mapping[str, Tensor], prefix: str, *rest: Any) -> None:
        told = state.get(prefix + BASE)
        if told is not None and bytes(told.tolist()) != digest:
            raise FlowgenError(
                "the adapter was trained on other weights than those of its base now; put back the base that it was trained on, "
                "or train the adapter again"
            )

    def excuse(module: nn.Module, incompatible: Any) -> None:
        incompatible.missing_keys[:] = [n for n in incompatible.missing_keys if n in kept]

    network.register_state_dict_post_hook(leave_out)
    network.register_load_state_dict_pre_hook(compare)
    network.register_load_state_dict_post_hook(excuse)
    return network


def merged(network: nn.Module) -> dict[str, Tensor]:
    """The weights of the base with the corrections added, under the names of the base. The network is left merged.

    UsageError: the base is quantised.
    """
    from peft.tuners.lora import LoraLayer

    if any(isinstance(module, QuantisedLinear) for module in network.modules()):
        raise UsageError("network.precision: a quantised base takes no corrections; merge with precision: float32")
    if any(isinstance(module, BlockSwap) for module in network.modules()):
        raise UsageError("network.swap_blocks: swapped weights take no corrections; merge without it")
    for module in network.modules():
        if isinstance(module, LoraLayer):
            module.merge(safe_merge=True)
    every = {**dict(network.named_parameters()), **_persistent_buffers(network)}
    return {
        name.replace(".base_layer", ""): tensor.detach()
        for name, tensor in every.items()
        if not is_correction(name) and name != BASE
    }


def _persistent_buffers(network: nn.Module) -> dict[str, Tensor]:
    return {
        f"{path}.{name}".removeprefix("."): buffer
        for path, module in network.named_modules()
        for name, buffer in module._buffers.items()
        if buffer is not None and name not in module._non_persistent_buffers_set
    }


def _of_run(
    folder: Path, weights: Literal["ema", "raw"], conditions: Mapping[str, Conditioner], given: Mapping[str, Any]
) -> nn.Module:
    """The network of a run with its weights. UsageError: it takes other conditions."""
    source = Run(folder)
    experiment = Experiment(source.config())
    if experiment.config.network.type == "lora":
        raise UsageError(
            f"network.run: {folder} is an adapter itself; merge it first: flowgen export {folder} --merge -o NEW"
        )
    theirs = experiment.conditioners
    if differing := sorted(n for n in theirs.keys() | conditions.keys() if theirs.get(n) != conditions.get(n)):
        raise UsageError(
            f"network.run: the condition {differing[0]!r} of {folder} is "
            f"{theirs[differing[0]].describe() if differing[0] in theirs else 'not there'}, and here "
            f"{conditions[differing[0]].describe() if differing[0] in conditions else 'not there'}; write it under conditions as there"
        )
    network = build("network", experiment.config.network, **given)
    if has_values(network):
        source.read_newest(lambda checkpoint: checkpoint.load_weights(network, weights))
    return network


def _layers(network: nn.Module, targets: Sequence[str]) -> list[str]:
    """The names of the linear layers that patterns stand for, in the order of the network."""
    linear = [name for name, module in network.named_modules() if isinstance(module, nn.Linear)]
    repeated = tuple(f"{name}." for name in network.repeated_blocks) if isinstance(network, RepeatedBlocks) else ()
    found: set[str] = set()
    for pattern in targets:
        if pattern == "linear":
            found |= set(linear)
        elif pattern == "blocks" and repeated:
            found |= {name for name in linear if name.startswith(repeated)}
        else:
            found |= set(_matching(linear, [pattern], "targets"))
    return [name for name in linear if name in found]


def _matching(names: Sequence[str], patterns: Sequence[str], option: str) -> list[str]:
    """UsageError: a pattern matches none."""
    found: set[str] = set()
    for pattern in patterns:
        own = fnmatch.filter(names, pattern)
        if not own:
            raise UsageError(
                f"network.{option}: {pattern!r} matches nothing of the base; its names are such as {', '.join(names[:4]) or 'none'}"
            )
        found |= set(own)
    return [name for name in names if name in found]


def _injected(parameters: Mapping[str, Any], name: str) -> str:
    """The name of a parameter of the base where peft has put it one deeper."""
    if name in parameters:
        return name
    layer, _, leaf = name.rpartition(".")
    return f"{layer}.base_layer.{leaf}"


def _exactly(layers: Sequence[str]) -> str:
    """A pattern for peft that matches these names and no others that end like them."""
    return "|".join(f"(?:{re.escape(layer)})" for layer in layers)


def base_run(config: Config) -> Path | None:
    """The run that an adapter stands on; None: the network is no adapter, or its base is no run."""
    run = config.network.options.get("run") if config.network.type == "lora" else None
    return None if run is None else Path(run)


def with_options(config: Config, **options: Any) -> Config:
    """The config of an adapter with other options of its network."""
    section = ComponentConfig(type="lora", **{**config.network.options, **options})
    return config.model_copy(update={"network": section})


def parameters_of(network: nn.Module) -> tuple[int, int]:
    """Numbers that are trained, and all, those that are quantised or swapped included."""
    sizes = [(p.numel(), p.requires_grad) for p in network.parameters()]
    quantised = sum(m.in_features * m.out_features for m in network.modules() if isinstance(m, QuantisedLinear))
    swapped = sum(m.numbers for m in network.modules() if isinstance(m, BlockSwap)) if has_values(network) else 0
    return sum(n for n, trained in sizes if trained), quantised + swapped + sum(n for n, _ in sizes)

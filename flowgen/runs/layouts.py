"""Files of adapters as other programs write them: which tensor is which correction of which layer.

peft       base_model.model.LAYER.lora_A.weight, .lora_B.weight (and .lora_magnitude_vector); alpha in adapter_config.json
diffusers  LAYER.lora_A.weight, .lora_B.weight, where LAYER begins with the name of the component: transformer.
kohya      lora_unet_LAYER.lora_down.weight, .lora_up.weight, .alpha, with _ for each dot of LAYER
comfyui    diffusion_model.LAYER.lora_down.weight, .lora_up.weight, .alpha
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from flowgen.errors import FlowgenError

Layout = Literal["peft", "diffusers", "kohya", "comfyui"]
LAYOUTS: tuple[Layout, ...] = ("peft", "diffusers", "kohya", "comfyui")
_PREFIX: dict[Layout, str] = {
    "peft": "base_model.model.",
    "diffusers": "",
    "kohya": "lora_unet_",
    "comfyui": "diffusion_model.",
}
_LEAVES = {"lora_down.weight": "down", "lora_up.weight": "up", "alpha": "alpha"}
_LEAVES |= {"lora_A.weight": "down", "lora_B.weight": "up", "lora_magnitude_vector": "magnitude"}
_LEAVES |= {"dora_scale": "magnitude", "lora_magnitude_vector.weight": "magnitude"}


@dataclass
class Correction:
    """Of one linear layer: down [rank, in], up [out, rank], and for DoRA the magnitudes [out]."""

    down: Tensor
    up: Tensor
    magnitude: Tensor | None = None
    alpha: float | None = None
    """None: the file does not say, and its scale is `alpha / rank` of what it comes with, or 1."""


@dataclass
class AdapterFile:
    """Corrections by layer, and the layout that they were found in."""

    layers: dict[str, Correction]
    layout: Layout | None = None
    others: dict[str, Tensor] = field(default_factory=dict)


def read_layout(tensors: Mapping[str, Tensor], layers: Sequence[str], alpha: float | None = None) -> AdapterFile:
    """What the tensors of a file are. `layers`: the names of the linear layers of the network, `alpha`: told beside the file.

    FlowgenError names tensors that are of no such layer, or that are no part of a correction, or half of one.
    """
    names = {_written(layer, layout): (layer, layout) for layout in LAYOUTS for layer in layers}
    found: dict[str, dict[str, Tensor]] = {}
    layouts: set[Layout] = set()
    unread: list[str] = []
    for key, tensor in tensors.items():
        leaf = next((leaf for leaf in _LEAVES if key.endswith(f".{leaf}")), None)
        place = None if leaf is None else names.get(key[: -len(leaf) - 1])
        if leaf is None or place is None:
            unread.append(key)
            continue
        layouts.add(place[1])
        found.setdefault(place[0], {})[_LEAVES[leaf]] = tensor
    if unread:
        raise FlowgenError(
            f"{len(unread)} of {len(tensors)} tensors are no correction of a linear layer of this network, such as "
            f"{', '.join(sorted(unread)[:3])}; is the adapter for another network?"
        )
    if halves := [layer for layer, parts in found.items() if not {"down", "up"} <= parts.keys()]:
        raise FlowgenError(f"the correction of {halves[0]} lacks one of its two matrices; the file is not whole")
    made = {layer: _correction(parts, alpha) for layer, parts in found.items()}
    return AdapterFile(made, next(iter(layouts)) if len(layouts) == 1 else None)


def write_layout(layers: Mapping[str, Correction], layout: Layout) -> dict[str, Tensor]:
    """The tensors of a file."""
    old = layout in ("kohya", "comfyui")
    down, up = ("lora_down.weight", "lora_up.weight") if old else ("lora_A.weight", "lora_B.weight")
    out: dict[str, Tensor] = {}
    for layer, own in layers.items():
        name = _written(layer, layout)
        out[f"{name}.{down}"], out[f"{name}.{up}"] = own.down, own.up
        if own.magnitude is not None:
            out[f"{name}.{'dora_scale' if old else 'lora_magnitude_vector'}"] = own.magnitude
        if old and own.alpha is not None:
            out[f"{name}.alpha"] = torch.tensor(float(own.alpha))
    return out


def _written(layer: str, layout: Layout) -> str:
    return _PREFIX[layout] + (layer.replace(".", "_") if layout == "kohya" else layer)


def _correction(parts: Mapping[str, Tensor], alpha: float | None) -> Correction:
    own = float(parts["alpha"]) if "alpha" in parts else alpha
    return Correction(parts["down"], parts["up"], parts.get("magnitude"), own)

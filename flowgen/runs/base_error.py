"""How far a quantised base of an adapter is off: measured when training begins, kept in the run folder as `base.json`."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor, nn

from flowgen.config import Config
from flowgen.core.tree import State, leaves, tree_map
from flowgen.errors import FlowgenError
from flowgen.files import read_json, write_json
from flowgen.media.conditions import null_conditions
from flowgen.nn.quantised import Precision, bytes_of
from flowgen.nn.swapping import BlockSwap
from flowgen.runs.adapted import with_options
from flowgen.runs.experiment import Experiment

BASE_FILE = "base.json"


@dataclass(frozen=True)
class BaseError:
    """The output of a network on its quantised base, against that on the base in float32."""

    precision: Precision
    relative: float | None
    """Root mean square of the difference over the deviation of the exact output; None: not measured."""
    bytes: int
    bytes_float32: int
    device: str
    """On which it was measured, or could not be."""

    def __str__(self) -> str:
        off = f"output off by {100 * self.relative:.2g} % of its deviation" if self.relative is not None else ""
        size = f"{self.bytes / 1e6:,.1f} MB in place of {self.bytes_float32 / 1e6:,.1f} MB"
        missing = f"error not measured: the base does not fit in float32 on {self.device}"
        return f"{self.precision}: {off or missing}; {size}"

    @classmethod
    def read(cls, folder: Path, config: Config) -> BaseError | None:
        """That of a run folder; None where there is none for the precision of `config`. FlowgenError: the file is damaged."""
        path = folder / BASE_FILE
        if _precision(config) == "float32" or not path.is_file():
            return None
        try:
            found = _FILE.validate_python(read_json(path))
        except ValidationError:
            raise FlowgenError(f"{path} does not say how far the base is off; remove it") from None
        return found if found.precision == _precision(config) else None

    def write(self, folder: Path) -> None:
        write_json(asdict(self), folder / BASE_FILE)


_FILE = TypeAdapter(BaseError)


def _precision(config: Config) -> Precision:
    """Of the base of an adapter; "float32" for other networks."""
    if config.network.type != "lora":
        return "float32"
    precision: Precision = config.network.options.get("precision", "float32")
    return precision


@torch.no_grad()
def error_of_base(experiment: Experiment, network: nn.Module, device: torch.device) -> BaseError | None:
    """How far the output of a network is off for its quantised base; None where it is not quantised.

    Over two clips of noise at t = 0 without conditions, with the corrections as they are. The base is read again for it, and
    is on the device whole in float32 for one pass.
    """
    precision = _precision(experiment.config)
    if precision == "float32":
        return None
    exact = Experiment(with_options(experiment.config, precision="float32")).new_network()
    exact.load_state_dict(network.state_dict())
    sizes = _bytes(network), _bytes(exact)
    rng = torch.Generator().manual_seed(0)
    x = tree_map(lambda spec: torch.randn(2, *spec.shape, generator=rng), experiment.spec)
    cond = null_conditions(experiment.conditioners, 2)
    try:
        true = _output(exact, x, cond, device)
    except torch.OutOfMemoryError:  # such a base is often quantised because of it
        return BaseError(precision, None, *sizes, str(device))
    del exact
    made = _output(network, x, cond, device)
    relative = float((made - true).pow(2).mean().sqrt() / true.std().clamp(min=1e-30))
    return BaseError(precision, relative, *sizes, str(device))


def _bytes(network: nn.Module) -> int:
    swapped = sum(sum(module.sizes) for module in network.modules() if isinstance(module, BlockSwap))
    return bytes_of(network) + swapped


def _output(network: nn.Module, x: State, cond: Any, device: torch.device) -> Tensor:
    """What a network makes of noise, flat, on the CPU; the network is left as it was."""
    training, place = network.training, next(network.parameters()).device
    x, cond = (tree_map(lambda value: value.to(device), each) for each in (x, cond))
    made = network.to(device).eval()(x, torch.zeros(2, device=device), cond)
    network.train(training).to(place)
    return torch.cat([leaf.float().flatten().cpu() for leaf in leaves(made)])

"""What is checked: everything a config names, built as training builds it, on the CPU."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from flowgen.config import Config, load, write
from flowgen.core.interfaces import Loss
from flowgen.core.random import generator, seed_of
from flowgen.core.tree import State, first_leaf, leaves, tree_map
from flowgen.data.order import Order, full_size
from flowgen.media.clip import Clip
from flowgen.media.conditions import Conditioner, encode_conditions, null_conditions
from flowgen.media.encoder import Encoder, Latents
from flowgen.media.interfaces import Dataset, Modality
from flowgen.media.streams import Spec
from flowgen.plugins import Plugin, registry
from flowgen.runs.experiment import Experiment
from flowgen.runs.generator import Generator
from flowgen.testing.contract import Checked
from flowgen.testing.pickles import watching

_SOME, _MANY = 4, 32


@dataclass(frozen=True)
class Tolerances:
    """How much a medium may lose, in units of the latents' deviation."""

    round_trip: float = 0.2
    """Between the latents of a clip and those of its decoded latents."""
    file: float = 0.2
    """Between the latents of a clip and those of its file."""
    batch: float = 1e-3
    """Between what is computed of a clip alone and among others."""


@dataclass
class Subject(Checked):
    """A config and what it names; each part is built when it is first asked for."""

    written: Config
    tolerances: Tolerances = Tolerances()

    @classmethod
    def of(
        cls, config: str | Mapping[str, Any], overrides: Sequence[str] = (), tolerances: Tolerances | None = None
    ) -> Subject:
        """A recipe, a file, or the values of a config; `name` and `train` may be left out of the values."""
        if isinstance(config, str):
            return cls(load(config, overrides).config, tolerances or Tolerances())
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "config.yaml"
            write({"name": "conformance", "train": {"steps": 20}, **config}, path)
            return cls(load(str(path), overrides).config, tolerances or Tolerances())

    @cached_property
    def plugins(self) -> list[Plugin]:
        """The plugins that bring modality, data set, encoder and network, flowgen itself left out."""
        c = self.written
        named = [("modality", c.modality), ("dataset", c.data), ("encoder", c.encoder), ("network", c.network)]
        found = {registry().owner(kind, section.type).name: kind for kind, section in named}
        return [registry().plugins[name] for name in found if name != "flowgen"]

    @cached_property
    def _as_written(self) -> Experiment:
        return Experiment(self.written)

    @cached_property
    def experiment(self) -> Experiment:
        """With the conditions that the data set offers."""
        with watching("the data set"):
            return self._as_written.complete()

    @property
    def config(self) -> Config:
        return self.experiment.config

    @property
    def modality(self) -> Modality:
        return self._as_written.modality

    def new_dataset(self) -> Dataset:
        with watching("the data set"):
            return Experiment(self.written).dataset

    @cached_property
    def dataset(self) -> Dataset:
        """Its clips are of one size: the modality's own."""
        with watching("the data set"):
            return full_size(self._as_written.dataset)

    def clip(self, position: int, dataset: Dataset | None = None) -> Clip:
        """A clip as the first epoch meets it."""
        data = self.dataset if dataset is None else dataset
        index = Order(0, len(data))[position % len(data)].index
        with watching("the data set"):
            return data.clip(index, seed_of(0, "clip", index))

    @cached_property
    def many(self) -> list[Clip]:
        """Enough clips to measure, and to see every kind of condition."""
        return [self.clip(i) for i in range(min(_MANY, len(self.dataset)))]

    @cached_property
    def clips(self) -> list[Clip]:
        return [self.clip(i) for i in range(_SOME)]

    def new_encoder(self) -> Encoder:
        with watching("the encoder"):
            return Experiment(self.written).encoder

    @cached_property
    def encoder(self) -> Encoder:
        """Fitted."""
        with watching("the encoder"):
            encoder = self.experiment.encoder
            encoder.fit(self.many)
        return encoder

    def encode(self, clips: Sequence[Clip]) -> Latents:
        with torch.no_grad(), watching("the encoder"):
            return self.encoder.encode(clips)

    def decode(self, latents: Latents) -> list[Clip]:
        with torch.no_grad(), watching("the encoder"):
            return self.encoder.decode(latents)

    @cached_property
    def latents(self) -> Latents:
        return self.encode(self.clips)

    @property
    def spec(self) -> Spec:
        return self.encoder.spec

    @cached_property
    def conditioners(self) -> dict[str, Conditioner]:
        return self.experiment.conditioners

    def conditions(self, clips: Sequence[Clip]) -> dict[str, Any]:
        return encode_conditions(
            self.conditioners, [{k: c.conditions.get(k) for k in self.conditioners} for c in clips]
        )

    def nulls(self, n: int) -> dict[str, Any]:
        return null_conditions(self.conditioners, n)

    @cached_property
    def loss(self) -> Loss:
        return self.experiment.loss

    def new_network(self, config: Config | None = None) -> nn.Module:
        """With the weights a run begins with."""
        return (self.experiment if config is None else Experiment(config)).new_network()

    @cached_property
    def network(self) -> nn.Module:
        """With weights that are no longer special: layers that begin at zero would hide what is wrong behind them."""
        return perturbed(self.new_network()).eval()

    @property
    def generator(self) -> Generator:
        _ = self.encoder  # fitted
        return Generator(self.experiment, self.network, torch.device("cpu"))

    def state(self, n: int = _SOME, seed: int = 0) -> State:
        """Random latents of the trained size."""
        return tree_map(lambda s: torch.randn(n, *s.shape, generator=generator(seed, "state")), self.spec)

    def times(self, n: int = _SOME) -> Tensor:
        return torch.linspace(0.1, 0.9, n)


def perturbed(network: nn.Module, scale: float = 0.05) -> nn.Module:
    """A copy with noise on every weight."""
    network = copy.deepcopy(network)
    rng = generator(0, "perturbation")
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(scale * torch.randn(parameter.shape, generator=rng))
    return network


def distance(a: State, b: State) -> float:
    """Root mean square of a - b relative to that of b, over all leaves."""
    pairs = list(zip(leaves(a), leaves(b), strict=True))
    off = sum(float((x.double() - y.double()).square().sum()) for x, y in pairs)
    size = sum(float(y.double().square().sum()) for _, y in pairs)
    return (off / max(size, 1e-30)) ** 0.5


def copied(clip: Clip) -> Clip:
    """A clip with data of its own."""
    return replace(clip, data=tree_map(torch.clone, clip.data))


def first_changed(clips: Sequence[Clip], before: Sequence[Clip]) -> str:
    """The first clip that is not what it was, in words; "" where all are."""
    for i, (clip, old) in enumerate(zip(clips, before, strict=False)):
        same_data = all(torch.equal(a, b) for a, b in zip(leaves(clip.data), leaves(old.data), strict=True))
        if not same_data or dict(clip.conditions) != dict(old.conditions):
            return f"clip {i}"
    return ""


def same(a: State, b: State) -> bool:
    """Equal up to rounding."""
    return distance(a, b) < 1e-6


def finite(x: State) -> bool:
    return all(bool(torch.isfinite(leaf).all()) for leaf in leaves(x))


def rows(x: State, at: Any) -> State:
    return tree_map(lambda leaf: leaf[at], x)


def shapes(x: State) -> Any:
    """Shapes for a message."""
    return tuple(first_leaf(x).shape) if isinstance(x, Tensor) else {k: tuple(v.shape) for k, v in x.items()}

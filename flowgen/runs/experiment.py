"""From a config to the objects it names: the same for training, plan, previews, evaluation and the command line."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property, partial
from typing import Any

import torch
from torch import nn

from flowgen.config import ComponentConfig, Config, build
from flowgen.config.components import takes
from flowgen.config.schema import ConditionConfig, TokenShiftConfig
from flowgen.core.flow import Shifted
from flowgen.core.interfaces import (
    Autoencoder,
    Coupling,
    Flow,
    Loss,
    LossWithBalance,
    LossWithInputs,
    LossWithLimits,
    NamesStreams,
    ReconstructionLoss,
)
from flowgen.core.random import generator
from flowgen.core.times import Shift, Shifts, TokenShift, stream_factors
from flowgen.core.tree import State, tree_map
from flowgen.data.order import full_size
from flowgen.errors import UsageError, unknown
from flowgen.media.conditions import Conditioner
from flowgen.media.encoder import Encoder
from flowgen.media.interfaces import Dataset, Metric, Modality, Resolves
from flowgen.media.regions import Region, check_regions
from flowgen.media.streams import Spec, StreamSpec, check_streams
from flowgen.plugins import registry


class Experiment:
    """The parts that a config names, each built once, when it is first asked for.

    Training, plan, report, evaluation, tests and the command line all take them from here, so that a run is sampled with
    what it was trained with. An encoder that is fitted, loaded or moved is so for everything that shares this object.

    Every part raises UsageError for an option that it refuses, and FlowgenError where a plugin cannot be loaded.

    Args:
        config: with its conditions complete, as that of a run folder is; or as a user wrote it, then see `complete`.
    """

    def __init__(self, config: Config) -> None:
        self.config = config

    def complete(self) -> Experiment:
        """The same with the conditions complete, from what the data set offers (see `resolve_conditions`)."""
        complete = Experiment(resolve_conditions(self.config, self.dataset))
        complete.__dict__ |= {name: part for name, part in vars(self).items() if name != "config"}
        return complete

    @cached_property
    def modality(self) -> Modality:
        return build("modality", self.config.modality)

    @cached_property
    def dataset(self) -> Dataset:
        """Both parts: what is held out is its `validation()`."""
        return build("dataset", self.config.data, modality=self.modality)

    @cached_property
    def encoder(self) -> Encoder:
        """Frozen; what it measures of the data is still to be fitted or loaded."""
        return build("encoder", self.config.encoder, modality=self.modality).eval().requires_grad_(False)

    @property
    def spec(self) -> Spec:
        """What latents look like, by stream where there are several."""
        return self.encoder.spec

    @cached_property
    def conditioners(self) -> dict[str, Conditioner]:
        """By name. Their types must be known, see `complete`."""
        return {
            name: build("conditioner", ComponentConfig(type=str(c.type), **c.options))
            for name, c in (self.config.conditions or {}).items()
        }

    @cached_property
    def shift(self) -> Shifts:
        """The one shift of training times and sampling grids, or one a stream."""
        self._check_streams("shift", self.config.shift)
        return _by_stream(self.config.shift, _shift)

    @cached_property
    def coupling(self) -> Coupling:
        return build("coupling", self.config.coupling)

    @cached_property
    def loss(self) -> Loss:
        """The objective around path, times, coupling and shift; of these, one that the config sets and the loss does not
        take is refused when the config is read (see `flowgen.config.force`)."""
        given = {"path": self.config.path, "times": self.config.times, "shift": self.config.shift}
        for key, section in given.items():
            self._check_streams(key, section)
        loss = self.objective
        if isinstance(loss, NamesStreams):
            for option, streams in loss.streams_named().items():
                check_streams(f"loss.{option}", streams, self.spec)
        if isinstance(loss, LossWithBalance) and loss.balance is not None and isinstance(self.spec, StreamSpec):
            raise UsageError("loss.balance is of several streams, and the latents are one stream; leave it out")
        return loss

    @cached_property
    def objective(self) -> Loss:
        """The loss before the streams that it names are compared with those of the latents, which takes the encoder."""
        with self._initial_weights("weights of the loss"):
            return build(
                "loss",
                self.config.loss,
                path=_by_stream(self.config.path, partial(build, "path")),
                times=_by_stream(self.config.times, partial(build, "times")),
                coupling=self.coupling,
                shift=_by_stream(self.config.shift, _shift),
                modality=self.modality,
            )

    def check_loss(self) -> None:
        """UsageError: the loss cannot be built, or not be trained. Needs no encoder."""
        loss = self.objective
        if isinstance(loss, LossWithLimits):
            try:
                loss.check_limits()
            except ValueError as error:
                raise UsageError(f"loss {self.config.loss.type!r}: {error}") from None

    def flow(self, network: Callable[..., State], x: State | None = None) -> Flow:
        """The flow of a network trained by this loss, for states like x (as trained by default).

        Streams with shifts of their own go by clocks of their own: this, not `loss.flow`, is what sampling integrates.
        """
        like = tree_map(lambda spec: torch.zeros(1, *spec.shape), self.spec) if x is None else x
        flow, factors = self.loss.flow(network), stream_factors(self.shift, like)
        return flow if factors is None else Shifted(flow, factors)

    def _check_streams(self, key: str, section: Any) -> None:
        """UsageError: a section is given by stream, and its streams are not those of the latents."""
        if isinstance(section, Mapping):
            check_streams(key, section, self.spec)

    @contextmanager
    def _initial_weights(self, of: str) -> Iterator[None]:
        """A block in which what a module draws is a function of the seed alone."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(generator(self.config.train.seed, of).initial_seed())
            yield

    @cached_property
    def network(self) -> nn.Module:
        return self.new_network()

    def new_network(self) -> nn.Module:
        """A network of its own, its initial weights a function of the seed alone, that takes what the loss shows it.

        UsageError: it takes no such inputs.
        """
        loss, name = self.loss, self.config.network.type
        inputs = loss.inputs if isinstance(loss, LossWithInputs) else ()
        if inputs and not takes("network", name, "inputs"):
            raise UsageError(
                f"the loss {self.config.loss.type!r} shows the network {', '.join(given.name for given in inputs)}, which the "
                f"network {name!r} does not take; choose one with a parameter 'inputs', such as transformer or mlp"
            )
        with self._initial_weights("weights"):
            given = {"spec": self.spec, "conditions": self.conditioners, "inputs": inputs, "modality": self.modality}
            network = build("network", self.config.network, **given)
        if isinstance(network, Autoencoder) != self.reconstructs:
            what = ("", "no ") if isinstance(network, Autoencoder) else ("no ", "")
            raise UsageError(
                f"the network {name!r} is {what[0] or 'an '}autoencoder, and the loss {self.config.loss.type!r} trains {what[1]}"
                f"autoencoders; change network.type or loss.type so that they go together"
            )
        return network

    @property
    def reconstructs(self) -> bool:
        """Whether this trains an autoencoder, which generates nothing."""
        return isinstance(self.loss, ReconstructionLoss)

    @cached_property
    def regions(self) -> list[Region]:
        """The known regions that training samples are given. UsageError: they do not fit the latents."""
        regions = [build("region", section) for section in self.config.known]
        try:
            check_regions(regions, self.spec)
        except ValueError as error:
            raise UsageError(f"known: {error}") from None
        return regions

    @cached_property
    def metrics(self) -> list[tuple[str, Metric]]:
        """The metrics of `eval.metrics` by name, over data of full size. UsageError: the config names none.

        An autoencoder needs none: the medium's own distances are measured.
        """
        if not self.config.eval.metrics and not self.reconstructs:
            raise UsageError(
                f"{self.config.name} names no metrics; give some in the config's eval.metrics or with --metric "
                f"(valid: {', '.join(registry().names('metric')) or 'none'})"
            )
        given = {"modality": self.modality, "dataset": full_size(self.dataset), "encoder": self.encoder}
        return [(m.type, build("metric", m, **given)) for m in self.config.eval.metrics]


def _by_stream(section: Any, make: Callable[[Any], Any]) -> Any:
    """What a section describes, or a dict of them by stream."""
    return {name: make(part) for name, part in section.items()} if isinstance(section, Mapping) else make(section)


def _shift(section: float | TokenShiftConfig) -> Shift:
    return section if isinstance(section, float) else TokenShift(section.base, section.power)


def resolve_conditions(config: Config, dataset: Dataset) -> Config:
    """The config with its conditions complete: what the data set offers, changed by what the config says.

    A conditioner that rests on files adds what tells them apart, by a method `resolve() -> dict` of its options.

    Raises UsageError for a condition that the data set does not have.
    """
    wanted = config.conditions
    if wanted is None:
        wanted = {name: ConditionConfig() for name in dataset.conditions}
    resolved: dict[str, Any] = {}
    for name, condition in wanted.items():
        if name not in dataset.conditions:
            raise UsageError(f"conditions: {unknown('condition of this data set', name, dataset.conditions)}")
        offered = dataset.conditions[name]
        kind = condition.type or offered["type"]
        options = {k: v for k, v in offered.items() if k != "type"} if kind == offered["type"] else {}
        resolved[name] = _checked(name, kind, {**options, **condition.options}) | {"dropout": condition.dropout}
    return Config.model_validate({**config.model_dump(), "conditions": resolved})


def _checked(name: str, kind: str, options: dict[str, Any]) -> dict[str, Any]:
    from pydantic import ValidationError

    from flowgen.config import options_model

    try:
        values = options_model("conditioner", kind)(**options).model_dump(mode="json")
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, ("conditions", name, *first["loc"])))
        raise UsageError(f"{where}: {first['msg'][0].lower()}{first['msg'][1:]}, got {first['input']!r}") from None
    conditioner = build("conditioner", ComponentConfig(type=kind, **values))
    return {"type": kind, **values, **(conditioner.resolve() if isinstance(conditioner, Resolves) else {})}

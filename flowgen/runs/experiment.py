"""From a config to the objects it names: the same for training, previews, evaluation and the command line."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from flowgen.config import ComponentConfig, Config, build
from flowgen.config.schema import ConditionConfig
from flowgen.core.interfaces import Coupling, Loss
from flowgen.core.random import generator
from flowgen.core.times import Shift, TokenShift
from flowgen.errors import UsageError, unknown
from flowgen.media.conditions import Conditioner
from flowgen.media.encoder import Encoder
from flowgen.media.interfaces import Dataset, Modality
from flowgen.media.regions import Region, check_regions
from flowgen.media.streams import Spec


def build_modality(config: Config) -> Modality:
    return build("modality", config.modality)


def build_dataset(config: Config, modality: Modality) -> Dataset:
    return build("dataset", config.data, modality=modality)


def build_encoder(config: Config, modality: Modality) -> Encoder:
    return build("encoder", config.encoder, modality=modality).eval().requires_grad_(False)


def build_conditioners(config: Config) -> dict[str, Conditioner]:
    """The conditioners of a config in which every condition has its type (see `resolve_conditions`)."""
    return {
        name: build("conditioner", ComponentConfig(type=str(c.type), **c.options))
        for name, c in (config.conditions or {}).items()
    }


def build_loss(config: Config) -> Loss:
    return build(
        "loss",
        config.loss,
        path=build("path", config.path),
        times=build("times", config.times),
        coupling=build_coupling(config),
        shift=build_shift(config),
    )


def build_coupling(config: Config) -> Coupling:
    return build("coupling", config.coupling)


def build_regions(config: Config, spec: Spec) -> list[Region]:
    """The known regions that training samples are given. UsageError: they do not fit the latents."""
    regions = [build("region", section) for section in config.known]
    try:
        check_regions(regions, spec)
    except ValueError as error:
        raise UsageError(f"known: {error}") from None
    return regions


def build_shift(config: Config) -> Shift:
    """The one shift of training times and sampling grids."""
    return config.shift if isinstance(config.shift, float) else TokenShift(config.shift.base, config.shift.power)


def build_network(config: Config, spec: Spec, conditioners: Mapping[str, Conditioner]) -> nn.Module:
    """The network, its initial weights a function of the seed alone."""
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(generator(config.train.seed, "weights").initial_seed())
        return build("network", config.network, spec=spec, conditions=conditioners)


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
    resolve = getattr(conditioner, "resolve", None)
    return {"type": kind, **values, **(resolve() if resolve is not None else {})}

"""A component: something a config can name."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import Any

from flowgen.errors import FlowgenError, UsageError, unknown


@dataclass(frozen=True)
class Kind:
    """A kind of component: what it is, and the arguments flowgen itself passes before the options of the config."""

    name: str
    summary: str
    given: tuple[str, ...] = ()


KINDS = {
    kind.name: kind
    for kind in (
        Kind("modality", "a medium: reads, writes and shows clips"),
        Kind("dataset", "clips by index", given=("modality",)),
        Kind("encoder", "clips to latents and back", given=("modality",)),
        Kind("network", "a velocity network", given=("spec", "conditions")),
        Kind("conditioner", "raw conditions to what a network takes"),
        Kind("region", "a known region: a part of a clip that is given"),
        Kind("path", "a probability path from noise to data"),
        Kind("times", "a distribution of training times"),
        Kind("coupling", "which noise goes with which data"),
        Kind("loss", "a training objective", given=("path", "times", "coupling", "shift")),
        Kind("solver", "one step of sampling"),
        Kind("guidance", "a wrapper around a flow"),
        Kind("metric", "a measure of generated clips", given=("modality", "dataset")),
        Kind("logger", "where the figures of a training run go", given=("folder",)),
        Kind(
            "writer",
            "another file type of a modality, named MODALITY.EXTENSION",
            given=("modality", "clips", "path", "metadata"),
        ),
    )
}


@dataclass(frozen=True)
class Component:
    """`target` ("package.module:attribute") is imported when the component is first used."""

    kind: str
    name: str
    target: str
    summary: str = ""

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise UsageError(unknown("kind of component", self.kind, KINDS))
        if ":" not in self.target:
            raise UsageError(f"{self.kind} {self.name!r}: expected 'package.module:attribute', got {self.target!r}")

    def load(self) -> Any:
        """Import what the component names."""
        module, _, attribute = self.target.partition(":")
        try:
            return getattr(import_module(module), attribute)
        except (ImportError, AttributeError) as error:
            raise FlowgenError(
                f"{self.kind} {self.name!r} cannot be loaded from {self.target!r}: {type(error).__name__}: {error}"
            ) from error

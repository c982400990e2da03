"""Which sections of a config are in force: a loss that sets its own path, times or coupling takes none from the config."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from typing import Any

from flowgen.config.document import Document
from flowgen.config.schema import Config
from flowgen.errors import FlowgenError
from flowgen.plugins import registry

_SECTIONS = ("path", "times", "coupling")
"""Sections that reach a run through the loss alone."""


def idle(values: Mapping[str, Any]) -> tuple[str, ...]:
    """The sections that the loss of a config (or of its plain values) does not take, by its signature."""
    try:
        taken = inspect.signature(registry().get("loss", _loss(values)).load()).parameters
    except FlowgenError:  # an unknown loss is named where the loss is checked
        return ()
    return tuple(name for name in _SECTIONS if name not in taken)


def in_force(config: Config) -> dict[str, Any]:
    """The values of a config as JSON, without the sections that nothing reads."""
    values = config.model_dump(mode="json")
    return {name: value for name, value in values.items() if name not in idle(values)}


def refusals(document: Document) -> Iterator[str]:
    """One sentence for each section that the user wrote and the loss does not take."""
    for name in idle(document.values):
        source = next((s for key, s in document.sources.items() if key[0] == name), "default")
        if name in document.values and source != "default" and not source.startswith("plugin "):
            loss = _loss(document.values)
            yield (
                f"{source}: {name}: the loss {loss!r} sets its own {name} and would ignore this; remove the section "
                f"(or set {name}=null), or choose a loss that takes one, such as flow-matching"
            )


def without_idle(document: Document) -> None:
    """Leave out the sections that nothing reads: config files of runs used to list them all."""
    for name in idle(document.values):
        _remove(document, name)


def without_null(document: Document) -> None:
    """Leave out the sections that are set to null: the default stands."""
    for name in _SECTIONS:
        if name in document.values and document.values[name] is None:
            _remove(document, name)


def _remove(document: Document, name: str) -> None:
    document.values.pop(name, None)
    for key in [key for key in document.sources if key[0] == name]:
        del document.sources[key]


def _loss(values: Mapping[str, Any]) -> str:
    section = values.get("loss", {})
    name = section if isinstance(section, str) else section.get("type") if isinstance(section, Mapping) else None
    return name if isinstance(name, str) else Config.model_fields["loss"].default.type

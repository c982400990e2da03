"""Defaults that plugins set for keys a config leaves out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flowgen.config.document import Document, merge, put
from flowgen.errors import UsageError, shorten
from flowgen.plugins import registry


def with_defaults(document: Document) -> Document:
    """The document over the defaults of plugins. UsageError: two plugins disagree on a key that it leaves out."""
    found: dict[str, tuple[str, Any]] = {}
    for plugin, defaults in registry().call("flowgen_defaults", config=document.values):
        if not isinstance(defaults, Mapping) or not all(isinstance(key, str) for key in defaults):
            raise UsageError(
                f"plugin {plugin!r}: its flowgen_defaults returns values by key, as in {{'train.seed': 5}}, "
                f"not {shorten(repr(defaults))}; leave it out with FLOWGEN_DISABLE={plugin}"
            )
        for key, value in defaults.items():
            if _written(document.values, key.split(".")):
                continue
            other, old = found.setdefault(key, (plugin, value))
            if old != value:
                raise UsageError(
                    f"the plugins {other!r} and {plugin!r} set the default of {key!r} to {old!r} and to {value!r}; "
                    f"set it in the config, or leave one out with FLOWGEN_DISABLE={plugin}"
                )
    base = Document()
    for key, (plugin, value) in found.items():
        put(base, key.split("."), value, f"plugin {plugin}")
    merge(base, document)
    return base


def _written(values: Any, key: list[str]) -> bool:
    """Whether a document sets a key, or something on the way to it that is no section."""
    for part in key:
        if not isinstance(values, dict):
            return True
        if part not in values:
            return False
        values = values[part]
    return True

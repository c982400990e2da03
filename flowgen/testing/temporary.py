"""A plugin for the length of a test, without installing it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from flowgen.config import options_model
from flowgen.plugins import Plugin, registry


@contextlib.contextmanager
def plugged(name: str, module: Any) -> Iterator[Plugin]:
    """Register a module (or any object with hook implementations) as the plugin `name` of this process.

    with plugged("tone", flowgen_tone):
        load("tone/small")
    """
    registry().register(name, module)
    try:
        yield registry().plugins[name]
    finally:
        registry().unregister(name)
        options_model.cache_clear()

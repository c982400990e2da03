"""Plugins: how modalities, and everything else a config can name, reach the core that knows none of them."""

from flowgen.plugins.component import KINDS, Component, Kind
from flowgen.plugins.hookspecs import GROUP, hookimpl
from flowgen.plugins.registry import Plugin, Registry, registry

__all__ = ["GROUP", "KINDS", "Component", "Kind", "Plugin", "Registry", "hookimpl", "registry"]

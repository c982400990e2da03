"""Plugins found, isolated and listed; components by kind and name."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from typing import Any

import pluggy

from flowgen.errors import FlowgenError, UsageError, unknown
from flowgen.plugins import builtin
from flowgen.plugins.component import KINDS, Component
from flowgen.plugins.hookspecs import GROUP, Hooks


@dataclass(frozen=True)
class Plugin:
    """A plugin that was found: where it came from, what it brings, or why it failed."""

    name: str
    distribution: str
    version: str
    components: tuple[Component, ...] = ()
    error: str = ""


class Registry:
    """All plugins of this environment. A broken one is recorded (and named in one warning); the others work.

    FLOWGEN_DISABLE="a,b" leaves plugins out before they are imported; `strict` raises instead of recording.
    """

    def __init__(self, entry_points: Iterable[Any] | None = None, *, strict: bool = False) -> None:
        self.strict = strict
        self.plugins: dict[str, Plugin] = {}
        self._owners: dict[tuple[str, str], list[tuple[str, Component]]] = {}
        self._manager = pluggy.PluginManager(GROUP)
        self._manager.add_hookspecs(Hooks)
        self._register("flowgen", builtin, "flowgen", "")
        disabled = {name.strip() for name in os.environ.get("FLOWGEN_DISABLE", "").split(",")}
        found = metadata.entry_points(group=GROUP) if entry_points is None else entry_points
        # sorted: the order of entry points is the file system's, and a list that changes from run to run is no list
        for point in sorted(found, key=lambda p: (p.name, p.value)):
            if point.name not in disabled:
                self._load(point)

    def _load(self, point: Any) -> None:
        distribution = getattr(getattr(point, "dist", None), "name", "?")
        version = getattr(getattr(point, "dist", None), "version", "")
        if point.name in self.plugins:
            other = self.plugins[point.name]
            # an editable install may be listed twice; the same module twice is no conflict
            if other.distribution == distribution:
                return
            key = f"{point.name} ({distribution})"
            self._fail(key, distribution, version, FlowgenError(f"the name is taken by {other.distribution}"))
            return
        try:
            self._register(point.name, point.load(), distribution, version)
        except Exception as error:  # whatever a stranger's module raises when imported: named, and survived
            self._fail(point.name, distribution, version, error)

    def _register(self, name: str, module: Any, distribution: str, version: str) -> None:
        self._manager.register(module, name=name)
        try:
            self._manager.check_pending()  # the only check that notices a misspelt hook
            components = tuple(
                component
                for impl in self._manager.hook.flowgen_components.get_hookimpls()
                if impl.plugin_name == name
                for component in impl.function()
            )
        except Exception:
            self._manager.unregister(name=name)
            raise
        self.plugins[name] = Plugin(name, distribution, version, components)
        for component in components:
            self._owners.setdefault((component.kind, component.name), []).append((name, component))

    def _fail(self, name: str, distribution: str, version: str, error: Exception) -> None:
        if self.strict:
            raise error
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        self.plugins[name] = Plugin(name, distribution, version, error=reason)
        warnings.warn(f"plugin {name!r} ({distribution}) is left out: {reason}", stacklevel=2)

    def names(self, kind: str) -> list[str]:
        """The names of all components of a kind."""
        return sorted(name for k, name in self._owners if k == kind)

    def components(self, kind: str | None = None) -> list[Component]:
        return [owners[0][1] for (k, _), owners in sorted(self._owners.items()) if kind in (None, k)]

    def get(self, kind: str, name: str) -> Component:
        """The component of that kind and name. UsageError: unknown, or claimed by two plugins."""
        if kind not in KINDS:
            raise UsageError(unknown("kind of component", kind, KINDS))
        owners = self._owners.get((kind, name), [])
        if not owners:
            broken = [f"plugin {p.name!r} failed to load: {p.error}" for p in self.plugins.values() if p.error]
            raise UsageError("; ".join([unknown(kind, name, self.names(kind)), *broken]))
        if len(owners) > 1:
            claims = " and ".join(f"{plugin!r} ({component.target})" for plugin, component in owners)
            raise UsageError(
                f"{kind} {name!r} is claimed by two plugins: {claims}; leave one out with FLOWGEN_DISABLE={owners[-1][0]}"
            )
        return owners[0][1]


@cache
def registry() -> Registry:
    """The registry of this process, made on first use."""
    return Registry(strict=bool(os.environ.get("FLOWGEN_STRICT_PLUGINS")))

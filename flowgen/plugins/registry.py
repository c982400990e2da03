"""Plugins found, isolated and listed; components by kind and name."""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import pluggy

from flowgen.environment import disabled_plugins
from flowgen.errors import FlowgenError, UsageError, unknown
from flowgen.plugins import builtin
from flowgen.plugins.component import KINDS, Component
from flowgen.plugins.contain import SLOW_S, contained
from flowgen.plugins.hookspecs import API, GROUP, Hooks
from flowgen.plugins.moved import moved_hint


@dataclass(frozen=True)
class Plugin:
    """A plugin that was found: where it came from, what it brings, or why it failed."""

    name: str
    distribution: str
    version: str
    module: str = ""
    components: tuple[Component, ...] = ()
    recipes: Path | None = None
    hooks: tuple[str, ...] = ()
    """The names of the hooks it implements."""
    import_s: float = 0.0
    """How long its module took to import, in seconds."""
    error: str = ""


class Registry:
    """All plugins of this environment. A broken one is recorded (and named in one warning); the others work.

    FLOWGEN_DISABLE="a,b" leaves plugins out before they are imported; `strict` raises instead of recording.
    """

    def __init__(self, entry_points: Iterable[Any] | None = None, *, strict: bool = False) -> None:
        self.strict = strict
        self.plugins: dict[str, Plugin] = {}
        self.disabled: list[str] = []
        self._owners: dict[tuple[str, str], list[tuple[str, Component]]] = {}
        self._silenced: set[tuple[str, str]] = set()
        self._manager = pluggy.PluginManager(GROUP)
        self._manager.add_hookspecs(Hooks)
        self.register("flowgen", builtin, "flowgen")
        out = disabled_plugins()
        found = metadata.entry_points(group=GROUP) if entry_points is None else entry_points
        # sorted: the order of entry points is the file system's, and a list that changes from run to run is no list
        for point in sorted(found, key=lambda p: (p.name, p.value)):
            if point.name not in out:
                self._load(point)
            elif point.name not in self.disabled:
                self.disabled.append(point.name)
        for name in sorted(out - set(self.disabled)):
            warnings.warn(f"FLOWGEN_DISABLE names {name!r}, which is no plugin of this environment", stacklevel=2)

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
        began = time.perf_counter()
        try:
            with contained(f"plugin {point.name!r} ({distribution})", "while it was loaded", SLOW_S):
                module = point.load()
                self.register(point.name, module, distribution, version, time.perf_counter() - began)
        except Exception as error:  # whatever a stranger's module raises when imported: named, and survived
            self._fail(point.name, distribution, version, error)

    def register(
        self, name: str, module: Any, distribution: str = "this process", version: str = "", import_s: float = 0.0
    ) -> None:
        """Take a plugin in by its module (or any object with hook implementations).

        Raises FlowgenError for one that is made for another version of the hooks, and what its own code raises.
        """
        api = getattr(module, "FLOWGEN_API", API)
        if api != API:
            raise FlowgenError(
                f"it is made for version {api} of flowgen's plugin interface, and this flowgen has version {API}; "
                f"install {'a newer flowgen' if str(api) > str(API) else 'a newer ' + distribution}"
            )
        if self._manager.has_plugin(name):
            raise FlowgenError(f"a plugin of the name {name!r} is registered already")
        self._manager.register(module, name=name)
        try:
            self._manager.check_pending()  # the only check that notices a misspelt hook
            hooks = tuple(hook for hook in self._hooks() if any(True for _ in self._of(hook, name)))
            components = tuple(c for impl in self._of("flowgen_components", name) for c in impl.function())
            recipes = next((Path(impl.function()) for impl in self._of("flowgen_recipes", name)), None)
            if recipes is not None and not recipes.is_dir():
                raise FlowgenError(f"its flowgen_recipes names {recipes}, which is no folder; is it package data?")
        except Exception:
            self._manager.unregister(name=name)
            raise
        where = getattr(module, "__name__", type(module).__name__)
        self.plugins[name] = Plugin(name, distribution, version, where, components, recipes, hooks, import_s)
        for component in components:
            self._owners.setdefault((component.kind, component.name), []).append((name, component))

    def unregister(self, name: str) -> None:
        """Forget a plugin."""
        self._manager.unregister(name=name)
        del self.plugins[name]
        for key, owners in list(self._owners.items()):
            self._owners[key] = [(plugin, component) for plugin, component in owners if plugin != name]
            if not self._owners[key]:
                del self._owners[key]

    def _hooks(self) -> list[str]:
        return [name for name in vars(Hooks) if name.startswith("flowgen_")]

    def _of(self, hook: str, plugin: str) -> Iterator[Any]:
        """The implementation of a hook by a plugin."""
        for impl in getattr(self._manager.hook, hook).get_hookimpls():
            if impl.plugin_name == plugin:
                if impl.wrapper or impl.hookwrapper:
                    raise FlowgenError(f"its {hook} is a wrapper; flowgen's hooks are plain functions")
                yield impl

    def call(self, hook: str, **arguments: Any) -> Iterator[tuple[str, Any]]:
        """Call a hook plugin by plugin, in the order of their names: (plugin, what it returned).

        FlowgenError names the plugin whose hook fails: without what it would have said, the result would be another.
        """
        for name, plugin in self.plugins.items():
            for impl in self._of(hook, name) if hook in plugin.hooks else ():
                try:
                    with contained(f"plugin {name!r}", f"in {hook}"):
                        returned = impl.function(*(arguments[argument] for argument in impl.argnames))
                except Exception as error:
                    raise FlowgenError(
                        f"plugin {name!r} failed in {hook}: {_sentence(error)}; leave it out with FLOWGEN_DISABLE={name}"
                    ) from error
                yield name, returned

    def notify(self, event: str, **arguments: Any) -> None:
        """Tell an event of training to all plugins. One that fails is named, and not told this event again."""
        for name, plugin in self.plugins.items():
            if event not in plugin.hooks or (name, event) in self._silenced:
                continue
            for impl in self._of(event, name):
                try:
                    with contained(f"plugin {name!r}", f"in {event}"):
                        impl.function(*(arguments[argument] for argument in impl.argnames))
                except Exception as error:  # a run of days does not end for a message that was not sent
                    if self.strict:
                        raise
                    self._silenced.add((name, event))
                    warnings.warn(
                        f"plugin {name!r} failed in {event} and is not told again: {_sentence(error)}", stacklevel=2
                    )

    def _fail(self, name: str, distribution: str, version: str, error: Exception) -> None:
        if self.strict:
            raise error
        reason = _sentence(error) + moved_hint(error)
        self.plugins[name] = Plugin(name, distribution, version, error=reason)
        warnings.warn(f"plugin {name!r} ({distribution}) is left out: {reason}", stacklevel=2)

    def names(self, kind: str) -> list[str]:
        """The names of all components of a kind."""
        return sorted(name for k, name in self._owners if k == kind)

    def components(self, kind: str | None = None) -> list[Component]:
        return [owners[0][1] for (k, _), owners in sorted(self._owners.items()) if kind in (None, k)]

    def get(self, kind: str, name: str) -> Component:
        """The component of that kind and name. UsageError: unknown, or claimed by two plugins."""
        return self._owner(kind, name)[1]

    def owner(self, kind: str, name: str) -> Plugin:
        """The plugin that brings a component. UsageError: as `get`."""
        return self.plugins[self._owner(kind, name)[0]]

    def _owner(self, kind: str, name: str) -> tuple[str, Component]:
        if kind not in KINDS:
            raise UsageError(unknown("kind of component", kind, KINDS))
        owners = self._owners.get((kind, name), [])
        if not owners:
            broken = [f"plugin {p.name!r} failed to load: {p.error}" for p in self.plugins.values() if p.error]
            out = [f"plugin {name!r} is disabled" for name in self.disabled]
            raise UsageError("; ".join([unknown(kind, name, self.names(kind)), *broken, *out]))
        if len(owners) > 1:
            claims = " and ".join(f"{plugin!r} ({component.target})" for plugin, component in owners)
            raise UsageError(
                f"{kind} {name!r} is claimed by two plugins: {claims}; leave one out with FLOWGEN_DISABLE={owners[-1][0]}"
            )
        return owners[0]


def _sentence(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())


@cache
def registry() -> Registry:
    """The registry of this process, made on first use."""
    return Registry(strict=bool(os.environ.get("FLOWGEN_STRICT_PLUGINS")))

"""Commands that plugins add, and plugins left out. Nothing of a plugin is imported until its command is called."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from typing import Any

import click

from flowgen.environment import disabled_plugins
from flowgen.errors import FlowgenError, UsageError, unknown

GROUP = "flowgen.commands"


@dataclass(frozen=True)
class PluginCommand:
    """A command by its entry points: more than one where distributions claim the same name."""

    points: tuple[Any, ...]

    @property
    def distributions(self) -> list[str]:
        return sorted(point.dist.name for point in self.points)

    @property
    def summary(self) -> str:
        return f"({' and '.join(self.distributions)})" if len(self.points) > 1 else _summary(self.points[0])


def _summary(point: Any) -> str:
    said = point.dist.metadata.get("Summary") or ""
    return f"{said} ({point.dist.name})".strip()


def leave_out(names: Sequence[str]) -> None:
    """Disable plugins for this process and those it starts."""
    if names:
        known = {point.name for point in metadata.entry_points(group="flowgen")}
        for name in names:
            if name not in known:
                raise UsageError(f"--no-plugin: {unknown('plugin', name, known)}")
        os.environ["FLOWGEN_DISABLE"] = ",".join(sorted(disabled_plugins() | set(names)))


def plugin_commands() -> dict[str, PluginCommand]:
    """The commands of plugins by name. Those of a disabled plugin, which is known by its own entry-point name, are absent."""
    found: dict[str, dict[str, Any]] = {}
    out = disabled_plugins()
    for point in metadata.entry_points(group=GROUP):
        plugins = {p.name for p in point.dist.entry_points if p.group == "flowgen"} if point.dist else set()
        if point.dist is not None and not (plugins and plugins <= out):
            found.setdefault(point.name, {})[point.dist.name] = point  # an editable install may be listed twice
    return {name: PluginCommand(tuple(points.values())) for name, points in sorted(found.items())}


def load_command(name: str) -> click.Command | None:
    """The command of a plugin; None if there is none. Errors name the distribution."""
    command = plugin_commands().get(name)
    if command is None:
        return None
    if len(command.points) > 1:
        raise UsageError(
            f"the command {name!r} is claimed by {' and '.join(command.distributions)}; leave one out with --no-plugin"
        )
    from flowgen.plugins.contain import SLOW_S, contained

    point = command.points[0]
    try:
        with contained(f"the command {name!r} ({point.dist.name})", "while it was imported", SLOW_S):
            return point.load()
    except Exception as error:
        raise FlowgenError(
            f"the command {name!r} of {point.dist.name} cannot be loaded from {point.value!r}: {type(error).__name__}: {error}"
        ) from error

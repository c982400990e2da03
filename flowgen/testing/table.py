"""What there is to check of a plugin, and the checks from the command line: `flowgen plugins check`."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from flowgen.config import in_force, recipes
from flowgen.errors import FlowgenError, UsageError, unknown
from flowgen.plugins import Plugin, registry
from flowgen.testing.checks import CHECKS, checks_of
from flowgen.testing.contract import COMPONENT_CHECKS, Check, Checked, ContractError, NotApplicable, NotBuilt
from flowgen.testing.part import Part, recipe_for
from flowgen.testing.subject import Subject


@dataclass(frozen=True)
class Outcome:
    """What came of a check: "kept", "broken" or "does not apply"."""

    check: Check
    result: str
    message: str
    seconds: float


@dataclass(frozen=True)
class Target:
    """Something to check, under a name for people."""

    name: str
    subject: Checked
    checks: tuple[Check, ...]


@dataclass
class Registered(Checked):
    """What a plugin registers, without building it."""

    plugins: list[Plugin]


_SECTIONS = {"modality": "modality", "dataset": "data", "encoder": "encoder", "network": "network"}
"""Kinds that are checked within a config, and the section that names each."""


def targets(plugin: str, configs: Sequence[str] = (), overrides: Sequence[str] = ()) -> list[Target]:
    """What there is to check of a plugin: its registration, its recipes (or configs given instead), and each component that
    no recipe names.

    UsageError: there is no such plugin, or it is broken, or overrides have no recipe to change.
    """
    found = registry().plugins
    if plugin not in found:
        raise UsageError(unknown("plugin", plugin, found))
    if found[plugin].error:
        raise UsageError(f"the plugin {plugin!r} is left out: {found[plugin].error}")
    own = [name for name in recipes() if name.startswith(f"{plugin}/")]
    subjects = {name: Subject.of(name, overrides) for name in configs or own}
    if overrides and not subjects:
        raise UsageError(
            f"the plugin {plugin!r} has no recipe that {overrides[0]} could change; name one with --config"
        )
    everything = tuple(check for check in CHECKS if check.kind != "plugin")
    return [
        Target("registration", Registered([found[plugin]]), tuple(checks_of("plugin"))),
        *(Target(name, subject, everything) for name, subject in subjects.items()),
        *_components(found[plugin], list(subjects.values())),
    ]


def _components(plugin: Plugin, subjects: Sequence[Subject]) -> Iterator[Target]:
    """Each component that no recipe names: by itself, or in a config of the medium that it is for."""
    alone = {check.kind for check in COMPONENT_CHECKS}
    host = subjects[0] if subjects else None
    for component in plugin.components:
        kind, name = component.kind, component.name
        if kind in alone:
            yield Target(f"{kind} {name}", Part(kind, name, host=host), tuple(checks_of(kind)))
        elif all(getattr(s.written, _SECTIONS[kind]).type != name for s in subjects):
            yield _within(kind, name, host)


def _within(kind: str, name: str, host: Subject | None) -> Target:
    """A component in the place of that of its kind in a config."""
    part = Part(kind, name)
    checks = tuple(c for c in CHECKS if c.kind == kind or (kind == "network" and c.kind == "recipe"))
    try:
        host = host or recipe_for(part.target)
        config = {k: v for k, v in in_force(host.written).items() if k not in ("conditions", "known", "run", "eval")}
        subject: Checked = Subject.of({**config, _SECTIONS[kind]: {"type": name, **part.complete_options()}})
    except (NotBuilt, FlowgenError) as error:
        subject, checks = part, (_not_built(str(error)),)
    return Target(f"{kind} {name}", subject, checks)


def _not_built(reason: str) -> Check:
    def run(subject: Checked) -> str | None:
        raise NotBuilt(reason)

    return Check("is_built", "a component can be built", "docs/plugins.md#options", run)


def outcomes(target: Target, *, slow: bool = True) -> Iterator[Outcome]:
    """Run the checks, one after the other."""
    for check in target.checks:
        if check.slow and not slow:
            continue
        began = time.perf_counter()
        result, message, missing = "kept", "", None
        try:
            check(target.subject)
        except NotApplicable as reason:
            result, message, missing = "does not apply", str(reason), reason
        except ContractError as error:
            result, message = "broken", str(error)
        yield Outcome(check, result, message, time.perf_counter() - began)
        if isinstance(missing, NotBuilt):
            return

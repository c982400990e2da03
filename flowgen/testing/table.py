"""What there is to check of a plugin, and the checks from the command line: `flowgen plugins check`."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from flowgen.config import recipes
from flowgen.errors import UsageError, unknown
from flowgen.plugins import registry
from flowgen.testing.checks import CHECKS, checks_of
from flowgen.testing.contract import COMPONENT_CHECKS, Check, Checked, ContractError, NotApplicable, NotBuilt
from flowgen.testing.part import Part
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


def targets(plugin: str, configs: Sequence[str] = (), overrides: Sequence[str] = ()) -> list[Target]:
    """The recipes of a plugin (or configs given instead) and each of its components that is checked by itself.

    UsageError: there is no such plugin, it is broken, or there is nothing to check.
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
    host = next(iter(subjects.values()), None)
    alone = {check.kind for check in COMPONENT_CHECKS}
    parts = [
        Target(f"{c.kind} {c.name}", Part(c.kind, c.name, host=host), tuple(checks_of(c.kind)))
        for c in found[plugin].components
        if c.kind in alone
    ]
    if not subjects and not parts:
        raise UsageError(
            f"the plugin {plugin!r} has no recipe to check it with; name a config with --config, "
            "or let it bring recipes (docs/plugins.md#recipes)"
        )
    return [*(Target(name, subject, tuple(CHECKS)) for name, subject in subjects.items()), *parts]


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

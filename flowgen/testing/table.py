"""The battery from the command line: `flowgen plugins check`."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from flowgen.config import recipes
from flowgen.errors import UsageError, unknown
from flowgen.plugins import registry
from flowgen.testing.checks import CHECKS
from flowgen.testing.contract import Check, ContractError, NotApplicable
from flowgen.testing.subject import Subject


@dataclass(frozen=True)
class Outcome:
    """What came of a check: "kept", "broken" or "does not apply"."""

    check: Check
    result: str
    message: str
    seconds: float


def subjects(plugin: str, configs: Sequence[str] = (), overrides: Sequence[str] = ()) -> list[tuple[str, Subject]]:
    """The recipes of a plugin (or configs given instead), ready to be checked. UsageError: it has none."""
    found = registry().plugins
    if plugin not in found:
        raise UsageError(unknown("plugin", plugin, found))
    if found[plugin].error:
        raise UsageError(f"the plugin {plugin!r} is left out: {found[plugin].error}")
    own = [name for name in recipes() if name.startswith(f"{plugin}/")]
    names = list(configs) or own
    if not names:
        raise UsageError(
            f"the plugin {plugin!r} has no recipe to check it with; name a config with --config, "
            "or let it bring recipes (docs/plugins.md#recipes)"
        )
    return [(name, Subject.of(name, overrides)) for name in names]


def outcomes(subject: Subject, *, slow: bool = True) -> Iterator[Outcome]:
    """Run the battery, one check after the other."""
    for check in CHECKS:
        if check.slow and not slow:
            continue
        began = time.perf_counter()
        result, message = "kept", ""
        try:
            check(subject)
        except NotApplicable as reason:
            result, message = "does not apply", str(reason)
        except ContractError as error:
            result, message = "broken", str(error)
        yield Outcome(check, result, message, time.perf_counter() - began)

"""A check: one sentence of a contract, and how to see whether a component keeps it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any


class ContractError(AssertionError):
    """A plugin breaks a contract: what the contract is, what was seen, and where it is documented."""


class NotApplicable(Exception):
    """The contract says nothing about this plugin; the message says why."""


class NotBuilt(NotApplicable):
    """It cannot be built from what is known of it; the message says what is missing. None of its checks apply."""


@dataclass
class Checked:
    """What checks are run on. It remembers what was found broken, so that one broken thing is reported once."""

    broken: dict[str, str] = field(default_factory=dict, init=False, repr=False)
    """What was seen, by name of the check."""
    withheld: set[str] = field(default_factory=set, init=False, repr=False)
    """Checks that were not run, because one that they need is broken."""
    unsound: str = field(default="", init=False, repr=False)
    """The basic check that is broken."""


@dataclass(frozen=True)
class Check:
    """`run` returns what it saw of a broken contract, and None where the contract is kept.

    It is not run where one of `needs` is broken (of a recipe as a whole, where anything is): what it would see follows
    from that.
    """

    name: str
    contract: str
    see: str
    run: Callable[[Any], str | None]
    kind: str = ""
    """The kind of component whose contract it is; "plugin" for registration, "recipe" for all parts together."""
    slow: bool = False
    needs: tuple[str, ...] = ()
    basic: bool = False
    """Whether nothing that is checked after it says anything where it is broken."""

    def __call__(self, subject: Any) -> None:
        """Raise ContractError where the contract is broken, NotApplicable where it does not apply."""
        for name in self.needs:
            if name in subject.broken or name in subject.withheld:
                subject.withheld.add(self.name)
                raise NotApplicable(f"not run: {name.replace('_', ' ')!r} is broken, or was not run")
        first = next(iter(subject.broken), "") if self.kind == "recipe" else subject.unsound
        if first and first != self.name and self.kind != "plugin":
            raise NotApplicable(f"not run: {first.replace('_', ' ')!r} is broken")
        cause: Exception | None = None
        try:
            seen = self.run(subject)
        except (NotApplicable, KeyboardInterrupt):
            raise
        except Exception as error:  # whatever the plugin's own code raises is what was seen
            text = " ".join(str(error).split())
            cause, seen = error, f"it raised {type(error).__name__}: {text}"
        if seen is None:
            return
        for name, other in subject.broken.items():
            if cause is not None and other == seen and name != self.name:
                raise NotApplicable(f"not run: it raises what {name.replace('_', ' ')!r} reports") from cause
        subject.broken[self.name] = seen
        subject.unsound = subject.unsound or (self.name if self.basic else "")
        raise ContractError(self.message(seen)) from cause

    def message(self, seen: str) -> str:
        return f"contract: {self.contract}\nseen: {seen}\nsee: {self.see}"


CHECKS: list[Check] = []
"""The checks of a config and all it names (`Subject`), in the order in which they run: what is cheap comes first."""

COMPONENT_CHECKS: list[Check] = []
"""The checks of a component by itself (`Part`): kinds that need no clips of their own."""

Run = Callable[[Any], "str | None"]


def checks_for(kind: str, into: list[Check] | None = None) -> Callable[..., Callable[[Run], Run]]:
    """A decorator `check(contract, see=..., slow=..., needs=...)` that adds functions to the checks of a kind.

    `see` is the section of docs/plugins.md that explains the contract; `needs` names checks (functions) without which this
    one says nothing, `basic` marks one without which none after it does.
    """

    def check(
        contract: str, *, see: str, slow: bool = False, needs: tuple[Run, ...] = (), basic: bool = False
    ) -> Callable[[Run], Run]:
        def add(run: Run) -> Run:
            required = tuple(need.__name__ for need in needs)
            (CHECKS if into is None else into).append(
                Check(run.__name__, contract, f"docs/plugins.md#{see}", run, kind, slow, required, basic)
            )
            return run

        return add

    return check


def checks_of(kind: str) -> list[Check]:
    """Every check of a kind of component."""
    return [check for check in (*CHECKS, *COMPONENT_CHECKS) if check.kind == kind]

"""A check: one sentence of a contract, and how to see whether a plugin keeps it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flowgen.testing.subject import Subject


class ContractError(AssertionError):
    """A plugin breaks a contract: what the contract is, what was seen, and where it is documented."""


class NotApplicable(Exception):
    """The contract says nothing about this plugin; the message says why."""


@dataclass(frozen=True)
class Check:
    """`run` returns what it saw of a broken contract, and None where the contract is kept."""

    name: str
    contract: str
    see: str
    run: Callable[[Subject], str | None]
    slow: bool = False

    def __call__(self, subject: Subject) -> None:
        """Raise ContractError where the contract is broken, NotApplicable where it does not apply."""
        try:
            seen = self.run(subject)
        except (NotApplicable, KeyboardInterrupt):
            raise
        except Exception as error:  # whatever the plugin's own code raises is what was seen
            text = " ".join(str(error).split())
            raise ContractError(self.message(f"it raised {type(error).__name__}: {text}")) from error
        if seen is not None:
            raise ContractError(self.message(seen))

    def message(self, seen: str) -> str:
        return f"contract: {self.contract}\nseen: {seen}\nsee: {self.see}"


CHECKS: list[Check] = []
"""All checks, in the order in which they run: what is cheap and comes first in a run comes first."""


def check(
    contract: str, *, see: str, slow: bool = False
) -> Callable[[Callable[[Subject], str | None]], Callable[[Subject], str | None]]:
    """Add a function to the battery. `see` is the section of docs/plugins.md that explains the contract."""

    def add(run: Callable[[Subject], str | None]) -> Callable[[Subject], str | None]:
        CHECKS.append(Check(run.__name__, contract, f"docs/plugins.md#{see}", run, slow))
        return run

    return add

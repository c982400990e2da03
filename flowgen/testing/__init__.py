"""For tests of flowgen and of plugins: the oracle of the mathematics, and the conformance kit.

A plugin's own tests need one class (see docs/plugins.md), for a medium or for a component:

    from flowgen.testing import ComponentConformance, ModalityConformance

    class TestTone(ModalityConformance):
        config = "tone/small"

    class TestRalston3(ComponentConformance):
        kind, name = "solver", "ralston3"

Nothing is imported before it is used; the kit itself needs pytest, its checks do not.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flowgen.testing.checks import CHECKS as CHECKS
    from flowgen.testing.conformance import ComponentConformance as ComponentConformance
    from flowgen.testing.conformance import ModalityConformance as ModalityConformance
    from flowgen.testing.contract import Check as Check
    from flowgen.testing.contract import ContractError as ContractError
    from flowgen.testing.part import Part as Part
    from flowgen.testing.subject import Subject as Subject
    from flowgen.testing.temporary import plugged as plugged

_HOME = {
    "CHECKS": "checks",
    "Check": "contract",
    "ComponentConformance": "conformance",
    "ContractError": "contract",
    "ModalityConformance": "conformance",
    "Part": "part",
    "Subject": "subject",
    "plugged": "temporary",
}
__all__ = [
    "CHECKS",
    "Check",
    "ComponentConformance",
    "ContractError",
    "ModalityConformance",
    "Part",
    "Subject",
    "plugged",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'flowgen.testing' has no attribute {name!r}")
    return getattr(import_module(f"flowgen.testing.{_HOME[name]}"), name)

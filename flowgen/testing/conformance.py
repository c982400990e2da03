"""The conformance kit for pytest: a plugin's own tests subclass `ModalityConformance`, or `ComponentConformance`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import pytest

from flowgen.testing.checks import CHECKS
from flowgen.testing.contract import Check, NotApplicable, checks_of
from flowgen.testing.part import Part
from flowgen.testing.subject import Subject, Tolerances


class ModalityConformance:
    """A test for every sentence of the contracts.

    class TestTone(ModalityConformance):
        config = "tone/small"                      # a recipe or a file ...
        overrides = ("network.depth=1",)

    class TestTone(ModalityConformance):
        modality, dataset, encoder = "tone", "sines", {"type": "tone", "width": 8}      # ... or components
        network = {"type": "transformer", "width": 32, "depth": 2, "heads": 2}
    """

    config: ClassVar[str | Mapping[str, Any]] = {}
    """A recipe, a file, or values of a config."""
    overrides: ClassVar[tuple[str, ...]] = ()
    modality: ClassVar[str | Mapping[str, Any] | None] = None
    dataset: ClassVar[str | Mapping[str, Any] | None] = None
    encoder: ClassVar[str | Mapping[str, Any] | None] = None
    network: ClassVar[str | Mapping[str, Any] | None] = None
    round_trip_tolerance: ClassVar[float] = Tolerances.round_trip
    """How much an encoder may lose, in units of the latents' deviation."""
    file_tolerance: ClassVar[float] = Tolerances.file
    """How much the default file format may lose."""
    batch_tolerance: ClassVar[float] = Tolerances.batch
    _subject: ClassVar[Subject | None] = None

    @classmethod
    def subject(cls) -> Subject:
        """What is checked; built once for the class."""
        if "_subject" not in cls.__dict__:
            sections = {"modality": cls.modality, "data": cls.dataset, "encoder": cls.encoder, "network": cls.network}
            given = {key: section for key, section in sections.items() if section is not None}
            config = cls.config if isinstance(cls.config, str) else {**cls.config, **given}
            tolerances = Tolerances(cls.round_trip_tolerance, cls.file_tolerance, cls.batch_tolerance)
            cls._subject = Subject.of(config, cls.overrides, tolerances)
        assert cls._subject is not None
        return cls._subject


class ComponentConformance:
    """A test for every sentence of the contract of a component: of kinds that are checked by themselves.

    class TestRalston3(ComponentConformance):
        kind, name = "solver", "ralston3"
        options = {"order": 3}
    """

    kind: ClassVar[str] = ""
    name: ClassVar[str] = ""
    options: ClassVar[Mapping[str, Any]] = {}
    values: ClassVar[Sequence[Any]] = ()
    """Of a conditioner: some values that it takes."""
    config: ClassVar[str] = ""
    """Of a metric or a writer: the recipe or file in which it is used; a recipe of points by default."""
    overrides: ClassVar[tuple[str, ...]] = ()
    _subject: ClassVar[Part | None] = None

    def __init_subclass__(cls) -> None:
        for check in (*checks_of("plugin"), *checks_of(cls.kind)):
            setattr(cls, f"test_{check.name}", _test(check))

    @classmethod
    def subject(cls) -> Part:
        """What is checked; built once for the class."""
        if "_subject" not in cls.__dict__:
            host = Subject.of(cls.config, cls.overrides) if cls.config else None
            cls._subject = Part(cls.kind, cls.name, cls.options, cls.values, host)
        assert cls._subject is not None
        return cls._subject


def _test(check: Check) -> Callable[[Any], None]:
    def test(self: Any) -> None:
        try:
            check(self.subject())
        except NotApplicable as reason:
            pytest.skip(str(reason))

    test.__name__ = f"test_{check.name}"
    test.__doc__ = check.contract
    return pytest.mark.slow(test) if check.slow else test


for _check in CHECKS:
    setattr(ModalityConformance, f"test_{_check.name}", _test(_check))

"""The conformance kit for pytest: a plugin's own tests subclass `ModalityConformance`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import pytest

from flowgen.testing.checks import CHECKS
from flowgen.testing.contract import Check, NotApplicable
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


def _test(check: Check) -> Callable[[ModalityConformance], None]:
    def test(self: ModalityConformance) -> None:
        try:
            check(self.subject())
        except NotApplicable as reason:
            pytest.skip(str(reason))

    test.__name__ = f"test_{check.name}"
    test.__doc__ = check.contract
    return pytest.mark.slow(test) if check.slow else test


for _check in CHECKS:
    setattr(ModalityConformance, f"test_{_check.name}", _test(_check))

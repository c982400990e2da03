"""The battery on the recipes of an installed plugin: see `flowgen.testing.pytest_plugin`."""

from __future__ import annotations

import pytest

from flowgen.testing.checks import CHECKS
from flowgen.testing.contract import Check, NotApplicable
from flowgen.testing.subject import Subject
from flowgen.testing.table import subjects


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    name = metafunc.config.getoption("--flowgen-plugin")
    if not name:
        raise pytest.UsageError("flowgen.testing.battery needs --flowgen-plugin NAME")
    cases = [
        pytest.param(subject, check, id=f"{recipe}-{check.name}", marks=[pytest.mark.slow] if check.slow else [])
        for recipe, subject in subjects(name)
        for check in CHECKS
    ]
    metafunc.parametrize(("subject", "check"), cases)


def test_contract(subject: Subject, check: Check) -> None:
    try:
        check(subject)
    except NotApplicable as reason:
        pytest.skip(str(reason))

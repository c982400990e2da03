"""The checks on all that an installed plugin brings: see `flowgen.testing.pytest_plugin`."""

from __future__ import annotations

import pytest

from flowgen.testing.contract import Check, Checked, NotApplicable
from flowgen.testing.table import targets


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    name = metafunc.config.getoption("--flowgen-plugin")
    if not name:
        raise pytest.UsageError("flowgen.testing.battery needs --flowgen-plugin NAME")
    cases = [
        pytest.param(one.subject, check, id=f"{one.name}-{check.name}", marks=[pytest.mark.slow] if check.slow else [])
        for one in targets(name)
        for check in one.checks
    ]
    metafunc.parametrize(("subject", "check"), cases)


def test_contract(subject: Checked, check: Check) -> None:
    try:
        check(subject)
    except NotApplicable as reason:
        pytest.skip(str(reason))

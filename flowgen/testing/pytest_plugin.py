"""For pytest: `-p flowgen.testing.pytest_plugin` knows the marker of slow checks and sets one thread.

With `--flowgen-plugin NAME` every check runs on the recipes and components of an installed plugin, without a test file:

    pytest -p flowgen.testing.pytest_plugin --flowgen-plugin tone --pyargs flowgen.testing.battery
"""

from __future__ import annotations

import os

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--flowgen-plugin", metavar="NAME", help="the plugin that flowgen.testing.battery checks")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "slow: starts several processes; leave out with -m 'not slow'")


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    """One thread unless OMP_NUM_THREADS says otherwise: small tensors on many are slow, and test processes share cores."""
    import torch

    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))

"""One tiny pipeline of each family for all tests."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(scope="session")
def model(tmp_path_factory):
    """model("LTXPipeline"): the folder of a tiny pipeline of that class, made once."""
    from tiny import pipeline

    made = {}

    def of(kind):
        if kind not in made:
            made[kind] = pipeline(tmp_path_factory.mktemp(kind), kind)
        return made[kind]

    return of

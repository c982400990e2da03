"""What the README shows is true: its config is valid, its code runs, its commands and files exist."""

import re
from pathlib import Path

import pytest

from flowgen.config import load

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "README.md").read_text()


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", TEXT, re.S)


def test_the_config_is_whole(tmp_path):
    (block,) = blocks("yaml")
    (tmp_path / "c.yaml").write_text(block)
    assert load(str(tmp_path / "c.yaml")).config.name == "notes"


def test_the_code_runs():
    first, *_ = blocks("python")
    scope = {}
    exec(first, scope)
    assert scope["x1"].shape == (1000, 2)


@pytest.mark.parametrize(
    "path", re.findall(r"\]\(((?!http)[^)]+)\)", TEXT) + re.findall(r"^\| `([\w/]+)/`", TEXT, re.M)
)
def test_every_place_exists(path):
    assert (ROOT / path).exists()

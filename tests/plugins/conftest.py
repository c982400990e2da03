"""Distributions as pip leaves them: a module, and a dist-info folder with an entry point, on the path of this process."""

import importlib
import itertools
import sys
from pathlib import Path
from textwrap import dedent

import pytest

HEADER = "from flowgen import Component, hookimpl\n"


class Site:
    """A folder like site-packages."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._count = itertools.count()

    def install(self, name: str, code: str, *, distribution: str = "", version: str = "1.0") -> str:
        """Install a plugin of this entry-point name whose module holds `code`; returns the name of the module."""
        distribution = distribution or f"dist-{name}"
        module = f"site_{name.replace('-', '_')}_{next(self._count)}"
        (self.folder / f"{module}.py").write_text(HEADER + dedent(code))
        info = self.folder / f"{distribution.replace('-', '_')}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n")
        (info / "entry_points.txt").write_text(f"[flowgen]\n{name} = {module}\n")
        importlib.invalidate_caches()
        return module


@pytest.fixture
def site(tmp_path, monkeypatch):
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))
    before = set(sys.modules)
    yield Site(folder)
    for name in set(sys.modules) - before:
        if name.startswith("site_"):
            del sys.modules[name]

"""`flowgen plugins new`: a plugin that works before a line of it is changed."""

from __future__ import annotations

import keyword
import re
from importlib import resources
from pathlib import Path
from string import Template

from flowgen import __version__
from flowgen.errors import UsageError
from flowgen.files import errors_named
from flowgen.plugins.hookspecs import API
from flowgen.plugins.registry import registry

FILES = {
    "setup.cfg": "setup.cfg",
    "pyproject.toml": "pyproject.toml",
    "README.md": "README.md",
    "init.py": "$package/__init__.py",
    "modality.py": "$package/modality.py",
    "dataset.py": "$package/dataset.py",
    "encoder.py": "$package/encoder.py",
    "small.yaml": "$package/recipes/small.yaml",
    "test_conformance.py": "tests/test_conformance.py",
}
"""Template by name, and where in the new package it goes."""


def new_plugin(name: str, folder: Path | None = None) -> list[Path]:
    """Write a plugin that brings the modality `name`. Returns its files.

    Args:
        name: lower-case letters, digits and dashes; the package is flowgen_NAME.
        folder: flowgen-NAME here by default; must not exist, or be empty.

    Raises UsageError for a name that is no name or is taken, and for a folder that holds something.
    """
    if not re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", name) or keyword.iskeyword(name):
        raise UsageError(f"{name!r} is no name for a plugin; expected lower-case letters, digits and dashes")
    found = registry()
    if name in found.plugins or name in found.names("modality") or name in found.names("encoder"):
        raise UsageError(
            f"there is a plugin or component {name!r} already (see: flowgen plugins list); choose another name"
        )
    folder = folder or Path(f"flowgen-{name}")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"{folder} exists and is not empty; choose another with --folder")
    values = {
        "name": name,
        "package": f"flowgen_{name.replace('-', '_')}",
        "camel": "".join(part.capitalize() for part in name.split("-")),
        "version": __version__,
        "api": str(API),
    }
    written = []
    for template, place in FILES.items():
        text = (resources.files("flowgen.plugins") / "template" / f"{template}.tmpl").read_text(encoding="utf-8")
        path = folder / Template(place).substitute(values)
        with errors_named(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(Template(text).substitute(values), encoding="utf-8")
        written.append(path)
    typed = folder / values["package"] / "py.typed"
    typed.touch()
    return [*written, typed]

"""`flowgen plugins new`: a plugin that works before a line of it is changed."""

from __future__ import annotations

import json
import keyword
import re
from importlib import resources
from pathlib import Path
from string import Template

from flowgen import __version__
from flowgen.errors import UsageError, unknown
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


COMPONENTS = {
    "dataset": "points on two arms of a spiral",
    "encoder": "points scaled by coordinate",
    "network": "residual layers of vectors",
    "conditioner": "an angle in degrees",
    "region": "every other step is known",
    "path": "the data come early, the noise goes evenly",
    "times": "a power of a uniform number",
    "coupling": "noise and data in the order of their means",
    "loss": "flow matching, times a weight",
    "bottleneck": "latents in (-1, 1), with noise in training",
    "optimizer": "gradient descent with momentum",
    "solver": "the explicit midpoint method",
    "guidance": "classifier-free, with a scale that rises with t",
    "metric": "mean and deviation against real clips",
    "logger": "figures as a table",
    "writer": "points as a text file",
}
"""Kinds other than a modality that `new_plugin` writes, and what the component that it writes is."""
_PARTS = {
    "dataset": "checkerboard",
    "encoder": "points",
    "network": {"type": "mlp", "width": 64, "depth": 2},
}
"""Of kinds that are tested in a config of points: what the others of them are there."""


def new_plugin(name: str, folder: Path | None = None, kind: str = "modality") -> list[Path]:
    """Write a plugin that brings the modality `name`, or a component of another kind. Returns its files.

    Args:
        name: lower-case letters, digits and dashes; the package is flowgen_NAME.
        folder: flowgen-NAME here by default; must not exist, or be empty.
        kind: of what it brings.

    Raises UsageError for a name that is no name or is taken, a kind that there is not, and a folder that holds something.
    """
    if kind != "modality" and kind not in COMPONENTS:
        raise UsageError(unknown("kind of component", kind, ["modality", *COMPONENTS]))
    if not re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", name) or keyword.iskeyword(name):
        raise UsageError(f"{name!r} is no name for a plugin; expected lower-case letters, digits and dashes")
    component = f"points.{name.replace('-', '')}" if kind == "writer" else name
    kinds = ("modality", "encoder") if kind == "modality" else (kind,)
    found = registry()
    if name in found.plugins or any(component in found.names(taken) for taken in kinds):
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
        **(_component_values(name, kind, component) if kind != "modality" else {}),
    }
    written = []
    for template, place in (FILES if kind == "modality" else _component_files(kind)).items():
        text = (resources.files("flowgen.plugins") / "template" / f"{template}.tmpl").read_text(encoding="utf-8")
        path = folder / Template(place).substitute(values)
        with errors_named(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(Template(text).substitute(values), encoding="utf-8")
        written.append(path)
    typed = folder / values["package"] / "py.typed"
    typed.touch()
    return [*written, typed]


def _component_files(kind: str) -> dict[str, str]:
    """As `FILES`, of a plugin that brings one component."""
    return {
        "setup.cfg": "setup.cfg",
        "pyproject.toml": "pyproject.toml",
        "kinds/README.md": "README.md",
        "kinds/init.py": "$package/__init__.py",
        f"kinds/{kind}.py": f"$package/{kind}.py",
        f"kinds/{'test_part' if kind in _PARTS else 'test_component'}.py": "tests/test_conformance.py",
    }


def _component_values(name: str, kind: str, component: str) -> dict[str, str]:
    camel, function = "".join(part.capitalize() for part in name.split("-")), name.replace("-", "_")
    others = {**_PARTS, **({kind: component} if kind in _PARTS else {})}
    return {
        "kind": kind,
        "component": component,
        "function": function,
        "made": function if kind in ("optimizer", "writer") else camel,
        "what": COMPONENTS[kind],
        "summary": COMPONENTS[kind],
        "dataset": str(others["dataset"]),
        "encoder": str(others["encoder"]),
        "network": json.dumps(others["network"]),
    }

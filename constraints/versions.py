"""The versions that are installed of all that flowgen needs to run and to be tested, as pip takes them.

    python constraints/versions.py > constraints/python3.11.txt

`make` installs these where there is a file for the Python it runs; `make CONSTRAINTS=` takes the newest that setup.cfg allows.
"""

from __future__ import annotations

import configparser
import re
import sys
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

SETUP = Path(__file__).parents[1] / "setup.cfg"
OF_TORCH = re.compile(r"nvidia-|cuda-|triton")
"""What comes with torch or not, by where torch is from; it says itself which versions."""


def main() -> None:
    major, minor, *_ = sys.version_info
    print(f"# What flowgen was tested with on Python {major}.{minor}; written by constraints/versions.py")
    for name, version in installed().items():
        print(f"{name}=={version}")


def written(path: Path) -> dict[str, str]:
    """The versions in a file, by name."""
    lines = (line.partition("#")[0].strip() for line in path.read_text().splitlines())
    return dict(line.split("==") for line in lines if line)


def installed() -> dict[str, str]:
    """The installed version of every package that is needed, directly or by another; without the local part (+cpu)."""
    config = configparser.ConfigParser()
    config.read(SETUP)
    ours = config["options"]["install_requires"] + config["options.extras_require"]["dev"]
    todo = [Requirement(line) for line in ours.split("\n") if line]
    seen: set[tuple[str, frozenset[str]]] = set()
    versions: dict[str, str] = {}
    while todo:
        need = todo.pop()
        name, extras = canonicalize_name(need.name), frozenset(need.extras)
        if (name, extras) in seen or OF_TORCH.match(name):
            continue
        seen.add((name, extras))
        try:
            package = distribution(need.name)
        except PackageNotFoundError:
            continue
        versions[name] = package.version.partition("+")[0]
        todo += [n for n in map(Requirement, package.requires or ()) if _applies(n, extras)]
    return dict(sorted(versions.items()))


def _applies(need: Requirement, extras: frozenset[str]) -> bool:
    return need.marker is None or any(need.marker.evaluate({"extra": extra}) for extra in ("", *extras))


if __name__ == "__main__":
    main()

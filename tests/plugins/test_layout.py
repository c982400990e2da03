"""What holds the folders apart: the core imports no modality, and what is shipped is what is there."""

import ast
import configparser
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CORE = sorted((ROOT / "flowgen").rglob("*.py"))


def packages_in(folder: Path) -> set[str]:
    return {p.parent.name for p in folder.glob("*/__init__.py")}


def strangers() -> set[str]:
    """Import packages of modalities and plugins."""
    found = packages_in(ROOT / "modalities")
    for distribution in (ROOT / "plugins").glob("*"):
        found |= packages_in(distribution)
    return found


def imported(path: Path) -> set[str]:
    """The top-level packages a module imports, by statement or by a string such as an import string."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add((node.module or "").partition(".")[0])
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and " " not in node.value:
            found.add(node.value.partition(":")[0].partition(".")[0])
    return found


def test_the_walk_sees_an_import():
    assert "flowgen_audio" in imported(ROOT / "modalities" / "flowgen_audio" / "encoders.py")
    assert "flowgen_audio" in imported(ROOT / "modalities" / "flowgen_audio" / "__init__.py")


@pytest.mark.parametrize("path", CORE, ids=lambda p: str(p.relative_to(ROOT)))
def test_the_core_imports_no_modality_and_no_plugin(path):
    assert not imported(path) & strangers()


def test_setup_cfg_lists_the_packages_that_are_there():
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    listed = set(config["options"]["packages"].split())
    sources = {
        name.strip(): ROOT / folder.strip()
        for name, folder in (line.split("=") for line in config["options"]["package_dir"].split("\n") if line)
    }
    there = set()
    for name, folder in sources.items():
        for init in folder.rglob("__init__.py"):
            there.add(".".join([name, *init.parent.relative_to(folder).parts]))
    assert listed == there
    assert packages_in(ROOT / "modalities") <= listed
    entry_points = {line.partition("=")[2].strip() for line in config["options.entry_points"]["flowgen"].split("\n")}
    assert packages_in(ROOT / "modalities") <= entry_points


def test_a_package_folder_has_no_module_outside_a_package():
    for folder in ("flowgen", "modalities"):
        for path in (ROOT / folder).rglob("*.py"):
            assert (path.parent / "__init__.py").is_file(), path

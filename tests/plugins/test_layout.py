"""What holds the folders apart: the core imports no modality, and what is shipped is what is there."""

import ast
import configparser
import subprocess
import sys
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


# what is further down may import what is further up, and not the other way round
ROOMS = [
    *("errors", "files", "environment", "weights", "device", "core", "media", "nn", "plugins", "config", "data"),
    *("runs", "training", "evaluation", "report", "testing", "client", "serving", "ui", "cli"),
]


def rooms_imported(path: Path) -> set[str]:
    """The rooms of flowgen that a module imports anywhere in it, but for the sake of types."""
    tree = ast.parse(path.read_text())
    for_types = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    return {
        node.module.split(".")[1]
        for node in ast.walk(tree)
        if id(node) not in for_types and isinstance(node, ast.ImportFrom) and (node.module or "").startswith("flowgen.")
    }


@pytest.mark.parametrize("room", ROOMS)
def test_no_room_imports_upward(room):
    place = ROOT / "flowgen" / room
    modules = sorted(place.rglob("*.py")) if place.is_dir() else [place.with_suffix(".py")]
    assert modules
    for path in modules:
        above = {other for other in rooms_imported(path) if ROOMS.index(other) > ROOMS.index(room)}
        assert not above, f"{path.relative_to(ROOT)} imports {above}"


def test_every_folder_and_module_has_its_place_among_the_rooms():
    there = {p.stem for p in (ROOT / "flowgen").glob("*.py")} | packages_in(ROOT / "flowgen")
    assert there == {*ROOMS, "__init__", "__main__"}
    assert len(list((ROOT / "flowgen").glob("*.py"))) <= 10


def test_the_core_runs_with_torch_and_einops_alone():
    blocked = """
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        frame = sys._getframe(1)
        while frame and frame.f_globals.get("__name__", "").startswith(("importlib", "_frozen_importlib")):
            frame = frame.f_back
        importer = frame.f_globals.get("__name__", "") if frame else ""
        if importer.startswith("flowgen") and name.partition(".")[0] not in ({"torch", "einops", "flowgen"} | sys.stdlib_module_names):
            raise ImportError(f"blocked: {importer} imports {name}")
        if name.startswith("flowgen.") and not name.startswith("flowgen.core"):
            raise ImportError(f"blocked: {importer} imports {name}")
sys.meta_path.insert(0, Block())
import importlib, pkgutil, flowgen.core
for module in pkgutil.walk_packages(flowgen.core.__path__, "flowgen.core."):
    importlib.import_module(module.name)
import torch
WORK
"""
    working = blocked.replace(
        "WORK",
        "import flowgen; flow = flowgen.NetworkFlow(lambda x, t, cond: -x, flowgen.Linear());"
        "print(flowgen.sample(flow, torch.ones(2, 2), flowgen.uniform_grid(4)).shape)",
    )
    ran = subprocess.run([sys.executable, "-c", working], capture_output=True, text=True, cwd=ROOT)
    assert ran.stdout.strip() == "torch.Size([2, 2])", ran.stderr
    # the block blocks
    other = working.replace("import torch\n", "import flowgen.media.clip\n")
    assert "blocked" in subprocess.run([sys.executable, "-c", other], capture_output=True, text=True, cwd=ROOT).stderr


DEEPSPEEDS_OWN = {
    *(
        "ds_id",
        "ds_shape",
        "ds_numel",
        "ds_process_group",
        "_hp_mapping",
        "grad_position",
        "grad_partitions_flat_buffer",
    ),
    *("bit16_groups", "bf16_groups", "fp16_groups", "loss_scaler", "fp32_partitioned_groups_flat", "overflow"),
}


def private_names(path: Path) -> set[str]:
    """Names of torch and DeepSpeed with a leading underscore, and DeepSpeed's attributes that no document promises."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Attribute):
            found |= {node.attr} & DEEPSPEEDS_OWN
            whole = ast.unparse(node)
        elif isinstance(node, ast.ImportFrom):
            whole = ".".join([node.module or "", *(alias.name for alias in node.names)])
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            found |= {node.value} & DEEPSPEEDS_OWN
            continue
        else:
            continue
        parts = whole.split(".")
        if parts[0] in ("torch", "deepspeed", "atexit") and any(p.startswith("_") and p.isidentifier() for p in parts):
            found.add(whole)
    return found


def test_private_names_of_torch_and_deepspeed_live_in_one_file():
    internals = ROOT / "flowgen" / "training" / "internals.py"
    assert private_names(internals) >= {"ds_id", "torch._foreach_lerp_"}
    for folder in ("flowgen", "modalities"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            if path != internals:
                assert not private_names(path), f"{path.relative_to(ROOT)} uses {private_names(path)}"

"""A stranger's afternoon: flowgen as a wheel in a fresh environment, a generated plugin installed beside it, no source tree in sight.

The environment borrows torch, pip and the other packages of this one by a path file; flowgen and the plugin are its own.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
ROOT = Path(__file__).parents[2]


def not_shipped(folder: str, names: list[str]) -> set[str]:
    """What a source distribution has not; `runs` is a package in flowgen/, and what was trained in the project's own folder."""
    patterns = (".*", "build", "dist", "*.egg-info", "__pycache__", "tests", "docs")
    own = {"runs"} if Path(folder) == ROOT else set()
    return shutil.ignore_patterns(*patterns)(folder, names) | own


PIP = ("-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--ignore-installed", "--no-deps")


def own(folder: Path) -> dict[str, int]:
    """Every file of an installed package, with its size."""
    return {str(p.relative_to(folder)): p.stat().st_size for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., str]:
    """Runs a program of a fresh environment in an empty folder; returns what it printed."""
    pytest.importorskip("setuptools")
    folder = tmp_path_factory.mktemp("fresh")
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "PYTEST", "FLOWGEN"))}
    environment = kept | {"OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}

    def run(program: Path, *arguments: object) -> str:
        command = [str(program), *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, cwd=folder / "work", env=environment)
        assert done.returncode == 0, f"{command}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
        return done.stdout

    (folder / "work").mkdir()
    shutil.copytree(ROOT, folder / "source", ignore=not_shipped)
    wheels = ("-m", "pip", "wheel", "--quiet", "--disable-pip-version-check", "--no-deps", "--no-build-isolation")
    run(Path(sys.executable), *wheels, "-w", folder / "wheels", folder / "source")
    shutil.rmtree(folder / "source")
    run(Path(sys.executable), "-m", "venv", "--without-pip", folder / "env")
    python = folder / "env/bin/python"
    site = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_paths()['purelib'])").strip())
    (site / "borrowed.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    (wheel,) = (folder / "wheels").glob("flowgen-*.whl")
    run(python, *PIP, wheel)
    assert str(site) in run(python, "-c", "import flowgen; print(flowgen.__file__)")
    run.site = site  # type: ignore[attr-defined]
    run.bin = folder / "env/bin"  # type: ignore[attr-defined]
    run.work = folder / "work"  # type: ignore[attr-defined]
    return run


def test_a_new_modality_without_flowgens_source(fresh: Callable[..., str]) -> None:
    site, programs, work = fresh.site, fresh.bin, fresh.work  # type: ignore[attr-defined]
    flowgen, before = programs / "flowgen", own(site / "flowgen")
    fresh(flowgen, "plugins", "new", "wave")
    fresh(programs / "python", *PIP, "--no-build-isolation", "./flowgen-wave")
    assert (site / "flowgen_wave").is_dir()
    listed = fresh(flowgen, "plugins", "list")
    assert "wave  flowgen-wave 0.1.0" in listed
    fresh(flowgen, "train", "wave/small", "run=run", "train.steps=20", "network.width=32", "--quiet")
    fresh(flowgen, "sample", "run", "-n", "2", "-o", "out.csv")
    assert (work / "out-0.csv").is_file()
    checked = fresh(flowgen, "plugins", "check", "wave", "--fast", "network.width=32", "network.depth=1")
    assert "broken" not in checked
    assert own(site / "flowgen") == before  # nothing of it in flowgen's folder

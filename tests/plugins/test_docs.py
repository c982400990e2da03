"""The pages of plugins are true: what is generated is fresh, what is shown runs, what is referred to is there."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from flowgen.plugins import KINDS
from flowgen.testing.checks import CHECKS, COMPONENT_CHECKS
from flowgen.testing.reference import reference

ROOT = Path(__file__).parents[2]
GUIDE = ROOT / "docs" / "plugins.md"


def anchors(text: str) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_reference_is_fresh():
    kept = (ROOT / "docs" / "reference.md").read_text()
    assert kept == reference(), "write it again: python -m flowgen.testing.reference > docs/reference.md"


@pytest.mark.parametrize("kind", KINDS.values(), ids=lambda kind: kind.name)
def test_every_kind_has_a_contract_that_is_documented(kind):
    from importlib import import_module

    module, _, name = kind.contract.partition(":")
    contract = getattr(import_module(module), name)
    assert f"### {name}\n" in reference()
    assert contract.__doc__ or any(getattr(member, "__doc__", None) for member in vars(contract).values())


def test_every_check_refers_to_a_section_that_exists():
    for see in {check.see for check in (*CHECKS, *COMPONENT_CHECKS)}:
        page, _, anchor = see.partition("#")
        assert anchor in anchors((ROOT / page).read_text()), see


@pytest.mark.parametrize("page", ["plugins.md", "reference.md", "architecture.md"])
def test_links_lead_somewhere(page):
    text = (ROOT / "docs" / page).read_text()
    for target in re.findall(r"\]\(([^)]+)\)", text):
        file, _, anchor = target.partition("#")
        if file.startswith("http"):
            continue
        path = ROOT / "docs" / file if file else ROOT / "docs" / page
        assert path.exists(), target
        if anchor:
            assert anchor in anchors(path.read_text()), target


def blocks(text: str) -> list[tuple[str, str, str]]:
    """(language, file to write, code) of each block."""
    found = []
    for language, code in re.findall(r"^```(\w*)\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL):
        first = code.splitlines()[0] if code else ""
        named = re.match(r"# (flowgen-wave/\S+)$", first)
        found.append((language, named.group(1) if named else "", code))
    return found


@pytest.mark.slow
def test_every_block_of_the_guide_runs(tmp_path):
    """In order, in one folder: shell commands are run, files are written, other Python is executed."""
    site = tmp_path / "site"
    # pip installs into a folder of this test
    programs = tmp_path / "bin"
    programs.mkdir()
    # (emptied before, since pip leaves the metadata of an older version in such a folder)
    pip = f'rm -rf "{site}"; exec {sys.executable} -m pip install -q --no-deps --upgrade --target "{site}" "${{@:2}}"'
    (programs / "pip").write_text(f"#!/usr/bin/env bash\n{pip}\n")
    (programs / "pip").chmod(0o755)
    path = [str(programs), str(Path(sys.executable).parent), os.environ["PATH"]]
    env = {**os.environ, "PATH": os.pathsep.join(path), "PYTHONPATH": str(site), "OMP_NUM_THREADS": "1"}
    ran = 0
    for language, file, code in blocks(GUIDE.read_text()):
        if file:
            (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / file).write_text(code)
            continue
        command = ["bash", "-euo", "pipefail", "-c", code] if language == "sh" else [sys.executable, "-c", code]
        assert language in ("sh", "python"), f"a block in {language!r} is neither run nor written"
        done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)
        assert done.returncode == 0, f"{code}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
        ran += 1
    assert ran >= 5

"""The documentation site has every page, and its page of commands is what the commands say."""

import subprocess
import sys
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[1]


def listed(entry):
    """The pages of a part of the menu."""
    if isinstance(entry, str):
        return [entry]
    return [name for part in (entry if isinstance(entry, list) else entry.values()) for name in listed(part)]


def test_the_menu_has_every_page_once():
    names = listed(yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"])
    assert sorted(names) == sorted(path.name for path in (ROOT / "docs").glob("*.md"))


def test_the_page_of_commands_is_what_their_help_says():
    # in a process of its own: click keeps the help option of whoever asked a command first
    done = subprocess.run(
        [sys.executable, ROOT / "docs" / "make_commands.py"], capture_output=True, text=True, check=True
    )
    written = (ROOT / "docs" / "commands.md").read_text()
    assert written == done.stdout, "run: python docs/make_commands.py > docs/commands.md"

"""Every command that help, pages and recipes show is one: it parses as it stands, and the recipe it names takes its overrides."""

import re
import shlex
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from flowgen.cli import cli
from flowgen.config import load, recipes

ROOT = Path(__file__).parents[2]
OF_RECIPES = {("train",), ("plan",), ("config", "show"), ("config", "check"), ("data", "show"), ("data", "check")}


def commands(group=cli, names=()):
    """Every command with its names, those of plugins left out."""
    with click.Context(group) as ctx:
        for name in group.list_commands(ctx):
            command = group.get_command(ctx, name)
            if command is None or (not names and "flowgen.cli" not in command.callback.__module__):
                continue
            yield (*names, name), command
            if isinstance(command, click.Group):
                yield from commands(command, (*names, name))


def texts():
    for names, command in commands():
        yield f"flowgen {' '.join(names)} --help", command.help
    for page in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))):
        if page.name == "plugins.md":  # its blocks are run, with the plugin that they write
            continue
        blocks = re.findall(r"^```(\w*)\n(.*?)^```$", page.read_text(), re.M | re.S)
        yield page.name, "\n".join(code for language, code in blocks if language in ("", "sh", "bash"))
    for recipe in sorted((ROOT / "configs").rglob("*.yaml")):
        comments = [line.lstrip("# ") for line in recipe.read_text().splitlines() if line.startswith("#")]
        yield f"configs/{recipe.relative_to(ROOT / 'configs')}", "\n".join(comments)


def shown():
    """The lines that begin with `flowgen` and a command, and where each stands."""
    found = {}
    for where, text in texts():
        for line in text.replace("\\\n", " ").splitlines():
            for part in re.split(r"&&|\|", line):
                part = re.split(r"\s(?:#|   )", part.strip().removeprefix("srun "))[0].strip()
                if re.match(r"flowgen [a-z-]+", part):
                    found.setdefault(part, where)
    return found


SHOWN = {
    line: where for line, where in shown().items() if not re.match(r"flowgen (plot-wave|init) ", line)
}  # commands of plugins that need not be installed: the guide's own, and flowgen-diffusers


def test_the_pages_are_read():
    assert len(SHOWN) > 60
    assert {"README.md", "sampling.md", "cluster.md"} <= set(SHOWN.values())


@pytest.mark.parametrize("line", SHOWN, ids=lambda line: line.removeprefix("flowgen "))
def test_a_command_that_is_shown_parses(line, monkeypatch):
    parsed = []
    monkeypatch.setattr(click.Command, "invoke", lambda self, ctx: parsed.append(ctx))
    words = shlex.split(line)[1:]
    done = CliRunner().invoke(cli, words)
    assert done.exit_code == 0, f"{SHOWN[line]}: {done.stderr}"
    if "--help" in words or "--version" in words:
        return
    path = tuple(parsed[-1].command_path.split()[1:])
    plain = [w for w in words[len(path) :] if not w.startswith("-")]
    if path not in OF_RECIPES or not plain or "/" not in plain[0] or plain[0].split("/")[0] == "runs":
        return
    assert plain[0] in recipes(), f"{SHOWN[line]}: no recipe {plain[0]}"
    load(plain[0], [w for w in plain[1:] if re.match(r"[a-z_.]+=", w)])

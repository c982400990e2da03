"""The page of all commands, from their own help.

python docs/make_commands.py > docs/commands.md
"""

from __future__ import annotations

from collections.abc import Iterator

import click

from flowgen.cli import COMMANDS, cli

WIDTH = 84
"""Fits beside the menus of the site."""


def page() -> str:
    """Markdown: a section for each command with what `--help` prints."""
    parts = ["# The command line\n\nWhat `flowgen COMMAND --help` prints.\n"]
    above = click.Context(cli, **cli.context_settings)  # from where -h comes
    for names, command in _commands(cli, ("flowgen",)):
        context = click.Context(command, above, " ".join(names), max_content_width=WIDTH, terminal_width=WIDTH)
        parts.append(f"\n## {' '.join(names)}\n\n```text\n{command.get_help(context).rstrip()}\n```\n")
    return "".join(parts)


def _commands(group: click.Group, names: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Commands in their order, those of plugins left out; groups before what is in them."""
    context = click.Context(group)
    for name in COMMANDS if group is cli else group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        yield (*names, name), command
        if isinstance(command, click.Group):
            yield from _commands(command, (*names, name))


if __name__ == "__main__":
    print(page(), end="")

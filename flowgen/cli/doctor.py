"""flowgen doctor"""

from __future__ import annotations

from pathlib import Path

import click

from flowgen.cli.options import File


@click.command()
@click.argument("folder", type=File(), default="runs")
def doctor(folder: Path) -> None:
    """Tell what this machine has, what will not work on it, and how to mend that.

    FOLDER is where runs would be written (default: runs). A line with ! has a remedy below it; the exit code is 1 where
    training could not start at all.

    \b
    Examples:
      flowgen doctor
      flowgen doctor data/runs
    """
    from flowgen.training.doctor import examine

    broken = False
    for found in examine(folder):
        broken |= found.state == "broken"
        mark = {"ok": " ", "note": "!", "broken": "X"}[found.state]
        click.echo(f"{mark} {found.name:<14} {found.text}")
        if found.remedy:
            click.echo(f"  {'':<14} -> {found.remedy}")
    if broken:
        click.get_current_context().exit(1)

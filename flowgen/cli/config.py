"""flowgen config"""

from __future__ import annotations

from pathlib import Path

import click

from flowgen.cli.options import File


@click.group()
def config() -> None:
    """Show or check a config: a YAML file, a recipe, or a run folder."""


@config.command()
@click.argument("name", metavar="CONFIG")
@click.argument("overrides", nargs=-1)
@click.option("--yaml", "as_yaml", is_flag=True, help="Print it as YAML, ready to be a config of its own.")
def show(name: str, overrides: tuple[str, ...], as_yaml: bool) -> None:
    """Print every value in force and where it came from: default, file and line, or command line.

    \b
    Examples:
      flowgen config show points/checkerboard
      flowgen config show my.yaml train.steps=100
      flowgen config show runs/notes --yaml > mine.yaml
    """
    from flowgen.config import dumps, in_force, load

    resolved = load(name, overrides)
    if as_yaml:
        click.echo(dumps(in_force(resolved.config)), nl=False)
        return
    rows = [(key, str(value), source) for key, value, source in resolved.rows()]
    width = max(len(f"{key} = {value}") for key, value, _ in rows if len(f"{key} = {value}") <= 70)
    for key, value, source in rows:
        click.echo(f"{f'{key} = {value}':<{width}}  {source}")


@config.command()
@click.argument("names", metavar="CONFIG...", nargs=-1, required=True)
def check(names: tuple[str, ...]) -> None:
    """Check configs: unknown keys, wrong types, unknown components, a loss that cannot be. Exit code 2 if one is wrong.

    \b
    Examples:
      flowgen config check my.yaml
      flowgen config check points/checkerboard audio/notes
    """
    from flowgen.config import load
    from flowgen.runs.experiment import Experiment

    for name in names:
        Experiment(load(name).config).check_loss()
        click.echo(f"{name}: ok")


@config.command(name="list")
def list_recipes() -> None:
    """List the recipes shipped with flowgen.

    \b
    Example:
      flowgen config list
    """
    from flowgen.config import recipes

    for name, path in recipes().items():
        first = path.read_text().splitlines()[0]
        click.echo(f"{name:<32}{first.removeprefix('#').strip() if first.startswith('#') else ''}")


@config.command()
@click.option("-o", "--output", type=File(), help="The file to write; by default it is printed.")
def schema(output: Path | None) -> None:
    """Print the JSON schema of configs, with which editors complete and check them as they are written.

    It knows the components that are installed, those of plugins too. In VS Code (YAML extension), PyCharm or Neovim, name it in the
    first line of a config: # yaml-language-server: $schema=flowgen.schema.json

    \b
    Example:
      flowgen config schema -o flowgen.schema.json
    """
    import json

    from flowgen.config.json_schema import json_schema
    from flowgen.files import replacing

    text = json.dumps(json_schema(), indent=1, ensure_ascii=False) + "\n"
    if output is None:
        click.echo(text, nl=False)
        return
    with replacing(output) as temporary:
        temporary.write_text(text, encoding="utf-8")
    click.echo(output)

"""flowgen plugins"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from flowgen.cli.options import File

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

    from flowgen.plugins import Plugin


@click.group()
def plugins() -> None:
    """List, check and write plugins, and the components they bring."""


@plugins.command(name="list")
@click.option("--kind", help="Only components of this kind.")
def list_plugins(kind: str | None) -> None:
    """List plugins with their versions and import times, and their components by kind.

    A broken plugin is shown with its reason, a disabled one as such.

    \b
    Examples:
      flowgen plugins list
      flowgen plugins list --kind solver
    """
    from flowgen.errors import UsageError, unknown
    from flowgen.plugins import KINDS, registry

    if kind is not None and kind not in KINDS:
        raise UsageError(unknown("kind of component", kind, KINDS))
    for plugin in registry().plugins.values():
        _say_plugin(plugin, kind)
    for name in registry().disabled:
        click.echo(click.style(name, bold=True) + "  disabled")


def _say_plugin(plugin: Plugin, kind: str | None = None) -> None:
    facts = [f"{plugin.distribution} {plugin.version}".strip()]
    if plugin.import_s:
        facts.append(f"imported in {1000 * plugin.import_s:.1f} ms")
    click.echo(click.style(plugin.name, bold=True) + f"  {', '.join(facts)}")
    if plugin.error:
        click.echo(f"  left out: {plugin.error}")
    for component in plugin.components:
        if kind in (None, component.kind):
            click.echo(f"  {component.kind:<12}{component.name:<22}{component.summary}")
    if kind is None:
        for hook in plugin.hooks:
            if hook not in ("flowgen_components", "flowgen_recipes"):
                click.echo(f"  {'hook':<12}{hook}")
        for recipe in sorted(plugin.recipes.rglob("*.yaml")) if plugin.recipes else []:
            click.echo(
                f"  {'recipe':<12}{plugin.name}/{recipe.relative_to(plugin.recipes or '').with_suffix('').as_posix()}"
            )


@plugins.command()
@click.argument("name")
def show(name: str) -> None:
    """Show a plugin, or a component and its options (as NAME or KIND/NAME).

    \b
    Examples:
      flowgen plugins show audio
      flowgen plugins show transformer
      flowgen plugins show solver/heun
    """
    from flowgen.errors import UsageError, unknown
    from flowgen.plugins import registry

    found = registry()
    if name in found.plugins:
        _say_plugin(found.plugins[name])
    kind, _, short = name.rpartition("/")
    matches = [c for c in found.components() if c.name == short and kind in ("", c.kind)]
    if not matches and name not in found.plugins:
        raise UsageError(unknown("plugin or component", name, [*found.plugins, *{c.name for c in found.components()}]))
    for component in matches:
        _show_component(component.kind, component.name)


def _show_component(kind: str, name: str) -> None:
    import inspect

    from flowgen.config import options_model
    from flowgen.plugins import registry

    component = registry().get(kind, name)
    click.echo(f"{kind} {click.style(name, bold=True)}: {component.summary}  ({component.target})")
    click.echo(inspect.cleandoc(component.load().__doc__ or ""))
    for option, info in options_model(kind, name).model_fields.items():
        default = "required" if info.is_required() else f"default {info.default!r}"
        click.echo(f"  {option}: {_type_words(info)}, {default}")
    _show_abilities(kind, component.load())


def _show_abilities(kind: str, target: Any) -> None:
    """Each optional ability of the kind: offered, or what offering it takes."""
    from flowgen.plugins.abilities import abilities, class_of

    made = class_of(target)
    for ability in abilities(kind):
        if made is not None and ability.offered_by(made):
            click.echo(click.style(f"  offers {ability.name}", fg="green") + f": {ability.gives}")
        else:
            click.echo(f"  does not offer {ability.name}: {ability.gives}")
            for takes in ability.takes.values():
                click.echo(f"      takes {takes}")


def _type_words(info: FieldInfo) -> str:
    """The type of an option and its range: "float above 0"."""
    from flowgen.core.ranges import Range

    name = info.annotation.__name__ if isinstance(info.annotation, type) else str(info.annotation)
    name = re.sub(r"Annotated\[(\w+), ([^\]]*)\]", r"\1 \2", name.replace("typing.", "")).replace(" ,", ",")
    ranges = [repr(mark) for mark in info.metadata if isinstance(mark, Range)]
    return " ".join([name, *ranges]).strip()


@plugins.command()
@click.argument("name")
@click.argument("overrides", nargs=-1)
@click.option("--config", "configs", multiple=True, metavar="CONFIG", help="Instead of the plugin's recipes.")
@click.option("--fast", is_flag=True, help="Leave out what starts several processes.")
def check(name: str, overrides: tuple[str, ...], configs: tuple[str, ...], fast: bool) -> None:
    """Check that a plugin keeps flowgen's contracts: on each of its recipes, and on each of its other components.

    OVERRIDES are key=value, to make the recipes small. Exit code 1 if a contract is broken.

    \b
    Examples:
      flowgen plugins check audio --fast
      flowgen plugins check tone network.depth=1 network.width=32
      flowgen plugins check tone --config my.yaml
      flowgen plugins check flowgen
    """
    import torch

    from flowgen.errors import FlowgenError
    from flowgen.testing.table import outcomes, targets

    torch.set_num_threads(1)
    broken = 0
    for target in targets(name, configs, overrides):
        click.echo(click.style(target.name, bold=True))
        for outcome in outcomes(target, slow=not fast):
            words = outcome.check.name.replace("_", " ")
            colour = {"kept": "green", "broken": "red"}.get(outcome.result)
            reason = f"  ({outcome.message})" if outcome.result == "does not apply" else ""
            click.echo(f"  {words:<44}{click.style(outcome.result, fg=colour)}{reason}  {outcome.seconds:.1f} s")
            if outcome.result == "broken":
                broken += 1
                click.echo("\n".join(f"      {line}" for line in outcome.message.splitlines()))
    if broken:
        raise FlowgenError(f"the plugin {name!r} breaks {broken} contract{'s' if broken > 1 else ''}")


@plugins.command()
@click.argument("name")
@click.option("--kind", default="modality", show_default=True, help="What it brings, such as solver, loss or metric.")
@click.option("--folder", type=File(), help="Where to write it (default: flowgen-NAME).")
def new(name: str, kind: str, folder: Path | None) -> None:
    """Write a new plugin that brings the modality NAME, or a component of another kind; it passes its tests as it is.

    \b
    Examples:
      flowgen plugins new tone
      flowgen plugins new hand-writing --folder ~/projects/handwriting
      flowgen plugins new my-solver --kind solver
    """
    from flowgen.plugins.scaffold import new_plugin

    for path in new_plugin(name, folder, kind):
        click.echo(path)
    where = folder or f"flowgen-{name}"
    then = f" && flowgen train {name}/small" if kind == "modality" else ""
    click.echo(f"next: pip install -e '{where}' && flowgen plugins check {name}{then}")

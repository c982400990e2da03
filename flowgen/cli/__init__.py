"""The command line. This module imports neither torch nor any plugin: a command's module loads when it is called."""

from __future__ import annotations

import errno
import sys
import warnings
from importlib import import_module
from typing import Any

import click

from flowgen import __version__
from flowgen.cli.extensions import leave_out, load_command, plugin_commands
from flowgen.errors import FlowgenError, UsageError

COMMANDS = {
    "train": ("flowgen.cli.train:train", "Train a generator from a config or recipe."),
    "sample": ("flowgen.cli.sample:sample", "Sample clips from a trained run into playable files."),
    "ui": ("flowgen.cli.ui:ui", "Sample from trained runs on a page in the browser."),
    "serve": ("flowgen.cli.serve:serve", "Sample from trained runs over HTTP."),
    "export": ("flowgen.cli.export:export", "Write what sampling needs of a run."),
    "plan": ("flowgen.cli.plan:plan", "Tell what a training run needs of each GPU."),
    "eval": ("flowgen.cli.evaluate:evaluate", "Measure a trained run, beside real clips."),
    "distill-solver": (
        "flowgen.cli.distill_solver:distill_solver",
        "Fit a solver of a few steps to a trained run.",
    ),
    "likelihood": ("flowgen.cli.likelihood:likelihood", "Log-likelihood of files under a trained model."),
    "report": ("flowgen.cli.report:report", "Write a page to look at and listen to: clips, curves, figures."),
    "config": ("flowgen.cli.config:config", "Show or check a config."),
    "plugins": ("flowgen.cli.plugins:plugins", "List plugins and the components they bring."),
    "data": ("flowgen.cli.data:data", "Look at the data a config names, and make tables of it."),
    "doctor": ("flowgen.cli.doctor:doctor", "Tell what this machine has, and how to mend what it lacks."),
    "demo": ("flowgen.cli.demo:demo", "Train small generators, sample them, and write a report."),
}


class LazyGroup(click.Group):
    """Commands by import string, so that help needs none of them; those of plugins by their entry points."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*COMMANDS, *plugin_commands()]

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name in COMMANDS:
            module, _, attribute = COMMANDS[name][0].partition(":")
            return getattr(import_module(module), attribute)
        return load_command(name)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except OSError as error:
            if error.errno != errno.ENAMETOOLONG:
                raise
            shown = str(error.filename)[:60]
            raise UsageError(f"{shown}...: the name is longer than the file system takes; choose another") from None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, summary) for name, (_, summary) in COMMANDS.items()])
        if added := plugin_commands():
            with formatter.section("Commands of plugins"):
                formatter.write_dl([(name, command.summary) for name, command in added.items()])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="flowgen")
@click.option(
    "--no-plugin",
    metavar="NAME",
    multiple=True,
    is_eager=True,
    expose_value=False,
    callback=lambda ctx, option, names: leave_out(names),
    help="Leave a plugin out, without importing it; repeat for more (as FLOWGEN_DISABLE=a,b does).",
)
@click.option(  # the DeepSpeed launcher puts it behind the module's name; LOCAL_RANK says the same
    "--local_rank", type=int, hidden=True, expose_value=False
)
def cli() -> None:
    """Train and sample audio and video generators with flow matching.

    \b
    Examples:
      flowgen demo                                       train, sample and report in a few minutes
      flowgen train points/checkerboard                  train a recipe
      flowgen train my.yaml train.steps=2000             train your own config, with an override
      flowgen sample runs/notes --cond pitch=C4 -o c4.wav
      flowgen COMMAND --help                             more on a command
    """


def main() -> None:
    """Run the command line; a mistake of the user is one message and exit code 2 (usage) or 1."""
    warnings.formatwarning = lambda message, *rest, **options: f"flowgen: warning: {message}\n"
    try:
        cli(prog_name="flowgen")
    except FlowgenError as error:
        lines = str(error).splitlines()
        click.echo("\n".join(f"flowgen: {line}" for line in lines), err=True)
        _leave(error.exit_code)
    except SystemExit as error:
        _leave(error.code)


def _leave(code: Any) -> None:
    """End this process, also where a plugin left threads behind."""
    if "flowgen.plugins.contain" in sys.modules:  # else no plugin was loaded
        from flowgen.plugins.contain import leave

        leave(code if isinstance(code, int) else int(code is not None))
    sys.exit(code)

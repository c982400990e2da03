"""Commands of plugins: listed without importing anything, loaded when called; and plugins left out by an option."""

import os

import pytest
from click.testing import CliRunner

from flowgen.cli import cli
from flowgen.cli.extensions import plugin_commands
from flowgen.errors import FlowgenError, UsageError

COMMAND = """
import click

@click.command()
@click.argument("word")
def shout(word):
    click.echo(word.upper())

@hookimpl
def flowgen_components():
    return [Component("path", "tone-path", "flowgen.core.paths:Linear", "a path")]
"""


def add_command(site, module, distribution, name="shout", target="shout"):
    info = next(site.folder.glob(f"{distribution.replace('-', '_')}-*.dist-info"))
    with (info / "entry_points.txt").open("a") as file:
        file.write(f"\n[flowgen.commands]\n{name} = {module}:{target}\n")
    with (info / "METADATA").open("a") as file:
        file.write("Summary: Say it loud\n")


@pytest.fixture
def tone(site):
    module = site.install("tone", COMMAND, distribution="flowgen-tone")
    add_command(site, module, "flowgen-tone")
    return module


def invoke(*arguments):
    return CliRunner().invoke(cli, arguments, catch_exceptions=False)


def test_a_command_is_listed_and_runs(tone):
    assert "Commands of plugins" in invoke("--help").output
    assert "Say it loud (flowgen-tone)" in invoke("--help").output
    assert invoke("shout", "hey").output == "HEY\n"


def test_listing_imports_nothing(site):
    module = site.install("poison", "raise SystemExit('imported')", distribution="bad")
    add_command(site, module, "bad")
    assert invoke("--help").exit_code == 0
    assert "Say it loud (bad)" in invoke("--help").output


def test_a_command_that_cannot_be_loaded_names_its_distribution(site):
    module = site.install("broken", "import nope_nope", distribution="bad")
    add_command(site, module, "bad")
    with pytest.raises(FlowgenError, match=r"the command 'shout' of bad cannot be loaded .*nope_nope"):
        invoke("shout")


def test_a_command_claimed_twice_names_both(site, tone):
    add_command(site, site.install("other", COMMAND, distribution="a-other"), "a-other")
    with pytest.raises(UsageError, match="the command 'shout' is claimed by a-other and flowgen-tone"):
        invoke("shout", "hey")


def test_a_plugin_cannot_take_a_command_of_flowgen(site):
    module = site.install("tone", COMMAND, distribution="flowgen-tone")
    add_command(site, module, "flowgen-tone", name="config")
    assert "Show or check a config" in invoke("config", "--help").output


def test_the_commands_of_a_plugin_left_out_are_gone(tone, monkeypatch):
    monkeypatch.setenv("FLOWGEN_DISABLE", "tone")
    assert "shout" not in plugin_commands()
    assert invoke("shout", "hey").exit_code == 2


@pytest.fixture
def fresh(monkeypatch):
    """The environment as it was, after an option has changed it, and a registry that is made again."""
    from flowgen.plugins import Registry

    monkeypatch.setenv("FLOWGEN_DISABLE", "")
    monkeypatch.setattr("flowgen.plugins.registry", lambda: Registry())


def test_no_plugin_leaves_it_out(tone, fresh):
    listed = invoke("--no-plugin", "tone", "plugins", "list").output
    assert "tone  disabled" in listed
    assert "tone-path" not in listed
    assert os.environ["FLOWGEN_DISABLE"] == "tone"  # what this process starts leaves it out too


def test_no_plugin_refuses_a_name_that_is_none(tone, fresh):
    with pytest.raises(UsageError, match="--no-plugin: unknown plugin 'tonne'; did you mean 'tone'"):
        invoke("--no-plugin", "tonne", "plugins", "list")


def test_asking_for_what_is_left_out_says_so(tone, monkeypatch):
    from flowgen.plugins import Registry

    monkeypatch.setenv("FLOWGEN_DISABLE", "tone")
    with pytest.raises(UsageError, match=r"unknown path 'tone-path'.*plugin 'tone' is disabled"):
        Registry().get("path", "tone-path")


def test_a_name_that_is_no_plugin_is_warned_of(monkeypatch):
    from flowgen.plugins import Registry

    monkeypatch.setenv("FLOWGEN_DISABLE", "tonne")
    with pytest.warns(UserWarning, match="FLOWGEN_DISABLE names 'tonne', which is no plugin"):
        Registry()


def test_the_list_tells_version_import_time_and_hooks(site, fresh):
    site.install("tone", "@hookimpl\ndef flowgen_step_done(step):\n    pass", distribution="my-tone", version="3.1")
    output = invoke("plugins", "list").output
    assert "tone  my-tone 3.1, imported in " in output
    assert "  hook        flowgen_step_done" in output

"""Every component of this environment loads, can be configured, and can be shown."""

import inspect
from typing import Annotated, Literal, get_args, get_origin, get_type_hints

import pytest
from click.testing import CliRunner

from flowgen.cli import cli
from flowgen.config import options_model
from flowgen.core.ranges import Range
from flowgen.errors import UsageError
from flowgen.plugins import KINDS, registry

COMPONENTS = registry().components()
IDS = [f"{c.kind}/{c.name}" for c in COMPONENTS]


def invoke(*arguments):
    return CliRunner().invoke(cli, ["plugins", *arguments], catch_exceptions=False).output


@pytest.mark.parametrize("component", COMPONENTS, ids=IDS)
def test_it_loads_and_its_options_are_typed(component):
    assert component.load().__doc__, "a component says what it is"
    for name, field in options_model(component.kind, component.name).model_fields.items():
        assert field.annotation is not None, name


def without_range(hint):
    """The numbers within a type that do not say their range; scalars of any kind (labels of a table) have none."""
    if get_origin(hint) is Annotated:
        return [] if any(isinstance(mark, Range) for mark in get_args(hint)) else without_range(get_args(hint)[0])
    if get_origin(hint) is Literal or (str in get_args(hint) and bool in get_args(hint)):
        return []
    return [hint] if hint in (int, float) else [t for part in get_args(hint) for t in without_range(part)]


@pytest.mark.parametrize("component", COMPONENTS, ids=IDS)
def test_its_numbers_say_their_range(component):
    target = component.load()
    hints = get_type_hints(target.__init__ if inspect.isclass(target) else target, include_extras=True)
    for name in options_model(component.kind, component.name).model_fields:
        assert not without_range(hints[name]), f"{name}: use a type of flowgen.core.ranges"


@pytest.mark.parametrize("component", COMPONENTS, ids=IDS)
def test_it_has_a_summary_for_the_list(component):
    assert component.summary
    assert len(component.summary) <= 100


@pytest.mark.parametrize("component", COMPONENTS, ids=IDS)
def test_it_is_shown_with_its_options(component):
    output = invoke("show", f"{component.kind}/{component.name}")
    assert component.target in output
    for option in options_model(component.kind, component.name).model_fields:
        assert f"  {option}: " in output


def test_the_list_names_every_component():
    lines = [line.split() for line in invoke("list").splitlines()]
    for component in COMPONENTS:
        assert [component.kind, component.name] in [line[:2] for line in lines]


def test_the_list_of_a_kind_is_of_that_kind():
    kinds = {line.split()[0] for line in invoke("list", "--kind", "solver").splitlines() if line.startswith("  ")}
    assert kinds == {"solver"}
    with pytest.raises(UsageError, match="unknown kind of component 'solvr'; did you mean 'solver'"):
        invoke("list", "--kind", "solvr")


def test_showing_what_does_not_exist_names_the_nearest():
    with pytest.raises(UsageError, match="unknown plugin or component 'transfromer'; did you mean 'transformer'"):
        invoke("show", "transfromer")


def test_a_plugin_is_shown_with_what_it_brings():
    assert "solver      euler" in invoke("show", "flowgen")


def test_every_kind_that_a_config_names_has_a_component():
    # what is bound to a medium is the plugins' own; the core brings one of every other kind
    core = {c.kind for c in registry().plugins["flowgen"].components}
    assert core == KINDS.keys() - {
        "modality",
        "metric",
        "writer",
    }  # its encoder: an autoencoder trained here, of any medium

"""The JSON schema for editors: every recipe is one, and what people mistype is none."""

import copy
import json

import pytest
import yaml
from click.testing import CliRunner

from flowgen.cli import cli
from flowgen.config import recipes
from flowgen.config.json_schema import json_schema

jsonschema = pytest.importorskip("jsonschema")


@pytest.fixture(scope="module")
def validator():
    schema = json_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


@pytest.mark.parametrize("recipe", sorted(recipes()))
def test_every_recipe_is_one(validator, recipe):
    found = list(validator.iter_errors(yaml.safe_load(recipes()[recipe].read_text())))
    assert [f"{list(e.absolute_path)}: {e.message[:200]}" for e in found] == []


MISTAKES = {
    "a key that is none": lambda c: c.update(optimizer={"lr": 1e-3}),
    "a section's key that is none": lambda c: c["train"].update(batchsize=4),
    "a component that is none": lambda c: c.update(path="lineer"),
    "an option that the component does not have": lambda c: c.update(network={"type": "mlp", "widht": 16}),
    "an option of another component": lambda c: c.update(times={"type": "uniform", "mean": 0}),
    "a number in words": lambda c: c["train"].update(steps="many"),
    "a number below its range": lambda c: c["train"].update(batch_size=0),
    "a choice that is none": lambda c: c["train"].update(precision="float8"),
    "an option beyond its range": lambda c: c.update(network={"type": "mlp", "width": -1}),
    "a solver that is none": lambda c: c["sample"].update(solver="eulr"),
    "a list in place of a section": lambda c: c.update(train=[1, 2]),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_what_people_mistype_is_none(validator, mistake):
    config = yaml.safe_load(recipes()["points/checkerboard"].read_text())
    config.setdefault("sample", {})
    assert validator.is_valid(config)
    wrong = copy.deepcopy(config)
    MISTAKES[mistake](wrong)
    assert not validator.is_valid(wrong)


@pytest.mark.parametrize(
    "change",
    [
        {"extends": "points/checkerboard", "name": "mine"},
        {"shift": {"a": 2.0, "b": {"base": 256}}},
        {"path": {"sound": "cosine", "picture": {"type": "linear"}}},
        {"network": "my_module:Mine"},
        {"network": {"type": "my_module:Mine", "anything": 1}},
    ],
)
def test_what_is_allowed_is_one(validator, change):
    config = yaml.safe_load(recipes()["points/checkerboard"].read_text())
    found = [e.message[:200] for e in validator.iter_errors({**config, **change})]
    assert found == []


def test_the_command_writes_it_and_it_says_what_components_are(tmp_path):
    done = CliRunner().invoke(cli, ["config", "schema", "-o", str(tmp_path / "schema.json")], catch_exceptions=False)
    assert done.exit_code == 0
    schema = json.loads((tmp_path / "schema.json").read_text())
    solvers = {part["const"]: part["description"] for part in schema["$defs"]["a solver"]["anyOf"] if "const" in part}
    assert solvers["euler"]
    assert "transformer" in json.dumps(schema["$defs"]["a network"])

"""The configs that there can be as a JSON schema, for editors: keys, values and options of the components that are installed."""

from __future__ import annotations

from typing import Any

from pydantic.json_schema import models_json_schema

from flowgen.config.components import options_model
from flowgen.config.schema import COMPONENT, Config
from flowgen.errors import FlowgenError
from flowgen.plugins.component import KINDS
from flowgen.plugins.registry import registry

_REF = "#/$defs/{model}"


def json_schema() -> dict[str, Any]:
    """JSON Schema 2020-12 of a config file. What it refuses `flowgen config check` refuses, which finds more.

    A component that cannot be imported here is taken with any options.
    """
    models, failed = {}, set()
    for kind in KINDS:
        for name in registry().names(kind):
            try:
                models[kind, name] = options_model(kind, name)
            except FlowgenError:
                failed.add((kind, name))
    every = [(Config, "validation"), *((model, "validation") for model in models.values())]
    found, whole = models_json_schema(every, ref_template=_REF)  # type: ignore[arg-type]
    defs = whole["$defs"]
    for kind in KINDS:
        names = registry().names(kind)
        sections = [
            _section(name, _resolved(found[models[kind, name], "validation"], defs))
            for name in names
            if (kind, name) in models
        ]
        sections += [{"type": "object", "properties": {"type": {"const": name}}} for k, name in failed if k == kind]
        foreign = {
            "type": "string",
            "pattern": ":",
            "description": "a component by its import path, as in my_module:Mine",
        }
        sections.append({"type": "object", "properties": {"type": foreign}, "required": ["type"]})
        bare = [{"const": name, "description": registry().get(kind, name).summary} for name in names]
        defs[f"a {kind}"] = {"anyOf": [*bare, foreign, *sections]}
    config = dict(_resolved(found[Config, "validation"], defs))
    config["properties"] = {
        "extends": {"type": "string", "description": "a config or recipe that this one changes"},
        **config["properties"],
    }
    config.pop("required", None)  # what a config extends may say it
    return _placed(
        {
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            **config,
            "title": "flowgen config",
            "$defs": defs,
        }
    )


def _placed(schema: Any) -> Any:
    """With references to the components of each kind where they belong."""
    if isinstance(schema, list):
        return [_placed(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    # a section for all streams may read as one a stream, too
    made = {"anyOf" if key == "oneOf" else key: _placed(value) for key, value in schema.items() if key != COMPONENT}
    return {**made, "$ref": f"#/$defs/a {schema[COMPONENT]}"} if COMPONENT in schema else made


def _resolved(schema: dict[str, Any], defs: dict[str, Any]) -> dict[str, Any]:
    ref = schema.get("$ref")
    return defs[ref.rpartition("/")[2]] if ref else schema


def _section(name: str, options: dict[str, Any]) -> dict[str, Any]:
    """The section of one component: its name, and the options of its own signature."""
    return {
        "type": "object",
        "properties": {"type": {"const": name}, **options.get("properties", {})},
        "required": options.get("required", []),  # the name may be that of a default
        "additionalProperties": False,
    }

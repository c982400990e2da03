"""Between a config section and a component: options typed by the component's own signature."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Mapping
from functools import cache
from typing import Any, get_type_hints

from pydantic import BaseModel, ConfigDict, ValidationError, create_model

from flowgen.config.schema import ComponentConfig
from flowgen.errors import FlowgenError, UsageError
from flowgen.plugins import KINDS, registry


@cache
def options_model(kind: str, name: str) -> type[BaseModel]:
    """The options of a component as a pydantic model, made from its signature without what flowgen gives itself."""
    target = registry().get(kind, name).load()
    hints = _hints(target)
    factories = {}
    if dataclasses.is_dataclass(target):
        factories = {f.name: f.default_factory for f in dataclasses.fields(target)}
    fields: dict[str, Any] = {}
    for parameter in inspect.signature(target).parameters.values():
        if parameter.name in KINDS[kind].given:
            continue
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD) or parameter.name not in hints:
            raise FlowgenError(
                f"{kind} {name!r} cannot be configured: its parameter {parameter.name!r} needs a type hint of its own"
            )
        default = ... if parameter.default is parameter.empty else parameter.default
        factory = factories.get(parameter.name, dataclasses.MISSING)
        if factory is not dataclasses.MISSING:
            default = factory()
        fields[parameter.name] = (hints[parameter.name], default)
    config = ConfigDict(
        extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False, protected_namespaces=()
    )
    return create_model(f"{kind}:{name}", __config__=config, **fields)


def _hints(target: Any) -> dict[str, Any]:
    """The types of the parameters of a class or function."""
    try:
        return get_type_hints(target.__init__ if inspect.isclass(target) else target, include_extras=True)
    except NameError:
        if not dataclasses.is_dataclass(target):
            raise
        # one derived from a dataclass of another module: each field is typed by names of the module that it stands in
        return get_type_hints(target, include_extras=True)


def takes(kind: str, name: str, parameter: str) -> bool:
    """Whether a component asks for something that flowgen gives itself."""
    return parameter in inspect.signature(registry().get(kind, name).load()).parameters


def build(kind: str, config: ComponentConfig | Mapping[str, Any] | str, **given: Any) -> Any:
    """Make a component as a config section names it: `build("solver", "heun")`, `build("path", {"type": "vp", "beta_max": 10})`.

    Args:
        given: what flowgen passes itself (a modality, a spec); the component gets of these what its signature asks for.

    Raises UsageError for an unknown kind, name, option or value, FlowgenError where its plugin cannot be loaded.
    """
    if not isinstance(config, ComponentConfig):
        section = {"type": config} if isinstance(config, str) else dict(config)
        if not isinstance(section.get("type"), str):
            raise UsageError(
                f"{kind}: expected the name of a component, or its options with its name as 'type', got {config!r}"
            )
        config = ComponentConfig(**section)
    target = registry().get(kind, config.type).load()
    asked = inspect.signature(target).parameters
    try:
        options = options_model(kind, config.type)(**config.options)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise UsageError(
            f"{kind} {config.type!r}: {where}: {first['msg'][0].lower()}{first['msg'][1:]}, got {first['input']!r}"
        ) from None
    values = {name: getattr(options, name) for name in type(options).model_fields}
    try:
        return target(**{k: v for k, v in given.items() if k in asked}, **values)
    except ValueError as error:  # a value of the right type that the component itself refuses
        raise UsageError(f"{kind} {config.type!r}: {error}") from error

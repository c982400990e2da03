"""From a document to a config: every value typed, in force, and with its source."""

from __future__ import annotations

import difflib
import os
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from flowgen.config.components import options_model
from flowgen.config.defaults import with_defaults
from flowgen.config.document import COMMAND_LINE, Document, override, read
from flowgen.config.force import in_force, refusals, without_idle, without_null
from flowgen.config.notation import Key
from flowgen.config.schema import ComponentConfig, Config, Slot, StreamSlot
from flowgen.config.unions import chosen
from flowgen.errors import FlowgenError, UsageError, shorten, unknown
from flowgen.plugins import registry

_MAX_PROBLEMS = 20
"""Said at once; what is wrong with more than that is wrong for one reason."""


@dataclass(frozen=True)
class Resolved:
    """A valid config, and the document it came from."""

    config: Config
    document: Document

    def rows(self) -> Iterator[tuple[str, Any, str]]:
        """Every value in force: dotted key, value, and where it came from."""
        yield from self._rows(in_force(self.config), ())

    def _rows(self, value: Any, key: Key) -> Iterator[tuple[str, Any, str]]:
        if isinstance(value, dict) and value:
            for name, child in value.items():
                yield from self._rows(child, (*key, name))
        else:
            yield ".".join(map(str, key)), value, self._source(key)

    def _source(self, key: Key) -> str:
        # an option that stands nowhere is a default, though the section above it was written
        sources = self.document.sources
        bare = key[:-1] in sources and key[-1] == "type"
        return sources.get(key) or (sources[key[:-1]] if bare else "default")


def load(name: str, overrides: Sequence[str] = ()) -> Resolved:
    """Load a config from a path, a run folder or the name of a recipe, with overrides `a.b=value`.

    Raises UsageError with one line for each thing that is wrong.
    """
    path = locate(name)
    document = with_defaults(read(path, _recipe))
    of_run = path.name == "config.yaml" and (path.parent / "checkpoints").is_dir()
    if of_run:
        without_idle(document)
    _with_new_names(document, of_run)
    override(document, overrides)
    _with_new_names(document)
    without_null(document)
    return resolve(document)


def _with_new_names(document: Document, of_run: bool = False) -> None:
    """Give options the names that they have now: those that are still read, and all of them in a run's own config, unsaid.

    Raises UsageError where both names are given.
    """
    for kind, key, section in _slots(document.values, Config, ()):
        if not isinstance(section, dict) or not isinstance(section.get("type"), str):
            continue
        for old, new in _renamed(kind, section["type"], still_read=not of_run).items():
            if old not in section:
                continue
            there = (*key, new)
            value, where = section.pop(old), document.sources.pop((*key, old), "")
            written = section.get(new) is not None
            if of_run and written:
                continue
            if not of_run:
                was, now, other = _dotted((*key, old)), _dotted(there), document.source(there)
                if written and (other == COMMAND_LINE) == (where == COMMAND_LINE):
                    raise UsageError(
                        f"{where}: {was} is called {now} now, and {other} gives that, too; leave out {was}"
                    )
                warnings.warn(f"{where}: {was} is called {now} now, and read as that; rename it", stacklevel=3)
            section[new] = value
            document.sources[there] = where


def _renamed(kind: str, name: str, still_read: bool = False) -> Mapping[str, str]:
    """What options of a component were called before; none where there is no such component, which is said elsewhere."""
    try:
        component = registry().get(kind, name)
    except FlowgenError:
        return {}
    return component.still_read if still_read else component.renamed


def locate(name: str) -> Path:
    """The file of a config: a path, a run folder, or a recipe shipped with flowgen or a plugin ("audio/fsdd", or "fsdd")."""
    path = Path(name)
    if os.path.isfile(path / "config.yaml"):  # os.path: false of what cannot be a path, where Path raises
        return path / "config.yaml"
    if os.path.isfile(path):
        return path
    recipe = _recipe(name)
    if recipe is not None:
        return recipe
    if path.suffix in (".yaml", ".yml") or os.path.exists(path):
        raise UsageError(
            f"no config at {shorten(name, 400)!r}; give a YAML file, a run folder, or a recipe ({', '.join(sorted(recipes()))})"
        )
    raise UsageError(unknown("config or recipe", name, recipes()))


def _recipe(name: str) -> Path | None:
    """The file of a recipe, by its full name or the last part of it. UsageError: several have that."""
    found = recipes()
    wanted = name.removesuffix(".yaml")
    matches = [wanted] if wanted in found else [key for key in found if key.rpartition("/")[2] == wanted]
    if len(matches) > 1:
        raise UsageError(f"the recipe name {name!r} is ambiguous: {', '.join(matches)}")
    return found[matches[0]] if matches else None


def recipes() -> dict[str, Path]:
    """The recipes shipped with flowgen and, as PLUGIN/NAME, with its plugins. UsageError: two of one name."""
    found = _recipes_in(Path(str(resources.files("flowgen_configs"))), "")
    for plugin in registry().plugins.values():
        for name, path in _recipes_in(plugin.recipes, f"{plugin.name}/").items() if plugin.recipes else ():
            if name in found:
                raise UsageError(f"the recipe name {name!r} is taken twice: by {found[name]} and {path}; rename one")
            found[name] = path
    return found


def _recipes_in(root: Path, prefix: str) -> dict[str, Path]:
    return {prefix + p.relative_to(root).with_suffix("").as_posix(): p for p in sorted(root.rglob("*.yaml"))}


def resolve(document: Document) -> Resolved:
    """Validate the fixed schema and, against their signatures, all components it names."""
    problems: list[str] = list(refusals(document))
    values = _with_types(document.values, Config)
    try:
        config = Config.model_validate(values)
    except ValidationError as error:
        problems += _sentences(document, Config, (), error, values)
        config = None
    filled: dict[Key, dict[str, Any]] = {}
    slots = list(_slots(values if config is None else config.model_dump(), Config, ()))
    for kind, key, section in slots:
        if len(problems) > _MAX_PROBLEMS:
            break
        name = section if isinstance(section, str) else section.get("type") if isinstance(section, dict) else None
        if not isinstance(name, str):
            continue  # the fixed schema has said so already
        try:
            model = options_model(kind, name)
            options = {} if isinstance(section, str) else {k: v for k, v in section.items() if k != "type"}
            filled[key] = {"type": name, **model.model_validate(options).model_dump(mode="json")}
            slots += _slots(filled[key], model, key)  # components among the options of this one
        except ValidationError as error:
            problems += _sentences(document, model, key, error, options)
        except FlowgenError as error:
            problems.append(f"{document.source((*key, 'type'))}: {_dotted(key)}: {error}")
    if problems:
        more = [f"and {len(problems) - _MAX_PROBLEMS} more"] if len(problems) > _MAX_PROBLEMS else []
        raise UsageError("\n".join([*problems[:_MAX_PROBLEMS], *more]))
    assert config is not None
    dump = config.model_dump()
    for key, section in filled.items():
        target: Any = dump
        for part in key[:-1]:
            target = target[part]
        target[key[-1]] = section
    return Resolved(Config.model_validate(dump), document)


def _with_types(values: Any, model: type[BaseModel]) -> Any:
    """Options alone, of a section that has a default component, are options of that component."""
    if not isinstance(values, dict):
        return values
    filled = dict(values)
    for name, info in model.model_fields.items():
        value = values.get(name)
        if any(isinstance(mark, StreamSlot) for mark in info.metadata):
            continue  # a section without a type is one by stream
        if isinstance(value, dict) and isinstance(info.default, ComponentConfig) and "type" not in value:
            filled[name] = {"type": info.default.type, **value}
        elif isinstance(info.annotation, type) and issubclass(info.annotation, BaseModel):
            filled |= {name: _with_types(value, info.annotation)} if name in values else {}
    return filled


def _slots(values: Any, model: type[BaseModel], key: Key) -> Iterator[tuple[str, Key, Any]]:
    """Every component section: its kind, key and value."""
    if not isinstance(values, dict):
        return
    for name, info in model.model_fields.items():
        if name not in values:
            continue
        value, child = values[name], (*key, name)
        slot = next((m for m in info.metadata if isinstance(m, Slot)), None)
        if slot is not None:
            for i, item in _parts(value, slot):
                yield str(slot), child if i is None else (*child, i), item
        elif isinstance(info.annotation, type) and issubclass(info.annotation, BaseModel):
            yield from _slots(value, info.annotation, child)


def _parts(value: Any, slot: Slot) -> Iterable[tuple[Any, Any]]:
    """The components of a slot by their key in it; None: it is one itself."""
    if isinstance(value, list):
        return enumerate(value)
    if isinstance(slot, StreamSlot) and isinstance(value, dict) and "type" not in value:
        return value.items()
    return [(None, value)]


def _sentences(
    document: Document, model: type[BaseModel], prefix: Key, error: ValidationError, values: Any
) -> list[str]:
    """What pydantic found in `values`, in words; counted only, beyond what is said at once."""
    errors = chosen(error.errors(include_url=False), values)
    told = [_sentence(document, model, prefix, e) for e in errors[:_MAX_PROBLEMS]]
    return told + [""] * (len(errors) - len(told))


def _sentence(document: Document, model: type[BaseModel], prefix: Key, error: Any) -> str:
    """One error of pydantic as: where: key: what; remedy."""
    loc: Key = tuple(error["loc"])
    key = (*prefix, *loc)
    where, dotted = document.source(key), _dotted(key)
    if error["type"] == "extra_forbidden":
        valid = _fields(model, loc[:-1])
        name, section = str(loc[-1]), _dotted(key[:-1])
        kind, _, component = model.__name__.partition(":")
        if len(loc) == 1 and (now := _renamed(kind, component).get(name)):
            return f"{where}: {dotted} is called {_dotted((*key[:-1], now))} now; rename it"
        near = difflib.get_close_matches(shorten(name), valid, 1, cutoff=0.6)
        elsewhere = [".".join(p) for p in _all_fields(Config) if p[-1] == name] if not near else []
        hint = f"; did you mean {_dotted((*key[:-1], near[0]))!r}?" if near else ""
        hint = f"; it lives at {elsewhere[0]!r}" if elsewhere else hint
        return (
            f"{where}: unknown key {dotted!r}{hint} (valid{f' in {section!r}' if section else ''}: {', '.join(valid)})"
        )
    if error["type"] == "missing":
        above = document.source(key[:-1]) if key[:-1] else "config"
        return f"{above}: the key {dotted!r} is missing"
    return f"{where}: {dotted}: {error['msg'][0].lower()}{error['msg'][1:]}, got {shorten(repr(error['input']))}"


def _dotted(key: Key) -> str:
    return ".".join(shorten(str(part)) for part in key)


def _fields(model: Any, loc: Key) -> list[str]:
    for part in loc:
        info = getattr(model, "model_fields", {}).get(part)
        model = info.annotation if info else None
    return list(getattr(model, "model_fields", {}))


def _all_fields(model: Any, key: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for name, info in getattr(model, "model_fields", {}).items():
        yield (*key, name)
        slot = next((m for m in info.metadata if isinstance(m, Slot)), None)
        if slot == "optimizer":  # the one component that all speak of by its options
            yield from ((*key, name, option) for option in options_model(slot, info.default.type).model_fields)
        yield from _all_fields(info.annotation, (*key, name))

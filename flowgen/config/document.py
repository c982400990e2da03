"""A config as it is written: YAML with `extends`, overrides, and where every value came from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.error import MarkedYAMLError

from flowgen.errors import UsageError

Key = tuple[str | int, ...]


@dataclass
class Document:
    """Nested plain values, and for each key path the place that set it ("file:line" or "command line")."""

    values: dict[str, Any] = field(default_factory=dict)
    sources: dict[Key, str] = field(default_factory=dict)

    def source(self, key: Key) -> str:
        """Where `key`, or the nearest section above it that was written somewhere, was set; "default" if nowhere."""
        for end in range(len(key), 0, -1):
            if key[:end] in self.sources:
                return self.sources[key[:end]]
        return "default"


def read(path: Path) -> Document:
    """Read a YAML file and those it extends."""
    return _read(path, ())


def _read(path: Path, below: tuple[Path, ...]) -> Document:
    if path.resolve() in below:
        raise UsageError(f"{path}: 'extends' runs in a circle")
    try:
        loaded = YAML(typ="rt").load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"cannot read the config {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UsageError(f"{path}: not a text file in UTF-8; expected a YAML config") from None
    except MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        problem = " ".join(str(error.problem).split("\n")[0].split())
        raise UsageError(f"{path}:{line}: not valid YAML: {problem}") from None
    if loaded is None:
        loaded = CommentedMap()
    if not isinstance(loaded, CommentedMap):
        raise UsageError(f"{path}: expected a mapping of keys to values at the top")
    here = Document()
    here.values = _plain(loaded, (), str(path), here.sources)
    parent = here.values.pop("extends", None)
    if parent is None:
        return here
    if not isinstance(parent, str):
        raise UsageError(f"{here.sources[('extends',)]}: 'extends' takes the path of one YAML file")
    base = _read(path.parent / parent, (*below, path.resolve()))
    _merge(base, here.values, here.sources, ())
    return base


def _plain(node: Any, key: Key, file: str, sources: dict[Key, str]) -> Any:
    """ruamel's nodes as plain values; notes the line of every key."""
    if isinstance(node, CommentedMap):
        out = {}
        for name, value in node.items():
            child = (*key, str(name))
            sources[child] = f"{file}:{node.lc.key(name)[0] + 1}"
            out[str(name)] = _plain(value, child, file, sources)
        return out
    if isinstance(node, CommentedSeq):
        items = []
        for i, value in enumerate(node):
            child = (*key, i)
            sources[child] = f"{file}:{node.lc.item(i)[0] + 1}"
            items.append(_plain(value, child, file, sources))
        return items
    for kind in (bool, int, float, str):
        if isinstance(node, kind):
            return kind(node)
    return node


def override(document: Document, assignments: Sequence[str]) -> None:
    """Apply `a.b.c=value` in order; values are read as YAML."""
    for assignment in assignments:
        name, equals, text = assignment.partition("=")
        key = tuple(name.split("."))
        if not equals or not all(key):
            raise UsageError(f"cannot read the override {assignment!r}; expected key=value, as in train.steps=1000")
        try:
            nested = YAML(typ="safe", pure=True).load(text) if text else None
        except MarkedYAMLError:
            raise UsageError(f"cannot read the value of {assignment!r} as YAML") from None
        put(document, key, nested, "command line")


def put(document: Document, key: Sequence[str], value: Any, source: str) -> None:
    """Set one key, and note where it came from."""
    for part in reversed(key):
        value = {part: value}
    sources: dict[Key, str] = {}
    _note(value, (), source, sources)
    _merge(document, value, sources, ())


def merge(base: Document, new: Document) -> None:
    """Lay a document over another."""
    _merge(base, new.values, new.sources, ())


def _note(value: Any, key: Key, source: str, sources: dict[Key, str]) -> None:
    if key:
        sources[key] = source
    if isinstance(value, Mapping):
        for name, child in value.items():
            _note(child, (*key, str(name)), source, sources)


def _merge(base: Document, new: Any, sources: Mapping[Key, str], key: Key) -> None:
    """Merge `new` into the section `key` of `base`. A section whose `type` changes is replaced: its options are another's."""
    target: Any = base.values
    for part in key:
        target = target[part]
    for name, value in new.items():
        child = (*key, name)
        old = target.get(name)
        if isinstance(value, Mapping) and isinstance(old, str) and "type" not in value:
            old = target[name] = {"type": old}
        same = (
            isinstance(value, Mapping)
            and isinstance(old, Mapping)
            and value.get("type", old.get("type")) == old.get("type")
        )
        if same:
            if child in sources:
                base.sources.setdefault(child, sources[child])
            _merge(base, value, sources, child)
        else:
            for stale in [k for k in base.sources if k[: len(child)] == child]:
                del base.sources[stale]
            target[name] = value
            base.sources.update({k: s for k, s in sources.items() if k[: len(child)] == child})


def write(values: Mapping[str, Any], path: Path) -> None:
    """Write plain values as YAML."""
    path.write_text(dumps(values), encoding="utf-8")


def dumps(values: Mapping[str, Any]) -> str:
    yaml = YAML()
    yaml.default_flow_style = None
    yaml.width = 120
    yaml.indent(mapping=2, sequence=4, offset=2)
    stream = StringIO()
    yaml.dump(values, stream)
    return stream.getvalue()

"""YAML as configs use it: mappings, sequences and the scalars of YAML 1.2, within limits, every value with its line.

Aliases and the merge key `<<` are read, tags are not. What is refused is one sentence with its line.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import yaml

from flowgen.errors import shorten

Key = tuple[str | int, ...]
MAX_DEPTH = 50
"""Sections within sections."""
MAX_VALUES = 200_000
"""Values in one text, those that aliases repeat counted each time."""

_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_UNREADABLE = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_NO_TEXT = re.compile("[\0\ud800-\udfff]")
_WORD = re.compile(r"[a-eg-mo-su-zA-EG-MO-SU-Z/_]")
"""How no scalar but a string begins."""
_SCALARS = {  # the core schema of YAML 1.2, with underscores in numbers
    "null": re.compile(r"(?:~|null|Null|NULL|)\Z"),
    "bool": re.compile(r"(?:true|True|TRUE|false|False|FALSE)\Z"),
    "int": re.compile(r"[-+]?(?:0b[01][01_]*|0o[0-7][0-7_]*|0x[0-9a-fA-F][0-9a-fA-F_]*|[0-9][0-9_]*)\Z"),
    "float": re.compile(
        r"(?:[-+]?(?:[0-9][0-9_]*\.?[0-9_]*|\.[0-9][0-9_]*)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))\Z"
    ),
}


class Invalid(Exception):
    """A text that is refused: in which line, and why."""

    def __init__(self, line: int, problem: str) -> None:
        super().__init__(problem)
        self.line = line


def parse(text: str) -> tuple[Any, dict[Key, int]]:
    """The value that a text writes (None for an empty one), and the line of every key path in it. Raises Invalid."""
    found = _UNREADABLE.search(text.removeprefix("\ufeff"))
    if found is not None:
        line = text.count("\n", 0, found.start()) + 1
        raise Invalid(line, f"the character {found.group()!a} has no place in a config; remove it")
    reader = _Reader(text)
    try:
        return reader.document(), reader.lines
    except yaml.MarkedYAMLError as error:
        problem = " ".join(str(error.problem).split())
        raise Invalid(error.problem_mark.line + 1 if error.problem_mark else 1, f"not valid YAML: {problem}") from None
    except yaml.YAMLError as error:
        raise Invalid(1, f"not valid YAML: {' '.join(str(error).split())}") from None


class _Reader:
    """Makes values of the events of a parser, which has neither limits nor line numbers."""

    def __init__(self, text: str) -> None:
        self.lines: dict[Key, int] = {}
        self._events: Iterator[Any] = yaml.parse(text, Loader=_Loader)
        self._anchors: dict[str, Any] = {}
        self._open: list[str] = []
        self._values = 0

    def document(self) -> Any:
        next(self._events)  # the stream begins
        if isinstance(next(self._events), yaml.StreamEndEvent):
            return None
        value = self._value(next(self._events), ())
        next(self._events)
        more = next(self._events)
        if not isinstance(more, yaml.StreamEndEvent):
            raise Invalid(_line(more), "a second document begins here; write one in a file")
        return value

    def _value(self, event: Any, key: Key) -> Any:
        if isinstance(event, yaml.AliasEvent):
            if event.anchor in self._open:
                raise Invalid(_line(event), f"the alias *{event.anchor} stands inside of what it repeats")
            if event.anchor not in self._anchors:
                raise Invalid(_line(event), f"the alias *{event.anchor} repeats nothing: no &{event.anchor} before it")
            return self._copy(self._anchors[event.anchor], event)
        if event.tag is not None:
            raise Invalid(_line(event), f"the tag {shorten(event.tag)} is not supported; write the value alone")
        self._count(event)
        if len(key) > MAX_DEPTH:
            raise Invalid(_line(event), f"nested more than {MAX_DEPTH} levels deep")
        if event.anchor:
            self._open.append(event.anchor)
        if isinstance(event, yaml.ScalarEvent):
            value = _scalar(event)
        else:
            value = self._mapping(key) if isinstance(event, yaml.MappingStartEvent) else self._sequence(key)
        if event.anchor:
            self._anchors[self._open.pop()] = value
        return value

    def _sequence(self, key: Key) -> list[Any]:
        items: list[Any] = []
        while not isinstance(event := next(self._events), yaml.SequenceEndEvent):
            child = (*key, len(items))
            self.lines[child] = _line(event)
            items.append(self._value(event, child))
        return items

    def _mapping(self, key: Key) -> dict[str, Any]:
        own: dict[str, Any] = {}
        merged: list[tuple[Any, int]] = []
        while not isinstance(event := next(self._events), yaml.MappingEndEvent):
            if not isinstance(event, yaml.ScalarEvent) or event.tag is not None or event.anchor:
                raise Invalid(_line(event), "a key must be a plain word")
            name, line = event.value, _line(event)
            child = (*key, name)
            if name == "<<" and event.implicit[0]:
                merged.append((self._value(next(self._events), child), line))
                continue
            if name in own:
                raise Invalid(line, f"not valid YAML: duplicate key {shorten(name)!r}")
            _text(name, line)
            self.lines[child] = line
            own[name] = self._value(next(self._events), child)
        for value, line in merged:
            for section in value if isinstance(value, list) else [value]:
                if not isinstance(section, dict):
                    raise Invalid(line, "the merge key '<<' takes a section, or a list of sections")
                for name in section.keys() - own.keys():
                    child = (*key, name)
                    self.lines[child] = line
                own = {**section, **own}
        return own

    def _copy(self, value: Any, alias: Any) -> Any:
        self._count(alias)
        if isinstance(value, dict):
            return {name: self._copy(child, alias) for name, child in value.items()}
        if isinstance(value, list):
            return [self._copy(child, alias) for child in value]
        return value

    def _count(self, event: Any) -> None:
        self._values += 1
        if self._values > MAX_VALUES:
            raise Invalid(_line(event), f"more than {MAX_VALUES:,} values, those that aliases repeat included")


def _line(event: Any) -> int:
    return event.start_mark.line + 1


def _scalar(event: Any) -> Any:
    text, line = event.value, _line(event)
    kind = _kind(text) if event.implicit[0] else "str"
    if kind == "null":
        return None
    if kind == "bool":
        return text.lower() == "true"
    if kind == "int":
        return _integer(text, line)
    if kind == "float":
        value = float(text.lower().replace("_", "").replace(".inf", "inf").replace(".nan", "nan"))
        if math.isinf(value) and not text.lower().endswith("inf"):
            raise Invalid(line, f"the number {shorten(text)} is too large")
        return value
    return _text(text, line)


def _integer(text: str, line: int) -> int:
    digits = text.replace("_", "").lstrip("+")
    base = {"0b": 2, "0o": 8, "0x": 16}.get(digits.lstrip("-")[:2].lower(), 10)
    # cut first: Python refuses to read thousands of digits, and takes long for those it reads
    value = int(digits, base) if len(digits) < 80 else 1 << 63
    if not -(1 << 63) <= value < 1 << 63:
        raise Invalid(line, f"the integer {shorten(text)} does not fit into 64 bits")
    return value


def _text(text: str, line: int) -> str:
    if _NO_TEXT.search(text):
        raise Invalid(line, f"{shorten(text)!a} holds a character that no text may have (NUL, or half a pair)")
    return text


def _kind(text: str) -> str:
    if _WORD.match(text):
        return "str"
    return next((kind for kind, pattern in _SCALARS.items() if pattern.match(text)), "str")


class _Dumper(yaml.SafeDumper):
    """Quotes the strings that `parse` would take for something else."""

    yaml_implicit_resolvers: ClassVar[dict[Any, Any]] = {}

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        super().increase_indent(flow, False)

    def ignore_aliases(self, data: Any) -> bool:
        return True


for _name, _pattern in _SCALARS.items():
    _Dumper.add_implicit_resolver(f"tag:yaml.org,2002:{_name}", _pattern, None)
_Dumper.add_implicit_resolver("tag:yaml.org,2002:merge", re.compile(r"<<\Z"), None)


def dumps(values: Mapping[str, Any]) -> str:
    """Plain values as YAML."""
    return yaml.dump(
        dict(values), Dumper=_Dumper, default_flow_style=None, sort_keys=False, width=120, allow_unicode=True
    )

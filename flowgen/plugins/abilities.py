"""What a component offers besides its contract, seen without building it."""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from typing import Any, get_type_hints

from flowgen.plugins.component import KINDS


@dataclass(frozen=True)
class Ability:
    """An optional protocol: its name, what it is good for, and what offering it takes, one line a member."""

    name: str
    gives: str
    takes: dict[str, str]

    def offered_by(self, target: Any) -> bool:
        """Whether a class has all members, as attributes or declared in its annotations."""
        declared = {name for base in inspect.getmro(target) for name in vars(base).get("__annotations__", {})}
        return all(name in declared or hasattr(target, name) for name in self.takes)


def abilities(kind: str) -> Iterator[Ability]:
    """The optional abilities of components of a kind."""
    for target in KINDS[kind].abilities:
        module, _, name = target.partition(":")
        protocol = getattr(import_module(module), name)
        yield Ability(name, inspect.cleandoc(protocol.__doc__ or "").partition("\n\n")[0], dict(_members(protocol)))


def class_of(target: Any) -> type | None:
    """The class that a component's target makes: itself, or what a function says that it returns."""
    if inspect.isclass(target):
        return target
    try:
        made = get_type_hints(target).get("return")
    except (NameError, TypeError):
        return None
    return made if inspect.isclass(made) else None


def _members(protocol: Any) -> Iterator[tuple[str, str]]:
    """Signature by name of what the protocol itself asks for, as it stands in the source."""
    (tree,) = ast.parse(textwrap.dedent(inspect.getsource(protocol))).body
    assert isinstance(tree, ast.ClassDef)
    for node in tree.body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            yield node.target.id, f"{node.target.id}: {ast.unparse(node.annotation)}"
        elif isinstance(node, ast.FunctionDef):
            returns = ast.unparse(node.returns) if node.returns else "None"
            if any(isinstance(d, ast.Name) and d.id == "property" for d in node.decorator_list):
                yield node.name, f"{node.name}: {returns}"
            else:
                arguments = ast.unparse(node.args).removeprefix("self").removeprefix(", ")
                yield node.name, f"{node.name}({arguments}) -> {returns}"

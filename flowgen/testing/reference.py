"""The reference of hooks, kinds and contracts, generated from the code:

python -m flowgen.testing.reference > docs/reference.md
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Iterator
from importlib import import_module
from typing import Any

from flowgen.plugins.component import KINDS
from flowgen.plugins.hookspecs import API, Hooks

HEAD = f"""# Reference of the plugin interface

Version {API}. Generated from the code by `python -m flowgen.testing.reference`; [plugins.md](plugins.md) is the guide to it.

- [Hooks](#hooks): what flowgen asks a plugin
- [Kinds of components](#kinds-of-components): what a config can name
- [Contracts](#contracts): what a component of each kind has to be
- [Abilities](#abilities): what it may offer besides, each an optional protocol
- [Checks](#checks): how the conformance kit sees whether it is
"""


def reference() -> str:
    """The page, as Markdown."""
    return "\n".join([HEAD, *_hooks(), *_kinds(), *_contracts(), *_abilities(), *_checks()]).rstrip() + "\n"


def _hooks() -> Iterator[str]:
    yield "## Hooks\n"
    yield inspect.cleandoc(inspect.getmodule(Hooks).__doc__ or "").partition("\n\n")[2] + "\n"
    for name, function in vars(Hooks).items():
        if name.startswith("flowgen_"):
            arguments = [a for a in inspect.signature(function).parameters if a != "self"]
            said, _, example = inspect.cleandoc(function.__doc__).partition("@hookimpl")
            yield f"### `{name}({', '.join(arguments)})`\n\n{said.strip()}\n"
            yield f"```python\n@hookimpl{example.rstrip()}\n```\n"


def _kinds() -> Iterator[str]:
    yield "## Kinds of components\n"
    yield 'A component is registered as `Component(kind, name, "package.module:attribute", summary)`. Its options are the'
    yield "parameters of its own signature, less those that flowgen gives.\n"
    yield "| kind | what it is | flowgen gives | contract |\n|---|---|---|---|"
    for kind in KINDS.values():
        given = ", ".join(f"`{name}`" for name in kind.given) or "-"
        anchor = kind.contract.partition(":")[2].lower()
        yield f"| `{kind.name}` | {kind.summary} | {given} | [{kind.contract.replace(':', '.')}](#{anchor}) |"
    yield ""


def _contracts() -> Iterator[str]:
    yield "## Contracts\n"
    for target in dict.fromkeys(kind.contract for kind in KINDS.values()):
        module, _, name = target.partition(":")
        contract = getattr(import_module(module), name)
        yield f"### {name}\n\n`{module}.{name}`{_said(contract.__doc__)}\n"
        yield from _members(contract)
        yield ""


def _abilities() -> Iterator[str]:
    yield "## Abilities\n"
    yield "A component offers an ability by having its members: methods, properties, or attributes that its class declares."
    yield "flowgen asks by `isinstance`; `flowgen plugins show NAME` says which ones a component offers.\n"
    for kind in KINDS.values():
        for target in kind.abilities:
            module, _, name = target.partition(":")
            ability = getattr(import_module(module), name)
            yield f"### {name} ({kind.name})\n\n`{module}.{name}`{_said(ability.__doc__)}\n"
            yield from _members(ability)
            yield ""


def _members(contract: Any) -> Iterator[str]:
    """Attributes with the text below them, and methods with their docstrings, in the order of the source."""
    (tree,) = ast.parse(textwrap.dedent(inspect.getsource(contract))).body
    assert isinstance(tree, ast.ClassDef)
    for i, node in enumerate(tree.body):
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            below = tree.body[i + 1] if i + 1 < len(tree.body) else None
            text = ""
            if isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant):
                text = f": {_paragraphs(str(below.value.value))}"
            yield f"- `{node.target.id}: {ast.unparse(node.annotation)}`{text}"
        elif isinstance(node, ast.FunctionDef) and (
            not node.name.startswith("_") or node.name in ("__call__", "__len__")
        ):
            arguments = ast.unparse(node.args).replace("self, ", "").removeprefix("self")
            returns = f" -> {ast.unparse(node.returns)}" if node.returns else ""
            text = ast.get_docstring(node) or ""
            is_property = any(isinstance(d, ast.Name) and d.id == "property" for d in node.decorator_list)
            head = f"{node.name}: {returns[4:]}" if is_property else f"{node.name}({arguments}){returns}"
            yield f"- `{head}`" + (f": {_paragraphs(text)}" if text else "")


def _paragraphs(text: str | None) -> str:
    return " ".join(inspect.cleandoc(text or "").split())


def _said(text: str | None) -> str:
    return f": {_paragraphs(text)}" if text else ""


def _checks() -> Iterator[str]:
    from flowgen.testing.checks import CHECKS

    yield "## Checks\n"
    yield "What `flowgen plugins check` and `flowgen.testing.ModalityConformance` look at.\n"
    yield "| check | contract | more |\n|---|---|---|"
    for check in CHECKS:
        page = check.see.removeprefix("docs/")
        yield f"| {check.name.replace('_', ' ')} | {check.contract} | [{page.partition('#')[2]}]({page}) |"


if __name__ == "__main__":
    print(reference(), end="")

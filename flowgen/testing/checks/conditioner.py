"""A conditioner turns raw values into tensors, and 'not given' into another."""

from __future__ import annotations

import json
from typing import Any

import torch

from flowgen.config import options_model
from flowgen.core.tree import leaves, tree_map
from flowgen.errors import UsageError
from flowgen.media.conditions import encode_conditions, null_conditions
from flowgen.media.interfaces import BringsEmbedder, Resolves
from flowgen.testing.contract import COMPONENT_CHECKS, NotApplicable, NotBuilt, checks_for
from flowgen.testing.part import Part, touches_global_generators

_POOL = ("a", "b", "a red ball", 0.25, 0.75, 1, 2, [0.1, 0.2], [0.3, 0.1], [0.1, 0.2, 0.3], [0.5, 0.1, 0.3])
"""Values that are tried where none are named: some conditioner or other takes each."""

check = checks_for("conditioner", COMPONENT_CHECKS)


def _values(p: Part) -> list[Any]:
    """At least two values that it takes. NotBuilt: none are known."""
    if p.values:
        return list(p.values)
    options = p.complete_options()
    taken: list[Any] = []
    for value in (*options.get("names", ()), *(options[k] for k in ("low", "high") if k in options), *_POOL):
        try:
            p.built.encode(value)
        except Exception:  # however it is refused: `conditioner_refuses_what_is_no_value` judges that
            continue
        if all(str(value) != str(other) for other in taken):
            taken.append(value)
    if len(taken) < 2:
        raise NotBuilt("no two values that it takes are known: give some as `values` of a ComponentConformance")
    return taken[:4]


def _same(a: Any, b: Any) -> bool:
    pairs = zip(leaves(a), leaves(b), strict=True)
    return all(x.shape == y.shape and torch.equal(x.nan_to_num(nan=-7e7), y.nan_to_num(nan=-7e7)) for x, y in pairs)


def _form(value: Any) -> Any:
    return tree_map(lambda v: (tuple(v.shape), v.dtype), value)


@check(
    "encode gives every value as a tensor (or a tree) of one form, finite, and describe() says which values there are",
    see="conditions",
)
def conditioner_encodes_values(p: Part) -> str | None:
    if p.built.role not in ("vector", "sequence"):
        return f"role is {p.built.role!r}; expected 'vector' or 'sequence'"
    if not p.built.describe().strip():
        return "describe() says nothing"
    values = _values(p)
    encoded = [p.built.encode(value) for value in values]
    for value, one in zip(values, encoded, strict=True):
        if _form(one) != _form(encoded[0]):
            return f"{values[0]!r} is encoded as {_form(encoded[0])} and {value!r} as {_form(one)}"
        if not all(bool(torch.isfinite(leaf.double()).all()) for leaf in leaves(one)):
            return f"{value!r} is encoded as what is not finite"
    for i, a in enumerate(encoded):
        for j in range(i):
            if _same(a, encoded[j]):
                return f"{values[j]!r} and {values[i]!r} are encoded alike"
    return None


@check(
    "'not given' has the form of a value and is none of them",
    see="conditions",
    needs=(conditioner_encodes_values,),
)
def conditioner_null_differs(p: Part) -> str | None:
    null = p.built.null()
    for value in _values(p):
        encoded = p.built.encode(value)
        if _form(null) != _form(encoded):
            return f"null() is {_form(null)}; a value is {_form(encoded)}"
        if _same(null, encoded):
            return f"null() is the same as {value!r}"
    batch = encode_conditions({"c": p.built}, [{"c": _values(p)[0]}, {}])["c"]
    if not _same(tree_map(lambda v: v[1:], batch), null_conditions({"c": p.built}, 1)["c"]):
        return "in a batch, a value that is not given is not null()"
    return None


@check("a value that it does not take is a UsageError", see="conditions", needs=(conditioner_encodes_values,))
def conditioner_refuses_what_is_no_value(p: Part) -> str | None:
    conditioner = p.built
    for value in (object(), {}, float("nan"), "\x00no such value"):
        try:
            conditioner.encode(value)
        except UsageError:
            continue
        except Exception as error:
            return f"a value of type {type(value).__name__} raised {type(error).__name__}: {error}"
    return None


@check(
    "it is a function of options and value: built again from the options that a run keeps it encodes alike; no random "
    "numbers, and what it gave may be written into",
    see="conditions",
    needs=(conditioner_encodes_values,),
)
def conditioner_is_its_options(p: Part) -> str | None:
    value = _values(p)[0]
    if touches_global_generators(lambda: p.built.encode(value)):
        return "it draws from a global generator"
    first, nothing = (tree_map(torch.clone, made) for made in (p.built.encode(value), p.built.null()))
    for made in (p.built.encode(value), p.built.null()):
        tree_map(lambda v: v.fill_(1), made)
    if not _same(p.built.encode(value), first) or not _same(p.built.null(), nothing):
        return f"once what it gave for {value!r} was written into, it gives that: it hands out a tensor that it keeps"
    kept = json.loads(options_model(p.kind, p.name)(**p.complete_options()).model_dump_json())
    if isinstance(p.built, Resolves):
        kept |= p.built.resolve()
    again = Part(p.kind, p.name, kept).built
    return None if _same(again.encode(value), first) else "built again from its options, it encodes otherwise"


@check(
    "its embedder gives [B, width], or [B, L, width] with a mask [B, L] where its role is 'sequence'",
    see="conditions",
    needs=(conditioner_encodes_values,),
)
def conditioner_embedder_fits(p: Part) -> str | None:
    if not isinstance(p.built, BringsEmbedder):
        raise NotApplicable("it brings no embedder")
    values, role = _values(p), p.new().role
    batch = encode_conditions({"c": p.new()}, [{"c": value} for value in values])["c"]
    out = p.built.embedder(8)(batch)
    if role == "vector":
        return None if out.shape == (len(values), 8) else f"it gives {tuple(out.shape)} for {len(values)} values"
    tokens, mask = out
    if tokens.shape != (*mask.shape, 8) or len(mask) != len(values) or mask.dtype != torch.bool:
        return f"it gives tokens {tuple(tokens.shape)} and a mask {mask.dtype} {tuple(mask.shape)}"
    return None

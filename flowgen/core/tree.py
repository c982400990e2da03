"""The state of a flow: one tensor, or a dict of tensors with one leaf a stream.

Formulas are written for one tensor; `tree_map` applies them leaf by leaf, and whatever is not a mapping (one path, one
time for all streams) is shared by the leaves. Times and coefficients broadcast from the left: `[]`, `[B]` and `[B, T]`
all meet a state `[B, T, ..., C]`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeAlias

import torch
from torch import Tensor

State: TypeAlias = Tensor | dict[str, Tensor]


def tree_map(fn: Callable[..., Any], tree: Any, *rest: Any) -> Any:
    """Apply `fn` to every leaf of `tree`, with the matching leaves of `rest` (or `rest` itself where it is no mapping)."""
    if isinstance(tree, Tensor) or not isinstance(tree, Mapping):  # the first test is the cheap one
        return fn(tree, *rest)
    return {k: tree_map(fn, v, *(r[k] if isinstance(r, Mapping) else r for r in rest)) for k, v in tree.items()}


def alike(*trees: Any) -> list[Any]:
    """Each as a dict by stream, where one of them is."""
    streams = next((tree for tree in trees if isinstance(tree, Mapping)), None)
    if streams is None:
        return list(trees)
    return [tree if isinstance(tree, Mapping) else dict.fromkeys(streams, tree) for tree in trees]


def leaves(tree: Any) -> Iterator[Any]:
    """The leaves of a tree, in the order of its keys."""
    if isinstance(tree, Mapping):
        for value in tree.values():
            yield from leaves(value)
    else:
        yield tree


def first_leaf(tree: Any) -> Any:
    return tree if isinstance(tree, Tensor) else next(leaves(tree))


def left(c: Any, x: Tensor) -> Any:
    """Align a time-like `c` of shape [], [B], [B, T], ... with the leading dimensions of `x`."""
    if not isinstance(c, Tensor) or c.ndim == 0:
        return c
    return c.reshape(c.shape + (1,) * (x.ndim - c.ndim))


def lincomb(*terms: tuple[Any, State]) -> State:
    """sum_i c_i x_i over trees; each c_i is a number, a time-like tensor, or a tree of them."""
    c: Any
    y: Any
    (c, x), *others = terms
    if not isinstance(x, Tensor):
        return {k: lincomb(*((c[k] if isinstance(c, Mapping) else c, y[k]) for c, y in terms)) for k in x}  # type: ignore[misc, index]
    c = _coefficient(c, x)
    out = x if isinstance(c, float) and c == 1 else x * c
    for c, y in others:
        c = _coefficient(c, y)
        if isinstance(c, float):
            out = torch.add(out, y, alpha=c)
        else:
            # not addcmul: whether that rounds once or twice depends on the place in the batch
            out = out + c * y
    return out


def _coefficient(c: Any, x: Tensor) -> Tensor | float:
    """A number as float; a time-like tensor aligned with x and in its precision (a float64 host time must not promote it)."""
    if not isinstance(c, Tensor):
        return float(c)
    if c.ndim == 0 and not c.requires_grad and c.is_cpu:
        return c.item()
    return left(c.to(device=x.device, dtype=x.dtype), x)


def concat(trees: list[Any]) -> Any:
    """Concatenate trees along the batch dimension."""
    return tree_map(lambda *parts: torch.cat(parts), *trees)


def batch_size(tree: Any) -> int:
    return len(first_leaf(tree))

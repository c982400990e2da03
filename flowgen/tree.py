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
    if isinstance(tree, Mapping):
        return {k: tree_map(fn, v, *(r[k] if isinstance(r, Mapping) else r for r in rest)) for k, v in tree.items()}
    return fn(tree, *rest)


def leaves(tree: Any) -> Iterator[Any]:
    """The leaves of a tree, in the order of its keys."""
    if isinstance(tree, Mapping):
        for value in tree.values():
            yield from leaves(value)
    else:
        yield tree


def first_leaf(tree: Any) -> Any:
    return next(leaves(tree))


def left(c: Tensor | float, x: Tensor) -> Tensor | float:
    """Align a time-like `c` of shape [], [B], [B, T], ... with the leading dimensions of `x`."""
    if not isinstance(c, Tensor) or c.ndim == 0:
        return c
    return c.reshape(c.shape + (1,) * (x.ndim - c.ndim))


def lincomb(*terms: tuple[Any, State]) -> State:
    """sum_i c_i x_i over trees; each c_i is a number, a time-like tensor, or a tree of them."""

    def leaf(x: Tensor, *rest: Any) -> Tensor:
        # rest = c_0, c_1, x_1, c_2, x_2, ...
        out = left(_like(rest[0], x), x) * x
        for c, y in zip(rest[1::2], rest[2::2], strict=True):
            out = out + left(_like(c, y), y) * y
        return out

    (c0, x0), *others = terms
    return tree_map(leaf, x0, c0, *(part for term in others for part in term))


def _like(c: Any, x: Tensor) -> Any:
    """Coefficients come from a float64 host grid; they must not promote a float32 state."""
    return c.to(device=x.device, dtype=x.dtype) if isinstance(c, Tensor) and c.ndim else c


def concat(trees: list[Any]) -> Any:
    """Concatenate trees along the batch dimension."""
    return tree_map(lambda *parts: torch.cat(parts), *trees)


def batch_size(tree: Any) -> int:
    return len(first_leaf(tree))

"""Weights on the disk: safetensors, read and written whole, loaded strictly."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from flowgen.errors import FlowgenError, UsageError
from flowgen.files import replacing

PRETENDED: ContextVar[Callable[[], AbstractContextManager[Any]] | None] = ContextVar("pretended", default=None)
"""Set while tensors are made that have no memory: what makes them real in a block."""


def has_values(module: nn.Module) -> bool:
    """Whether its parameters hold numbers; not on the meta device, nor while tensors are made that have no memory."""
    return PRETENDED.get() is None and not any(p.is_meta for p in module.parameters())


def real_tensors() -> AbstractContextManager[Any]:
    """A block in which new tensors have memory, whatever is pretended around it."""
    real = PRETENDED.get()
    return nullcontext() if real is None else real()


def read_tensors(path: Path) -> dict[str, Tensor]:
    """A safetensors file. FlowgenError: it cannot be read."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except FileNotFoundError:
        raise FlowgenError(f"{path} is missing; use another checkpoint") from None
    except (SafetensorError, OSError) as error:
        raise FlowgenError(f"cannot read {path}: {error}; the file is damaged, use another checkpoint") from None


def write_tensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    with replacing(path) as temporary:
        try:
            save_file({name: t.detach().cpu().contiguous() for name, t in tensors.items()}, temporary)
        except SafetensorError as error:  # how it reports a full disk
            raise FlowgenError(f"cannot write {path}: {error}; choose another place or make room") from error


_REAL = {torch.float32, torch.bfloat16, torch.float16}


def load_strictly(module: nn.Module, tensors: Mapping[str, Tensor], source: Path) -> None:
    """Load tensors into a module of exactly these names, shapes and kinds of numbers. FlowgenError says what differs.

    Real numbers may be of half precision in the file; anything else is of the type that the module has.
    """
    own = module.state_dict()
    missing, unexpected = sorted(own.keys() - tensors.keys()), sorted(tensors.keys() - own.keys())
    shapes = [
        f"{k} is {tuple(tensors[k].shape)}, not {tuple(own[k].shape)}"
        for k in own.keys() & tensors.keys()
        if own[k].shape != tensors[k].shape
    ]
    kinds = [
        f"{k} is {tensors[k].dtype}, not {own[k].dtype}".replace("torch.", "")
        for k in own.keys() & tensors.keys()
        if own[k].dtype != tensors[k].dtype and not {own[k].dtype, tensors[k].dtype} <= _REAL
    ]
    if missing or unexpected or shapes or kinds:
        parts = [
            f"{len(own.keys() & tensors.keys()) - len(shapes)} of {len(own)} tensors match",
            *([f"missing: {_some(missing)}"] if missing else []),
            *([f"unexpected: {_some(unexpected)}"] if unexpected else []),
            *([f"other shapes: {_some(sorted(shapes))}"] if shapes else []),
            *([f"other types: {_some(sorted(kinds))}"] if kinds else []),
        ]
        raise FlowgenError(f"the weights in {source} do not fit {type(module).__name__}: {'; '.join(parts)}")
    module.load_state_dict(dict(tensors))


def load_allowing(
    module: nn.Module, tensors: Mapping[str, Tensor], source: Path, allow: Sequence[str], new: Sequence[str] = ()
) -> str:
    """Load tensors into a module; those whose names match a pattern of `allow` may be missing, unexpected or of another shape.

    Those that match a pattern of `new` may be missing, all of them together.
    Returns what matched and what did not. FlowgenError: something else differs, or a pattern matches nothing that does.
    """
    own = module.state_dict()
    differing = {
        "missing": own.keys() - tensors.keys(),
        "unexpected": tensors.keys() - own.keys(),
        "of another shape": {k for k in own.keys() & tensors.keys() if own[k].shape != tensors[k].shape},
    }
    every = set().union(*differing.values())
    for pattern in allow:
        if not fnmatch.filter(every, pattern):
            raise UsageError(
                f"--allow {pattern!r} matches nothing that differs between {source} and the network; leave it out"
            )
    let = {name for pattern in allow for name in fnmatch.filter(every, pattern)}
    for pattern in new:
        own_new = set(fnmatch.filter(own, pattern))
        let |= own_new if own_new <= differing["missing"] else set()
    kept = {k: v for k, v in own.items() if k in let}
    load_strictly(module, {**{k: v for k, v in tensors.items() if k not in let}, **kept}, source)
    report = [f"{len(own) - len(kept)} of {len(own)} tensors match" if every else f"all {len(own)} tensors match"]
    report += [f"{what}: {_some(sorted(names))}" for what, names in differing.items() if names]
    return "; ".join(report)


def _some(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")

"""This process among those of a run, and the small messages between them."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from flowgen.errors import FlowgenError, UsageError


@dataclass(frozen=True)
class Ranks:
    """This process among those of the run."""

    rank: int
    count: int
    device: torch.device
    control: Any = None
    """A group for small messages between hosts; None: the group of everything."""
    sharing: int = 1
    """Ranks that hold the same clips, a part of their tokens each; those of one group follow each other."""

    @property
    def first(self) -> bool:
        return self.rank == 0


def reduce(value: Tensor, ranks: Ranks, how: str = "sum") -> Tensor:
    """All-reduce a small tensor on the host: "sum", "max" or "min"."""
    if ranks.count > 1:
        op = {
            "sum": torch.distributed.ReduceOp.SUM,
            "max": torch.distributed.ReduceOp.MAX,
            "min": torch.distributed.ReduceOp.MIN,
        }
        torch.distributed.all_reduce(value, op=op[how], group=ranks.control)
    return value


def gather_objects(value: Any, ranks: Ranks) -> list[Any]:
    """The values of all ranks, in their order, on all of them."""
    if ranks.count == 1:
        return [value]
    values: list[Any] = [None] * ranks.count
    torch.distributed.all_gather_object(values, value, group=ranks.control)
    return values


def share(value: Any, ranks: Ranks) -> Any:
    """The first rank's value, on all of them."""
    if ranks.count > 1:
        values = [value]
        torch.distributed.broadcast_object_list(values, src=0, group=ranks.control)
        value = values[0]
    return value


def agree(ranks: Ranks, error: FlowgenError | None) -> None:
    """Raise on all ranks what went wrong on any, so that none is left waiting. Also a barrier."""
    if ranks.count == 1:
        if error is not None:
            raise error
        return
    for found in gather_objects(None if error is None else (type(error).__name__, str(error)), ranks):
        if found is not None:
            kind = UsageError if found[0] == "UsageError" else FlowgenError
            raise kind(found[1]) from error


@contextmanager
def together(ranks: Ranks) -> Iterator[None]:
    """A block that the ranks leave together, or with the same FlowgenError."""
    error: FlowgenError | None = None
    try:
        yield
    except FlowgenError as caught:
        error = caught
    agree(ranks, error)


_LOST = re.compile(r"gloo|NCCL|[Cc]onnection (was )?(closed|reset|refused)|Timed out waiting|Broken pipe|TCPStore")


@contextmanager
def lost_ranks_named(ranks: Ranks) -> Iterator[None]:
    """A block in which a rank that cannot be reached any more is a FlowgenError: its node is cut off, or its process has ended.

    torch raises a RuntimeError out of whichever collective waits for it, also out of those of DeepSpeed: at once where a
    connection was closed, after `train.timeout_s` where nothing comes.
    """
    try:
        yield
    except RuntimeError as error:
        if ranks.count == 1 or not (isinstance(error, torch.distributed.DistError) or _LOST.search(str(error))):
            raise
        (first, *_) = str(error).splitlines() or [""]
        reason = re.sub(r"^\[\S*\] *", "", first)  # where in the sources
        raise FlowgenError(
            f"rank {ranks.rank} of {ranks.count} (process {os.getpid()} on {socket.gethostname()}) has lost another rank "
            f"({reason[:160]}): its process has ended or its node cannot be reached. Go on from the newest checkpoint with --resume"
        ) from error

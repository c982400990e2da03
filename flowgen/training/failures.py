"""Clips that cannot be decoded, counted over all ranks: all go on together, or stop at the same step with the same words."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from flowgen.errors import FlowgenError
from flowgen.media.clip import Clip
from flowgen.media.interfaces import Dataset, ReplacesFailed
from flowgen.training.ranks import Ranks, agree, gather_objects, reduce


def counted(data: Iterator[list[Clip]], dataset: Dataset, ranks: Ranks) -> Iterator[list[Clip]]:
    """The micro-batches of this rank, after what failed in those of all ranks is counted. FlowgenError, on all ranks alike: a
    rank has no batch, or too much failed.

    It costs one small message a micro-batch, and more only where something failed.
    """
    while True:
        error: FlowgenError | None = None
        clips: list[Clip] = []
        try:
            clips = next(data)
        except FlowgenError as caught:
            error = caught
        failed = [pair for clip in clips for pair in clip.instead_of]
        if int(reduce(torch.tensor([bool(failed or error)], dtype=torch.int64), ranks, "max")):
            agree(ranks, error)
            _count(dict(failed), dataset, ranks)
        yield clips


def _count(failed: dict[str, str], dataset: Dataset, ranks: Ranks) -> None:
    """Count what failed on any rank, in the order of the ranks, on all of them; the first rank names it."""
    if not isinstance(dataset, ReplacesFailed):
        return
    everywhere: dict[str, str] = {}
    for known, new in gather_objects((dict(dataset.failed), failed), ranks):
        everywhere |= {**known, **new, **everywhere}
    dataset.count_failed(everywhere, say=ranks.first)

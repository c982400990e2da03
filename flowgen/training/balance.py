"""The balance of streams in training: moving averages of their losses, the same on all ranks and after a resume."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from flowgen.core.interfaces import Loss, LossOutput, LossWithBalance
from flowgen.core.losses.balance import StreamAverages
from flowgen.media.streams import Spec, StreamSpec
from flowgen.training.ranks import Ranks, reduce


class Balance:
    """What a loss that balances its streams is shown, moved once a step; of any other loss, nothing.

    The averages of a step are those of the steps before it, in all of its micro-batches and on all ranks: the loss curve
    does not depend on how a batch is divided.
    """

    def __init__(self, loss: Loss, spec: Spec, ranks: Ranks) -> None:
        decay = loss.balance if isinstance(loss, LossWithBalance) else None
        self.ranks = ranks
        self._averages = None if decay is None else StreamAverages(decay)
        self._streams: Sequence[str] = () if isinstance(spec, StreamSpec) else tuple(spec)
        self._seen: list[Tensor] = []

    def shown(self, n: int) -> dict[str, Any]:
        """What the loss is given beside the conditions of n clips."""
        return {} if self._averages is None else self._averages.shown(n, self.ranks.device)

    def add(self, output: LossOutput) -> None:
        """The losses of a micro-batch; they stay on their device until the step is done."""
        if self._averages is None:
            return
        each = torch.stack([output.by_stream[name].detach().float() for name in self._streams])
        self._seen.append(torch.stack([each.nansum(1), (~each.isnan()).sum(1).float()]))

    def step(self, skipped: bool) -> None:
        """Move the averages by the mean losses of the step over all ranks; a skipped step moves none. All ranks must call it."""
        if self._averages is None:
            return
        sums = torch.stack(self._seen).cpu().double().sum(0)
        self._seen = []
        if not skipped:  # on all ranks, or on none
            total, count = reduce(sums, self.ranks).tolist()
            there = zip(self._streams, total, count, strict=True)
            self._averages.update({name: of_all / n for name, of_all, n in there if n})

    def figures(self) -> dict[str, float]:
        """For the log: by what the loss of each stream is divided."""
        values = {} if self._averages is None else self._averages.values
        return {f"loss_average/{name}": value for name, value in values.items()}

    def state(self) -> dict[str, list[float]] | None:
        return None if self._averages is None else self._averages.state()

    def load(self, state: Mapping[str, list[float]] | None) -> None:
        if self._averages is not None:
            self._averages.load(state or {})

"""Training clips as metrics see them: one pool, so that a copy of a training clip is a copy for each of them."""

from __future__ import annotations

from flowgen.core.random import seed_of
from flowgen.data.loader import Order
from flowgen.media.clip import Clip
from flowgen.media.interfaces import Dataset


def training_clips(dataset: Dataset, n: int) -> list[Clip]:
    """At most n clips of a data set, the same ones every time, of n clips the first ones of more."""
    order = Order(0, len(dataset))
    chosen = [order[i].index for i in range(min(n, len(dataset)))]
    return [dataset.clip(index, seed_of(0, "metric", index)) for index in chosen]

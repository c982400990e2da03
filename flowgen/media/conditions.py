"""Conditions: from what a person asks for to what a network takes.

A conditioner turns raw values (a class name, a number, a sentence) into batch-first tensors, and knows its null value.
How the tensors enter a network is the network's affair (`flowgen.nn.ConditionEmbedding`). Conditioners are frozen
dataclasses of plain values, so a run folder describes them completely.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from flowgen.core.ranges import Count, Real
from flowgen.core.tree import concat, tree_map
from flowgen.errors import UsageError, unknown


class Conditioner(Protocol):
    role: Literal["vector", "sequence"]
    """Whether it describes a clip as a whole (adaptive norm) or token by token (cross-attention)."""

    def encode(self, value: Any) -> Any:
        """One raw value as a tensor (or a tree of tensors) without batch dimension. UsageError: not a value of this condition."""

    def null(self) -> Any:
        """The same structure for 'not given'."""

    def describe(self) -> str:
        """The values it takes, in a few words."""


@dataclass(frozen=True)
class ClassCondition:
    """One of a fixed list of names, as an index; the null value is the index after the last."""

    names: tuple[str, ...]
    role = "vector"

    def encode(self, value: Any) -> Tensor:
        name = str(value)
        if name not in self.names:
            raise UsageError(unknown("value", name, self.names))
        return torch.tensor(self.names.index(name))

    def null(self) -> Tensor:
        return torch.tensor(len(self.names))

    def describe(self) -> str:
        return f"one of {', '.join(self.names)}"


@dataclass(frozen=True)
class NumberCondition:
    """A number in [low, high], scaled to [-1, 1], linearly or in its logarithm; the null value is not-a-number.

    `seconds`: it is the length of the clip. A sample is as long as its condition says, and a length asked for otherwise is
    also passed to the network.
    """

    low: Real
    high: Real
    log: bool = False
    seconds: bool = False
    role = "vector"

    def __post_init__(self) -> None:
        if not self.low < self.high or (self.log and self.low <= 0):
            raise ValueError(f"expected low < high (and low > 0 with log), got [{self.low}, {self.high}]")

    def encode(self, value: Any) -> Tensor:
        try:
            number = float(value)
        except (TypeError, ValueError):
            raise UsageError(f"expected a number in [{self.low:g}, {self.high:g}], got {value!r}") from None
        if not self.low <= number <= self.high:
            raise UsageError(f"{number:g} lies outside [{self.low:g}, {self.high:g}]")
        low, high, number = (math.log(v) if self.log else v for v in (self.low, self.high, number))
        return torch.tensor(2 * (number - low) / (high - low) - 1, dtype=torch.float32)

    def null(self) -> Tensor:
        return torch.tensor(math.nan)

    def describe(self) -> str:
        return f"a number from {self.low:g} to {self.high:g}"


@dataclass(frozen=True)
class TextCondition:
    """A sentence as UTF-8 bytes plus one, zero-padded to `max_bytes`; the null value is all zeros."""

    max_bytes: Count = 64
    role = "sequence"

    def encode(self, value: Any) -> Tensor:
        data = str(value).encode()
        if len(data) > self.max_bytes:
            raise UsageError(f"text of {len(data)} bytes is longer than max_bytes={self.max_bytes}: {value!r}")
        out = torch.zeros(self.max_bytes, dtype=torch.long)
        out[: len(data)] = torch.tensor(list(data), dtype=torch.long) + 1
        return out

    def null(self) -> Tensor:
        return torch.zeros(self.max_bytes, dtype=torch.long)

    def describe(self) -> str:
        return f"text of at most {self.max_bytes} bytes"


def encode_conditions(conditioners: Mapping[str, Conditioner], values: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Batch raw values, one mapping a sample, into [B, ...] tensors by name; a condition that is absent is null.

    Raises UsageError for a condition or value that is not known.
    """
    for given in values:
        for name in given:
            if name not in conditioners:
                raise UsageError(unknown("condition", name, conditioners))
    return {name: _column(name, c, [given.get(name) for given in values]) for name, c in conditioners.items()}


def told_lengths(
    conditioners: Mapping[str, Conditioner], values: Sequence[Mapping[str, Any]], seconds: float | Sequence[float]
) -> list[dict[str, Any]]:
    """Raw values with the length of each clip told to the conditions that say it, where it is not given.

    A length beyond their range is not told: the network has no word for it. UsageError: another length is given.
    """
    own: dict[str, Any] = {n: c for n, c in conditioners.items() if isinstance(c, NumberCondition) and c.seconds}
    each = [seconds] * len(values) if isinstance(seconds, (int, float)) else seconds
    told = []
    for given, length in zip(values, each, strict=True):
        row = dict(given)
        for name, c in own.items():
            if row.get(name) is None and c.low <= length <= c.high:
                row[name] = length
            elif row.get(name) is not None:
                c.encode(row[name])
                if abs(float(row[name]) - length) > 0.01:
                    raise UsageError(
                        f"the condition {name!r} is {row[name]} and the clips are to be {length:g} s long; give one of them"
                    )
        told.append(row)
    return told


def text_conditions(conditioners: Mapping[str, Conditioner]) -> list[str]:
    """The names of those whose values are sentences."""
    from flowgen.media.interfaces import ReadsText

    return [n for n, c in conditioners.items() if (c.is_text if isinstance(c, ReadsText) else c.role == "sequence")]


def asked_lengths(
    conditioners: Mapping[str, Conditioner], values: Sequence[Mapping[str, Any]]
) -> list[float | None] | None:
    """The length in seconds that raw values ask of each clip, by the condition that says it; None where none says it."""
    names = [n for n, c in conditioners.items() if isinstance(c, NumberCondition) and c.seconds]
    given = [next((row[n] for n in names if row.get(n) is not None), None) for row in values]
    return [None if v is None else float(v) for v in given] if any(v is not None for v in given) else None


def null_conditions(conditioners: Mapping[str, Conditioner], n: int) -> dict[str, Any]:
    """What a network takes for 'nothing given', [n, ...] by name."""
    return {name: _stack([c.null()] * n) for name, c in conditioners.items()}


def drop_conditions(cond: dict[str, Any], null: Mapping[str, Any], dropped: Mapping[str, Tensor]) -> dict[str, Any]:
    """Replace conditions by their null value where `dropped[name]` (bool [B]) says so."""

    def leaf(value: Tensor, null: Tensor, drop: Tensor) -> Tensor:
        return torch.where(drop.reshape(-1, *[1] * (value.ndim - 1)), null, value)

    return {k: tree_map(leaf, v, null[k], dropped[k]) if k in dropped else v for k, v in cond.items()}


def _column(name: str, conditioner: Conditioner, values: list[Any]) -> Any:
    """Values of one condition, batched; a value that many samples share is encoded once."""
    try:
        places = {key: i for i, key in enumerate(dict.fromkeys((type(v), v) for v in values))}
    except TypeError:  # a value that cannot be hashed, such as a list
        return _stack([_encode(name, conditioner, value) for value in values])
    table = _stack([_encode(name, conditioner, value) for _, value in places])
    if len(places) == len(values):
        return table
    index = torch.tensor([places[type(v), v] for v in values])
    return tree_map(lambda t: t[index], table)


def _encode(name: str, conditioner: Conditioner, value: Any) -> Any:
    if value is None:
        return conditioner.null()
    try:
        return conditioner.encode(value)
    except UsageError as error:
        raise UsageError(f"condition {name!r}: {error}") from None


def _stack(values: list[Any]) -> Any:
    return concat([tree_map(lambda v: v[None], value) for value in values])

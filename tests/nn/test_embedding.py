"""Times and conditions reach a network as they should, nulls and strangers included."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from flowgen.media.conditions import ClassCondition, NumberCondition, TextCondition, encode_conditions, null_conditions
from flowgen.nn import ConditionEmbedding, CrossAttention, TimeEmbedding


def test_times_near_the_end_are_told_apart_under_autocast() -> None:
    embed = TimeEmbedding(16)
    t = torch.tensor([0.999, 1.0])
    with torch.autocast("cpu", torch.bfloat16):
        out = embed(t)
    assert out.dtype == torch.float32
    torch.testing.assert_close(out, embed(t))
    assert (out[0] - out[1]).abs().max() > 1e-3


def test_vectors_are_summed_and_sequences_strung_together() -> None:
    conditions = {
        "kind": ClassCondition(("a",)),
        "n": NumberCondition(0, 1),
        "x": TextCondition(5),
        "y": TextCondition(3),
    }
    embed = ConditionEmbedding(conditions, 16)
    cond = encode_conditions(conditions, [{"kind": "a", "n": 0.5, "x": "ab", "y": "c"}, {}])
    out = embed(cond)
    assert out.vector is not None
    assert out.mask is not None
    torch.testing.assert_close(out.vector, embed.embedders["kind"](cond["kind"]) + embed.embedders["n"](cond["n"]))
    assert out.mask.tolist() == [[True, True, False, False, False, True, False, False], [False] * 8]


def test_the_null_number_is_a_vector_of_its_own_and_its_gradient_is_clean() -> None:
    embed = ConditionEmbedding({"n": NumberCondition(0, 1)}, 16)
    value = torch.tensor([math.nan, 0.0])
    vector = embed({"n": value}).vector
    assert vector is not None
    assert (vector[0] - vector[1]).abs().max() > 1e-3
    vector.sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() and p.grad.any() for p in embed.parameters())


def test_the_bytes_after_a_text_change_nothing() -> None:
    """A text means the same under a longer max_bytes' padding."""
    condition = TextCondition(12)
    embed = ConditionEmbedding({"x": condition}, 16)
    long = condition.encode("abc")[None]
    a, b = embed({"x": long}), embed({"x": long[:, :5]})
    assert a.sequence is not None
    assert b.sequence is not None
    torch.testing.assert_close(a.sequence[:, :3], b.sequence[:, :3])


def test_cross_attention_ignores_padding_and_survives_no_text() -> None:
    attend = CrossAttention(16, 2)
    nn.init.normal_(attend.out.weight)
    x, sequence = torch.randn(2, 4, 16), torch.randn(2, 6, 16)
    mask = torch.tensor([[True] * 3 + [False] * 3, [False] * 6])
    out = attend(x, sequence, mask)
    assert out.isfinite().all()
    garbage = torch.where(mask[..., None], sequence, 1e4)
    torch.testing.assert_close(attend(x, garbage, mask), out)
    torch.testing.assert_close(attend(x[:1], sequence[:1, :3], mask[:1, :3]), out[:1])
    assert (out[1] - out[1, :1]).abs().max() < 1e-6  # nothing said: every token hears the same


class Loudness:
    """A stranger's condition with an embedder of its own."""

    role = "vector"

    def encode(self, value: object) -> Tensor:
        return torch.tensor([float(str(value)), 1.0])

    def null(self) -> Tensor:
        return torch.zeros(2)

    def describe(self) -> str:
        return "a number"

    def embedder(self, width: int) -> nn.Module:
        return nn.Linear(2, width)


def test_a_strangers_conditioner_brings_its_own_embedder() -> None:
    conditions = {"loudness": Loudness()}
    embed = ConditionEmbedding(conditions, 8)  # type: ignore[arg-type]
    vector = embed(null_conditions(conditions, 3)).vector  # type: ignore[arg-type]
    assert vector is not None
    assert vector.shape == (3, 8)


def test_a_conditioner_without_one_is_refused_by_name() -> None:
    class Bare:
        role = "vector"

    with pytest.raises(ValueError, match="'odd': Bare has no embedder"):
        ConditionEmbedding({"odd": Bare()}, 8)  # type: ignore[dict-item]

"""Rotary positions mean physical places."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from flowgen.media.streams import Axis
from flowgen.nn.positions import Positions, rotate


def phase(positions: Positions, grid: tuple[int, ...]) -> Tensor:
    return positions(grid).squeeze((1, 2))  # [tokens, pairs, 2]


def test_attention_sees_only_how_far_apart_two_tokens_are() -> None:
    positions = Positions((Axis("time", 16, 5.0), Axis("height", 4)), (1, 1), pairs=8)
    table = positions((16, 4))
    q, k = (rotate(torch.randn(16).expand(1, 64, 1, 1, 16), table).reshape(64, 16) for _ in range(2))
    scores = (q @ k.T).reshape(16, 4, 16, 4)
    assert (scores[3, 1, 7, 2] - scores[10, 2, 14, 3]).abs() < 1e-4
    assert (scores[3, 1, 7, 2] - scores[3, 1, 8, 2]).abs() > 1e-3
    assert (scores[3, 1, 7, 2] - scores[3, 1, 7, 3]).abs() > 1e-3


def test_rotation_keeps_lengths_and_agrees_with_its_compiled_form(monkeypatch: pytest.MonkeyPatch) -> None:
    table = Positions((Axis("time", 6, 2.0),), (1,), pairs=4)((6,))
    x = torch.randn(2, 6, 2, 3, 8)
    turned = rotate(x, table)
    torch.testing.assert_close(turned.norm(dim=-1), x.norm(dim=-1))
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    torch.testing.assert_close(rotate(x, table), turned)


def test_time_is_in_seconds() -> None:
    slow = Positions((Axis("time", 8, 4.0),), (1,), pairs=6)
    fast = Positions((Axis("time", 16, 8.0),), (1,), pairs=6)
    fast.load_state_dict(slow.state_dict())  # a fine-tune at twice the rate keeps the meaning of an angle
    # the centres of two fast steps average to that of the slow one: angles are linear in seconds
    angle = [torch.view_as_complex(phase(p, (n,)).contiguous()).log().imag for p, n in ((slow, 8), (fast, 16))]
    torch.testing.assert_close(angle[0][:2, -1], angle[1][:4, -1].reshape(2, 2).mean(1))
    # a longer clip begins as the shorter one does
    torch.testing.assert_close(phase(slow, (20,))[:8], phase(slow, (8,)))


def test_space_is_a_fraction_of_the_frame() -> None:
    positions = Positions((Axis("height", 8),), (1,), pairs=4)
    small, large = phase(positions, (4,)), phase(positions, (12,))
    torch.testing.assert_close(small, large[1::3])  # the middle third of each coarse step


def test_patches_are_placed_by_their_centres() -> None:
    fine, coarse = (Positions((Axis("time", 8, 2.0),), (p,), pairs=4) for p in (1, 2))
    coarse.load_state_dict(fine.state_dict())
    a, b = (torch.view_as_complex(phase(p, (n,)).contiguous()).log().imag[:, -1] for p, n in ((fine, 8), (coarse, 4)))
    torch.testing.assert_close(a.reshape(4, 2).mean(1), b)


def test_tables_are_remembered_but_not_stored() -> None:
    positions = Positions((Axis("time", 8, 2.0),), (1,), pairs=4)
    assert positions((8,)) is positions((8,))
    assert list(positions.state_dict()) == ["frequencies"]
    for n in range(1, 100):
        positions((n,))
    assert len(positions._tables) <= 32


def test_a_head_too_small_for_its_axes_is_refused() -> None:
    with pytest.raises(ValueError, match="fewer pairs than the 3 axes"):
        Positions((Axis("a", 2), Axis("b", 2), Axis("c", 2)), (1, 1, 1), pairs=2)

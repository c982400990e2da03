"""What losses of flow maps share: the times t <= s of a jump, and the times of given positions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from flowgen.core.flow_map import jvp
from flowgen.core.interfaces import MASK, Cond, Times
from flowgen.core.random import Randomness
from flowgen.core.times import Shift, row_factors, shift
from flowgen.core.tree import State, left, lincomb, tree_map


def span(
    a: Tensor,
    x1: State,
    cond: Cond,
    random: Randomness,
    times: Times,
    warp: Shift,
    *,
    still: float,
    from_noise: float = 0.0,
    to_end: float = 0.0,
    end: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """t <= s <= end of each sample [B]: `a` and another time of the same distribution, in order.

    Of shares of the samples t is 0 (`from_noise`), s is `end` (`to_end`), and t is s (`still`). Where uniform draws are
    pinned, for a validation loss, jumps go from noise to `a`.
    """
    if random.quantile is not None:
        return torch.zeros_like(a), a.clamp(max=end)
    b = shift(times(random.uniform("end times")), row_factors(warp, x1, cond.get(MASK))).to(a)
    t, s = torch.minimum(a, b), torch.maximum(a, b)
    first, last, same = (random.uniform(purpose).to(a) for purpose in ("from noise", "to end", "still"))
    s = torch.where(last < to_end, end, s.clamp(max=end))
    t = torch.where(first < from_noise, 0.0, torch.minimum(t, s))
    return torch.where(same < still, s, t), s


def held(t: Tensor, known: State | None) -> Any:
    """The time of each position: that of its sample, and 1 where it is given."""
    return t if known is None else tree_map(lambda k: torch.where(k, 1.0, left(t, k)), known)


def unmoved(v: State, known: State | None) -> State:
    """A velocity, 0 where positions are given."""
    return v if known is None else tree_map(lambda v, k: torch.where(left(k, v), 0.0, v), v, known)


def unpadded(x: State, mask: State | None) -> State:
    """A state that is 0 where its positions are padding, which another run is not to see."""
    return x if mask is None else tree_map(lambda x, m: torch.where(left(m, x), x, 0.0), x, mask)


def distance(t: Any, s: Any) -> Any:
    """s - t, of times or trees of them."""
    return tree_map(lambda s, t: s - t, s, t)


def along_end(at: Callable[[Tensor], State], t: Tensor, s: Tensor, epsilon: float | None) -> tuple[State, State]:
    """at(s), and its derivative in s [B]: by forward differentiation, or with `epsilon` by a difference within [t, s + epsilon],
    the value then being the mean of its two ends (of samples that stand still, the value itself and a derivative of 0).
    """
    if epsilon is None:
        return jvp(at, (s,), (torch.ones_like(s),))
    e = torch.where(s == t, 0.0, epsilon)
    above, below = s + e, torch.maximum(s - e, t)
    after, before = at(above), at(below)
    width = torch.where(s == t, 1.0, above - below)
    return lincomb((0.5, after), (0.5, before)), lincomb((1 / width, after), (-1 / width, before))

"""Level and place of a recording: the gain that it is played at, and where it sets in."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from flowgen.data.shards import Source
from flowgen_audio.media import read_samples
from flowgen_audio.survey import scale_of

_HIGHEST_PEAK = 0.99
_HOP_S, _BEFORE_S, _SEARCHED_S = 0.01, 0.02, 600.0


def gain_of(facts: Mapping[str, Any], target: float | None) -> float:
    """The factor for a recording: to `target` LUFS, or as near as its peaks allow without clipping; without a target 1,
    and less where it is louder than full scale."""
    scale = scale_of(facts["peak"])
    peak = max(facts["peak"] * scale, 1e-9)
    if target is None:
        return scale / max(peak, 1.0)
    loudness = facts["loudness"] + 20 * math.log10(scale)
    return scale * min(10 ** ((target - loudness) / 20), _HIGHEST_PEAK / peak)


def onset(path: Source, start_s: float, duration_s: float) -> float:
    """Seconds from `start_s` to shortly before the largest rise of power, over hops of 10 ms of the first ten minutes."""
    samples, rate = read_samples(path, start_s, min(duration_s, _SEARCHED_S))
    hop = max(1, round(_HOP_S * rate))
    power = samples.square().mean(0)
    hops = power[: len(power) // hop * hop].reshape(-1, hop).mean(1)
    if len(hops) < 2:
        return 0.0
    rises = hops.diff(prepend=hops.new_zeros(1))
    return max(0.0, int(rises.argmax()) * hop / rate - _BEFORE_S)

"""Settings that change nothing, and are said to."""

from __future__ import annotations

import warnings
from typing import Any

from torch import Tensor

from flowgen.core.guidance import Guided
from flowgen.core.interfaces import Solver
from flowgen.core.sampler import evaluation_times


def warn_idle_guidance(flow: Any, grid: Tensor, solver: Solver) -> None:
    """Say that a guidance lies in an interval of t in which this solver asks nothing on this grid."""
    times: list[float] | None = None
    while isinstance(flow, Guided):
        if times is None:
            times = evaluation_times(flow, grid, solver)
        if not any(flow.start <= t <= flow.end for t in times):
            warnings.warn(
                f"the guidance changes nothing: it acts from t = {flow.start:g} to {flow.end:g}, and all evaluations are at "
                f"t = {', '.join(f'{t:.3g}' for t in dict.fromkeys(times))}; set its start to 0, or take more steps",
                stacklevel=2,
            )
        flow = flow.flow

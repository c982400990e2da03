"""flowgen: train and sample audio and video generators with flow matching.

The mathematics is importable on its own, with torch and einops alone:

    import flowgen
    loss = flowgen.FlowMatching(path=flowgen.Linear())
    x1 = flowgen.sample(flowgen.NetworkFlow(network, flowgen.Linear()), x0, flowgen.uniform_grid(16))

Names load on first use, so that importing the package costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOME = {
    "Linear": "paths",
    "CondOT": "paths",
    "Estimate": "estimate",
    "NetworkFlow": "flow",
    "Flow": "flow",
    "FlowMatching": "losses",
    "Uniform": "times",
    "LogitNormal": "times",
    "uniform_grid": "times",
    "Independent": "couplings",
    "CFG": "guidance",
    "Euler": "solvers",
    "Midpoint": "solvers",
    "Heun": "solvers",
    "RK4": "solvers",
    "DPMSolverPP2M": "solvers",
    "sample": "sampler",
    "Randomness": "random",
    "Clip": "clip",
    "Encoder": "encoder",
    "Latents": "encoder",
    "StreamSpec": "streams",
    "Axis": "streams",
    "Component": "plugins",
    "hookimpl": "plugins",
    "FlowgenError": "errors",
    "UsageError": "errors",
}
__all__ = sorted(_HOME)

if TYPE_CHECKING:
    from flowgen.clip import Clip as Clip


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'flowgen' has no attribute {name!r}")
    return getattr(import_module(f"flowgen.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return __all__

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
    "Cosine": "paths",
    "VP": "paths",
    "VE": "paths",
    "AffinePath": "paths",
    "Estimate": "estimate",
    "Flow": "flow",
    "NetworkFlow": "flow",
    "OnPath": "flow",
    "FlowMatching": "losses",
    "EDM": "losses",
    "Uncertainty": "losses",
    "Likelihood": "losses",
    "ddpm": "losses",
    "score_matching": "losses",
    "rectified_flow": "losses",
    "Uniform": "times",
    "LogitNormal": "times",
    "Mode": "times",
    "TokenShift": "times",
    "uniform_grid": "times",
    "eased_grid": "times",
    "karras_grid": "times",
    "explicit_grid": "times",
    "Independent": "couplings",
    "OptimalTransport": "couplings",
    "Sinkhorn": "couplings",
    "GivenPairs": "couplings",
    "CFG": "guidance",
    "MultiCFG": "guidance",
    "CFGZeroStar": "guidance",
    "CFGRescale": "guidance",
    "APG": "guidance",
    "AutoGuidance": "guidance",
    "Euler": "solvers",
    "Midpoint": "solvers",
    "Heun": "solvers",
    "Ralston": "solvers",
    "RK4": "solvers",
    "DormandPrince": "solvers",
    "AdamsBashforth": "solvers",
    "AdamsMoulton": "solvers",
    "DPMSolverPP2M": "solvers",
    "DPMSolverPP3M": "solvers",
    "UniPC": "solvers",
    "DDIM": "solvers",
    "NonStationary": "solvers",
    "EulerMaruyama": "solvers",
    "HeunSDE": "solvers",
    "Ancestral": "solvers",
    "DPMSolverPPSDE": "solvers",
    "Langevin": "solvers",
    "sample": "sampler",
    "encode": "sampler",
    "prior": "sampler",
    "Replaced": "editing",
    "vary": "editing",
    "between": "editing",
    "log_prob": "likelihood",
    "bits_per_dim": "likelihood",
    "rademacher": "likelihood",
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

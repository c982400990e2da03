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

__version__ = "0.2.0"

# each name stands twice: for type checkers, who see the real one, and by its home, from which it loads on first use
if TYPE_CHECKING:
    from flowgen.config import build as build
    from flowgen.core.betas import Betas as Betas
    from flowgen.core.couplings import GivenPairs as GivenPairs
    from flowgen.core.couplings import Independent as Independent
    from flowgen.core.couplings import OptimalTransport as OptimalTransport
    from flowgen.core.couplings import Sinkhorn as Sinkhorn
    from flowgen.core.editing import Replaced as Replaced
    from flowgen.core.editing import between as between
    from flowgen.core.editing import inverted as inverted
    from flowgen.core.editing import vary as vary
    from flowgen.core.estimate import Estimate as Estimate
    from flowgen.core.flow import NetworkFlow as NetworkFlow
    from flowgen.core.flow import OnPath as OnPath
    from flowgen.core.flow_map import MapFlow as MapFlow
    from flowgen.core.flow_map import NetworkFlowMap as NetworkFlowMap
    from flowgen.core.guidance import APG as APG
    from flowgen.core.guidance import CFG as CFG
    from flowgen.core.guidance import AutoGuidance as AutoGuidance
    from flowgen.core.guidance import CFGRescale as CFGRescale
    from flowgen.core.guidance import CFGZeroStar as CFGZeroStar
    from flowgen.core.guidance import CrossStream as CrossStream
    from flowgen.core.guidance import MultiCFG as MultiCFG
    from flowgen.core.inpainting import inpaint as inpaint
    from flowgen.core.interfaces import Coefficients as Coefficients
    from flowgen.core.interfaces import Coupling as Coupling
    from flowgen.core.interfaces import Flow as Flow
    from flowgen.core.interfaces import FlowMap as FlowMap
    from flowgen.core.interfaces import Guidance as Guidance
    from flowgen.core.interfaces import Loss as Loss
    from flowgen.core.interfaces import LossOutput as LossOutput
    from flowgen.core.interfaces import Path as Path
    from flowgen.core.interfaces import Solver as Solver
    from flowgen.core.interfaces import Times as Times
    from flowgen.core.likelihood import bits_per_dim as bits_per_dim
    from flowgen.core.likelihood import log_prob as log_prob
    from flowgen.core.likelihood import rademacher as rademacher
    from flowgen.core.losses import EDM as EDM
    from flowgen.core.losses import FlowMatching as FlowMatching
    from flowgen.core.losses import Likelihood as Likelihood
    from flowgen.core.losses import Uncertainty as Uncertainty
    from flowgen.core.losses import ddpm as ddpm
    from flowgen.core.losses import rectified_flow as rectified_flow
    from flowgen.core.losses import score_matching as score_matching
    from flowgen.core.paths import VE as VE
    from flowgen.core.paths import VP as VP
    from flowgen.core.paths import AffinePath as AffinePath
    from flowgen.core.paths import CondOT as CondOT
    from flowgen.core.paths import Cosine as Cosine
    from flowgen.core.paths import Linear as Linear
    from flowgen.core.random import Randomness as Randomness
    from flowgen.core.sampler import invert as invert
    from flowgen.core.sampler import prior as prior
    from flowgen.core.sampler import sample as sample
    from flowgen.core.solvers import DDIM as DDIM
    from flowgen.core.solvers import RK4 as RK4
    from flowgen.core.solvers import AdamsBashforth as AdamsBashforth
    from flowgen.core.solvers import AdamsMoulton as AdamsMoulton
    from flowgen.core.solvers import Ancestral as Ancestral
    from flowgen.core.solvers import BrownianBridge as BrownianBridge
    from flowgen.core.solvers import DormandPrince as DormandPrince
    from flowgen.core.solvers import DPMSolverPP2M as DPMSolverPP2M
    from flowgen.core.solvers import DPMSolverPP3M as DPMSolverPP3M
    from flowgen.core.solvers import DPMSolverPPSDE as DPMSolverPPSDE
    from flowgen.core.solvers import EDMChurn as EDMChurn
    from flowgen.core.solvers import Euler as Euler
    from flowgen.core.solvers import EulerMaruyama as EulerMaruyama
    from flowgen.core.solvers import FlowMapSolver as FlowMapSolver
    from flowgen.core.solvers import Heun as Heun
    from flowgen.core.solvers import HeunSDE as HeunSDE
    from flowgen.core.solvers import Langevin as Langevin
    from flowgen.core.solvers import Midpoint as Midpoint
    from flowgen.core.solvers import NonStationary as NonStationary
    from flowgen.core.solvers import Ralston as Ralston
    from flowgen.core.solvers import UniPC as UniPC
    from flowgen.core.straightness import straightness as straightness
    from flowgen.core.times import LogitNormal as LogitNormal
    from flowgen.core.times import Mode as Mode
    from flowgen.core.times import TokenShift as TokenShift
    from flowgen.core.times import Uniform as Uniform
    from flowgen.core.times import eased_grid as eased_grid
    from flowgen.core.times import explicit_grid as explicit_grid
    from flowgen.core.times import karras_grid as karras_grid
    from flowgen.core.times import uniform_grid as uniform_grid
    from flowgen.core.transports import SchroedingerBridge as SchroedingerBridge
    from flowgen.core.transports import Transport as Transport
    from flowgen.errors import FlowgenError as FlowgenError
    from flowgen.errors import UsageError as UsageError
    from flowgen.media.clip import Clip as Clip
    from flowgen.media.encoder import Encoder as Encoder
    from flowgen.media.encoder import Latents as Latents
    from flowgen.media.streams import Axis as Axis
    from flowgen.media.streams import StreamSpec as StreamSpec
    from flowgen.plugins import Component as Component
    from flowgen.plugins import hookimpl as hookimpl
    from flowgen.runs.experiment import Experiment as Experiment
    from flowgen.runs.generator import Generator as Generator
    from flowgen.runs.requests import Animate as Animate
    from flowgen.runs.requests import Continue as Continue
    from flowgen.runs.requests import FromClips as FromClips
    from flowgen.runs.requests import FromNoise as FromNoise
    from flowgen.runs.requests import FromStream as FromStream
    from flowgen.runs.requests import Inpaint as Inpaint
    from flowgen.runs.requests import Interpolate as Interpolate
    from flowgen.runs.requests import Long as Long
    from flowgen.runs.requests import SampleRequest as SampleRequest
    from flowgen.runs.requests import Vary as Vary

_HOME = {
    "Linear": "core.paths",
    "CondOT": "core.paths",
    "Cosine": "core.paths",
    "VP": "core.paths",
    "VE": "core.paths",
    "Betas": "core.betas",
    "AffinePath": "core.paths",
    "Estimate": "core.estimate",
    "Flow": "core.interfaces",
    "FlowMap": "core.interfaces",
    "MapFlow": "core.flow_map",
    "NetworkFlowMap": "core.flow_map",
    "NetworkFlow": "core.flow",
    "OnPath": "core.flow",
    "FlowMatching": "core.losses",
    "EDM": "core.losses",
    "Uncertainty": "core.losses",
    "Likelihood": "core.losses",
    "ddpm": "core.losses",
    "score_matching": "core.losses",
    "rectified_flow": "core.losses",
    "Uniform": "core.times",
    "LogitNormal": "core.times",
    "Mode": "core.times",
    "TokenShift": "core.times",
    "straightness": "core.straightness",
    "uniform_grid": "core.times",
    "eased_grid": "core.times",
    "karras_grid": "core.times",
    "explicit_grid": "core.times",
    "Independent": "core.couplings",
    "OptimalTransport": "core.couplings",
    "Sinkhorn": "core.couplings",
    "GivenPairs": "core.couplings",
    "Transport": "core.transports",
    "SchroedingerBridge": "core.transports",
    "CFG": "core.guidance",
    "MultiCFG": "core.guidance",
    "CFGZeroStar": "core.guidance",
    "CrossStream": "core.guidance",
    "CFGRescale": "core.guidance",
    "APG": "core.guidance",
    "AutoGuidance": "core.guidance",
    "EDMChurn": "core.solvers",
    "Euler": "core.solvers",
    "Midpoint": "core.solvers",
    "FlowMapSolver": "core.solvers",
    "Heun": "core.solvers",
    "Ralston": "core.solvers",
    "RK4": "core.solvers",
    "DormandPrince": "core.solvers",
    "AdamsBashforth": "core.solvers",
    "AdamsMoulton": "core.solvers",
    "DPMSolverPP2M": "core.solvers",
    "DPMSolverPP3M": "core.solvers",
    "UniPC": "core.solvers",
    "DDIM": "core.solvers",
    "NonStationary": "core.solvers",
    "EulerMaruyama": "core.solvers",
    "HeunSDE": "core.solvers",
    "Ancestral": "core.solvers",
    "BrownianBridge": "core.solvers",
    "DPMSolverPPSDE": "core.solvers",
    "Langevin": "core.solvers",
    "sample": "core.sampler",
    "invert": "core.sampler",
    "prior": "core.sampler",
    "Replaced": "core.editing",
    "inpaint": "core.inpainting",
    "vary": "core.editing",
    "between": "core.editing",
    "inverted": "core.editing",
    "log_prob": "core.likelihood",
    "bits_per_dim": "core.likelihood",
    "rademacher": "core.likelihood",
    "Randomness": "core.random",
    "Clip": "media.clip",
    "Encoder": "media.encoder",
    "Latents": "media.encoder",
    "StreamSpec": "media.streams",
    "Axis": "media.streams",
    "Component": "plugins",
    "hookimpl": "plugins",
    "FlowgenError": "errors",
    "UsageError": "errors",
    "Path": "core.interfaces",
    "Solver": "core.interfaces",
    "Loss": "core.interfaces",
    "Guidance": "core.interfaces",
    "Coupling": "core.interfaces",
    "Times": "core.interfaces",
    "Coefficients": "core.interfaces",
    "LossOutput": "core.interfaces",
    "build": "config",
    "Experiment": "runs.experiment",
    "Generator": "runs.generator",
    "Animate": "runs.requests",
    "Continue": "runs.requests",
    "FromClips": "runs.requests",
    "FromStream": "runs.requests",
    "FromNoise": "runs.requests",
    "Inpaint": "runs.requests",
    "Interpolate": "runs.requests",
    "Long": "runs.requests",
    "SampleRequest": "runs.requests",
    "Vary": "runs.requests",
}
__all__ = sorted(_HOME)


if not TYPE_CHECKING:  # type checkers know the names above, and find a misspelt one

    def __getattr__(name: str) -> Any:
        if name == "encode":
            raise AttributeError("flowgen.encode is flowgen.invert since flowgen 0.2")
        if name not in _HOME:
            raise AttributeError(f"module 'flowgen' has no attribute {name!r}")
        return getattr(import_module(f"flowgen.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return __all__

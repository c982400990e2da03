"""Solvers: one evaluation-counted step from t to s at a time. The loop is `flowgen.core.sampler`."""

from collections.abc import Callable

from flowgen.core.interfaces import Noise, Solver
from flowgen.core.solvers.adaptive import DormandPrince
from flowgen.core.solvers.churn import EDMChurn
from flowgen.core.solvers.jumps import FlowMapSolver
from flowgen.core.solvers.multistep import AdamsBashforth, AdamsMoulton, DPMSolverPP2M, DPMSolverPP3M, UniPC
from flowgen.core.solvers.ode import RK4, Euler, Heun, Midpoint, Ralston, RungeKutta, Tableau, TableRungeKutta
from flowgen.core.solvers.sde import DDIM, Ancestral, BrownianBridge, DPMSolverPPSDE, EulerMaruyama, HeunSDE, Langevin
from flowgen.core.solvers.table import NonStationary

NAMED: dict[str, Callable[[], Solver]] = {
    "euler": Euler,
    "midpoint": Midpoint,
    "heun": Heun,
    "ralston": Ralston,
    "rk4": RK4,
    "runge-kutta": TableRungeKutta,
    "dopri5": DormandPrince,
    "adams-bashforth": AdamsBashforth,
    "adams-moulton": AdamsMoulton,
    "dpm++2m": DPMSolverPP2M,
    "dpm++3m": DPMSolverPP3M,
    "unipc": UniPC,
    "ddim": DDIM,
    "euler-maruyama": EulerMaruyama,
    "heun-sde": HeunSDE,
    "edm-churn": EDMChurn,
    "ancestral": Ancestral,
    "dpm++sde": DPMSolverPPSDE,
    "flow-map": FlowMapSolver,
    "langevin": Langevin,
    "brownian-bridge": BrownianBridge,
}
"""The built-in solvers by their names in a config, with the options that they have by default."""


def named_solver(name: str) -> Solver:
    """A built-in solver by name. ValueError: there is none of that name."""
    if name not in NAMED:
        raise ValueError(
            f"no built-in solver is named {name!r}; there are {', '.join(NAMED)}, and flowgen.build('solver', "
            f"{name!r}) makes those of plugins"
        )
    return NAMED[name]()


__all__ = [
    "NAMED",
    "DDIM",
    "RK4",
    "AdamsBashforth",
    "AdamsMoulton",
    "Ancestral",
    "BrownianBridge",
    "DPMSolverPP2M",
    "DPMSolverPP3M",
    "DPMSolverPPSDE",
    "DormandPrince",
    "EDMChurn",
    "Euler",
    "EulerMaruyama",
    "FlowMapSolver",
    "Heun",
    "HeunSDE",
    "Langevin",
    "Midpoint",
    "Noise",
    "NonStationary",
    "Ralston",
    "RungeKutta",
    "Solver",
    "TableRungeKutta",
    "Tableau",
    "UniPC",
    "named_solver",
]

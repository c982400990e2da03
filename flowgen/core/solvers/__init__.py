"""Solvers: one evaluation-counted step from t to s at a time. The loop is `flowgen.core.sampler`."""

from flowgen.core.interfaces import Noise, Solver
from flowgen.core.solvers.adaptive import DormandPrince
from flowgen.core.solvers.churn import EDMChurn
from flowgen.core.solvers.jumps import FlowMapSolver
from flowgen.core.solvers.multistep import AdamsBashforth, AdamsMoulton, DPMSolverPP2M, DPMSolverPP3M, UniPC
from flowgen.core.solvers.ode import RK4, Euler, Heun, Midpoint, Ralston, RungeKutta, Tableau, TableRungeKutta
from flowgen.core.solvers.sde import DDIM, Ancestral, DPMSolverPPSDE, EulerMaruyama, HeunSDE, Langevin
from flowgen.core.solvers.table import NonStationary

__all__ = [
    "DDIM",
    "RK4",
    "AdamsBashforth",
    "AdamsMoulton",
    "Ancestral",
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
]

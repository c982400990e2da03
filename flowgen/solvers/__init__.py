"""Solvers: one evaluation-counted step from t to s at a time. The loop is `flowgen.sampler`."""

from flowgen.solvers.adaptive import DormandPrince
from flowgen.solvers.base import Noise, Solver
from flowgen.solvers.multistep import AdamsBashforth, AdamsMoulton, DPMSolverPP2M, DPMSolverPP3M, UniPC
from flowgen.solvers.ode import RK4, Euler, Heun, Midpoint, Ralston, RungeKutta, Tableau, TableRungeKutta
from flowgen.solvers.sde import DDIM, Ancestral, DPMSolverPPSDE, EulerMaruyama, HeunSDE, Langevin
from flowgen.solvers.table import NonStationary

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
    "Euler",
    "EulerMaruyama",
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

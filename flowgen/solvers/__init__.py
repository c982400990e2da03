"""Solvers: one evaluation-counted step from t to s at a time. The loop is `flowgen.sampler`."""

from flowgen.solvers.base import Noise, Solver
from flowgen.solvers.multistep import DPMSolverPP2M
from flowgen.solvers.ode import RK4, Euler, Heun, Midpoint, RungeKutta, Tableau

__all__ = ["RK4", "DPMSolverPP2M", "Euler", "Heun", "Midpoint", "Noise", "RungeKutta", "Solver", "Tableau"]

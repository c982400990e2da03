"""What flowgen itself brings, registered as a stranger's plugin would be."""

from __future__ import annotations

from flowgen.plugins.component import Component
from flowgen.plugins.hookspecs import hookimpl


@hookimpl
def flowgen_components() -> list[Component]:
    return [
        Component("path", "linear", "flowgen.paths:Linear", "alpha = t, sigma = 1 - t (rectified flow)"),
        Component("path", "cond-ot", "flowgen.paths:CondOT", "linear, with a noise floor sigma_min"),
        Component("times", "uniform", "flowgen.times:Uniform", "every time equally often"),
        Component("times", "logit-normal", "flowgen.times:LogitNormal", "mostly the middle of the path"),
        Component("coupling", "independent", "flowgen.couplings:Independent", "noise and data drawn independently"),
        Component("loss", "flow-matching", "flowgen.losses:FlowMatching", "regression on the conditional velocity"),
        Component("solver", "euler", "flowgen.solvers:Euler", "first order, 1 evaluation a step"),
        Component("solver", "midpoint", "flowgen.solvers:Midpoint", "second order, 2 evaluations a step"),
        Component("solver", "heun", "flowgen.solvers:Heun", "second order, 2 evaluations a step"),
        Component("solver", "rk4", "flowgen.solvers:RK4", "fourth order, 4 evaluations a step"),
        Component("solver", "dpm++2m", "flowgen.solvers:DPMSolverPP2M", "second order, 1 evaluation a step"),
        Component("guidance", "cfg", "flowgen.guidance:CFG", "classifier-free guidance in an interval of t"),
        Component("network", "transformer", "flowgen.nn:Transformer", "attention over any axes, full or factorised"),
        Component("network", "mlp", "flowgen.nn:MLP", "linear layers, for states without axes"),
        Component("conditioner", "class", "flowgen.conditions:ClassCondition", "one of a list of names"),
        Component("conditioner", "number", "flowgen.conditions:NumberCondition", "a number in a range"),
        Component("conditioner", "text", "flowgen.conditions:TextCondition", "a sentence, as bytes"),
        Component("region", "prefix", "flowgen.regions:Prefix", "the beginning is known (continuation)"),
        Component("region", "suffix", "flowgen.regions:Suffix", "the end is known"),
        Component("region", "ends", "flowgen.regions:Ends", "beginning and end are known (interpolation)"),
        Component("region", "gap", "flowgen.regions:Gap", "all but a gap is known (inpainting)"),
        Component("region", "outside", "flowgen.regions:Outside", "all but a box is known (spatial inpainting)"),
        Component("logger", "jsonl", "flowgen.training.loggers:JSONL", "figures as lines of log.jsonl"),
        Component("logger", "tensorboard", "flowgen.training.loggers:TensorBoard", "figures for TensorBoard"),
    ]

"""The core beside torchdiffeq, flow-matching, torchcfm and diffusers: accuracy, overhead, likelihood, loss.

    python benchmarks/core.py [--quick] [--output docs/benchmarks.md]

Needs the `benchmark` extra. Fields are exact (Gaussian mixtures), starts and references are the same for all, and nothing is
tuned to a field. Times are of the processor, the contestants of a row in turn and each at its best, so that a busy machine
weighs little. The tables replace those in the output file.
"""

from __future__ import annotations

import argparse
import math
import platform
import sys
import time
import warnings
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

warnings.filterwarnings("ignore")
import diffusers  # noqa: E402
import torchdiffeq  # noqa: E402
from flow_matching.path import CondOTProbPath  # noqa: E402
from flow_matching.solver import ODESolver  # noqa: E402
from flow_matching.utils import ModelWrapper  # noqa: E402
from torchcfm.conditional_flow_matching import ConditionalFlowMatcher  # noqa: E402

import flowgen  # noqa: E402
from flowgen.core.likelihood import log_prob, rademacher  # noqa: E402
from flowgen.testing.oracle import GaussianMixture  # noqa: E402

EVALUATIONS = (4, 8, 16, 32, 64)
START, END = "<!-- core: begin -->", "<!-- core: end -->"
diffusers.utils.logging.set_verbosity_error()


class Wrapped(ModelWrapper):
    """A velocity as flow-matching wants it."""

    def __init__(self, velocity: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__(torch.nn.Identity())
        self.velocity = velocity

    def forward(self, x: Tensor, t: Tensor, **extras: Any) -> Tensor:
        return self.velocity(x, t)


# ---------------------------------------------------------------------------------------------- contestants
# Each takes a velocity(x, t), a start and a number of evaluations, and gives the end.


def ours(solver: Any, grid: Callable[[int], Tensor] = flowgen.uniform_grid) -> Callable[..., Tensor]:
    def run(velocity: Any, x: Tensor, n: int) -> Tensor:
        def flow(x: Tensor, t: Tensor, cond: Any = None) -> flowgen.Estimate:
            return flowgen.Estimate(flowgen.Linear(), x, t, "velocity", velocity(x, t))

        return flowgen.sample(flow, x, grid(n // solver.evaluations), solver=solver)

    return run


def diffeq(method: str, evaluations: int) -> Callable[..., Tensor]:
    def run(velocity: Any, x: Tensor, n: int) -> Tensor:
        grid = torch.linspace(0, 1, n // evaluations + 1, dtype=torch.float64)
        return torchdiffeq.odeint(lambda t, x: velocity(x, t), x, grid, method=method)[-1]

    return run


def flow_matching(method: str, evaluations: int) -> Callable[..., Tensor]:
    def run(velocity: Any, x: Tensor, n: int) -> Tensor:
        grid = torch.tensor([0.0, 1.0], dtype=torch.float64)
        solver = ODESolver(velocity_model=Wrapped(velocity))
        return solver.sample(x_init=x, step_size=evaluations / n, method=method, time_grid=grid)

    return run


def scheduler(make: Callable[[], Any], evaluations: int = 1) -> Callable[..., Tensor]:
    """diffusers: time runs from noise 1 to data 0, and velocity is noise minus data."""

    def run(velocity: Any, x: Tensor, n: int) -> Tensor:
        s = make()
        if isinstance(s, diffusers.FlowMatchEulerDiscreteScheduler | diffusers.FlowMatchHeunDiscreteScheduler):
            steps = n if evaluations == 1 else (n + 1) // 2
            if isinstance(s, diffusers.FlowMatchEulerDiscreteScheduler):
                s.set_timesteps(sigmas=[1 - i / steps for i in range(steps)])
            else:
                s.set_timesteps(steps)
        else:
            s.set_timesteps(n)
        for i, t in enumerate(s.timesteps):
            sigma = s.sigmas[i] if len(s.sigmas) > len(s.timesteps) else t / 1000
            v = -velocity(x, 1 - sigma.double())
            x = s.step(v, t, x).prev_sample.to(x.dtype)
        return x

    return run


def flow_config(kind: Any, **options: Any) -> Callable[[], Any]:
    return lambda: kind(use_flow_sigmas=True, prediction_type="flow_prediction", **options)


THREE_EIGHTHS = flowgen.core.solvers.TableRungeKutta(
    ((), (1 / 3,), (-1 / 3, 1.0), (1.0, -1.0, 1.0)), (1 / 8, 3 / 8, 3 / 8, 1 / 8), 4
)
OURS = {
    "Euler": ours(flowgen.Euler()),
    "midpoint": ours(flowgen.Midpoint()),
    "Ralston": ours(flowgen.Ralston()),
    "RK4": ours(flowgen.RK4()),
    "RK4, 3/8 rule (runge-kutta)": ours(THREE_EIGHTHS),
    "Adams-Bashforth 2": ours(flowgen.core.solvers.AdamsBashforth(2)),
    "Adams-Moulton, 2 points": ours(flowgen.AdamsMoulton()),
    "Adams-Moulton, 3 points, eased grid": ours(flowgen.AdamsMoulton(points=3), flowgen.eased_grid),
    "DPM-Solver++ 2M": ours(flowgen.DPMSolverPP2M()),
    "UniPC 3": ours(flowgen.UniPC()),
}
SCHEDULERS = {
    "diffusers FlowMatchEuler": scheduler(diffusers.FlowMatchEulerDiscreteScheduler),
    "diffusers FlowMatchHeun": scheduler(diffusers.FlowMatchHeunDiscreteScheduler, 2),
    "diffusers DPM++ 2M": scheduler(flow_config(diffusers.DPMSolverMultistepScheduler)),
    "diffusers DPM++ 3M": scheduler(flow_config(diffusers.DPMSolverMultistepScheduler, solver_order=3)),
    "diffusers DPM++ 2S": scheduler(flow_config(diffusers.DPMSolverSinglestepScheduler)),
    "diffusers UniPC 2": scheduler(flow_config(diffusers.UniPCMultistepScheduler)),
    "diffusers UniPC 3": scheduler(flow_config(diffusers.UniPCMultistepScheduler, solver_order=3)),
    "diffusers DEIS": scheduler(flow_config(diffusers.DEISMultistepScheduler)),
}
INTEGRATORS = {
    "torchdiffeq midpoint": diffeq("midpoint", 2),
    "torchdiffeq rk4": diffeq("rk4", 4),
    "flow-matching midpoint": flow_matching("midpoint", 2),
}


# ---------------------------------------------------------------------------------------------- measurements


def accuracy(quick: bool) -> list[str]:
    lines = []
    for d in (2, 64):
        fields = [GaussianMixture.random(6, d, spread=2.0 if d == 2 else 0.6, seed=seed) for seed in (1, 2, 3)]
        n = 64 if quick else 256
        x0 = torch.randn(n, d, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        tight = flowgen.DormandPrince(1e-10, 1e-10)
        ends = [flowgen.sample(m.flow(), x0, flowgen.uniform_grid(1), solver=tight) for m in fields]
        found: dict[str, list[float]] = {}
        for name, run in {**OURS, **SCHEDULERS, **INTEGRATORS}.items():
            found[name] = [_error(run, fields, ends, x0, n) for n in EVALUATIONS]
        lines += [
            "",
            f"In {d} dimensions:",
            "",
            _row("solver", *(f"{n}" for n in EVALUATIONS)),
            _rule(len(EVALUATIONS)),
        ]
        for name, errors in found.items():
            lines.append(_row(f"**{name}**" if name in OURS else name, *(_number(e) for e in errors)))
        for title, group in (
            ("best scheduler of diffusers", SCHEDULERS),
            ("best of all peers", {**SCHEDULERS, **INTEGRATORS}),
        ):
            ratios = [
                min(found[k][i] for k in OURS) / min(found[k][i] for k in group if not math.isnan(found[k][i]))
                for i in range(len(EVALUATIONS))
            ]
            lines.append(_row(f"our best / {title}", *(f"{r:.2f}" for r in ratios)))
    return lines


def _error(run: Callable[..., Tensor], fields: list[Any], ends: list[Tensor], x0: Tensor, n: int) -> float:
    """Median over samples of the root-mean-square error, mean over fields; nan where it takes another number of evaluations."""
    errors = []
    for mixture, end in zip(fields, ends, strict=True):
        calls, flow = 0, mixture.flow()

        def velocity(x: Tensor, t: Tensor, flow: Any = flow) -> Tensor:
            nonlocal calls
            calls += 1
            return flow(x.double(), torch.as_tensor(t).double()).velocity

        try:
            got = run(velocity, x0, n)
        except (ValueError, IndexError, ZeroDivisionError):
            return math.nan
        if calls > n:
            return math.nan
        errors.append(float(((got.double() - end).square().mean(1).sqrt()).median()))
    return sum(errors) / len(errors)


def overhead(quick: bool) -> list[str]:
    """Microseconds a step around a network that does nothing."""
    x, steps = torch.randn(4, 16), 50

    def network(x: Tensor, t: Tensor, cond: Any = None) -> Tensor:
        return x

    flow, grid = flowgen.NetworkFlow(network, flowgen.Linear()), flowgen.uniform_grid(steps)
    single = grid.float()

    def own(solver: Any) -> Callable[[], Any]:
        return lambda: flowgen.sample(flow, x, grid, solver=solver)

    def diffeq(method: str) -> Callable[[], Any]:
        return lambda: torchdiffeq.odeint(lambda t, x: network(x, t), x, single, method=method)

    def matching(method: str) -> Callable[[], Any]:
        solver = ODESolver(velocity_model=Wrapped(network))
        return lambda: solver.sample(x_init=x, step_size=1 / steps, method=method)

    def diffused(make: Callable[[], Any]) -> Callable[[], Any]:
        s = make()

        def run() -> Tensor:
            s.set_timesteps(steps)
            y = x
            for t in s.timesteps:
                y = s.step(network(y, t), t, y).prev_sample
            return y

        return run

    rows: dict[str, dict[str, Callable[[], Any]]] = {
        "Euler": {
            "flowgen": own(flowgen.Euler()),
            "torchdiffeq": diffeq("euler"),
            "flow-matching": matching("euler"),
            "diffusers": diffused(diffusers.FlowMatchEulerDiscreteScheduler),
        },
        "midpoint": {
            "flowgen": own(flowgen.Midpoint()),
            "torchdiffeq": diffeq("midpoint"),
            "flow-matching": matching("midpoint"),
        },
        "Heun": {
            "flowgen": own(flowgen.Heun()),
            "torchdiffeq": diffeq("heun2"),
            "flow-matching": matching("heun2"),
            "diffusers": diffused(diffusers.FlowMatchHeunDiscreteScheduler),
        },
        "RK4": {"flowgen": own(flowgen.RK4()), "torchdiffeq": diffeq("rk4"), "flow-matching": matching("rk4")},
        "DPM++ 2M": {
            "flowgen": own(flowgen.DPMSolverPP2M()),
            "diffusers": diffused(flow_config(diffusers.DPMSolverMultistepScheduler)),
        },
        "UniPC": {
            "flowgen": own(flowgen.UniPC()),
            "diffusers": diffused(flow_config(diffusers.UniPCMultistepScheduler)),
        },
    }
    names = ["flowgen", "torchdiffeq", "flow-matching", "diffusers"]
    lines = [_row("step", *names, "ratio to the fastest peer"), _rule(5)]
    for step, contestants in rows.items():
        took = best_times(contestants, 10 if quick else 60)
        cells = [f"{took[n] / steps * 1e6:.1f}" if n in took else "" for n in names]
        ratio = took["flowgen"] / min(v for k, v in took.items() if k != "flowgen")
        lines.append(_row(step, *cells, f"{ratio:.2f}"))
    return lines


def likelihoods(quick: bool) -> list[str]:
    """Evaluations of a sample's likelihood, at about the same error against the exact density."""
    mixture = GaussianMixture.random(4, 2, seed=3)
    x1 = mixture.sample(16 if quick else 64, torch.Generator().manual_seed(0))
    alone, calls = len(x1) // 2, 0
    lines = [
        _row("", f"evaluations, {len(x1)} together", "one by one, mean", "mean error of log p", "largest"),
        _rule(4),
    ]

    def field(x: Tensor, t: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return mixture.flow()(x.double(), torch.as_tensor(t).double()).velocity.to(x.dtype)

    def flow(x: Tensor, t: Tensor, cond: Any = None) -> flowgen.Estimate:
        return flowgen.Estimate(flowgen.Linear(), x, t, "velocity", field(x, t))

    def normal(x: Tensor) -> Tensor:
        return -0.5 * (x.square() + math.log(2 * math.pi)).sum(1)

    def theirs(x1: Tensor, exactly: bool) -> Tensor:
        solver = ODESolver(velocity_model=Wrapped(field))
        ends = torch.tensor([1.0, 0.0], dtype=torch.float64)
        return solver.compute_likelihood(
            x_1=x1 if exactly else x1.float(),  # it draws its probe in float32
            log_p0=normal,
            method="dopri5",
            step_size=None,
            atol=1e-5,
            rtol=1e-5,
            time_grid=ends,
            exact_divergence=exactly,
        )[1]

    rows: dict[str, Callable[[Tensor], Tensor]] = {
        "**flowgen**, exact, Dormand-Prince": lambda x1: log_prob(flow, x1, flowgen.uniform_grid(1)).log_prob,
        "**flowgen**, exact, Adams-Moulton, 48 steps": lambda x1: (
            log_prob(flow, x1, flowgen.uniform_grid(48), solver=flowgen.AdamsMoulton()).log_prob
        ),
        "flow-matching, exact, dopri5": lambda x1: theirs(x1, True),
        "**flowgen**, Hutchinson, Dormand-Prince": lambda x1: (
            log_prob(flow, x1, flowgen.uniform_grid(1), probe=rademacher(x1, 0)).log_prob
        ),
        "flow-matching, Hutchinson, dopri5": lambda x1: theirs(x1, False),
    }
    for name, run in rows.items():
        calls = 0
        gap = (run(x1) - mixture.log_prob(x1)).abs()
        together, calls = calls, 0
        for i in range(alone):
            run(x1[i : i + 1])
        lines.append(
            _row(name, str(together), f"{calls / alone:.1f}", _number(float(gap.mean())), _number(float(gap.max())))
        )
    return lines


def losses(quick: bool) -> list[str]:
    """Target, interpolation and loss for a [32, 16, 8, 32, 32] batch, noise and prediction being given."""
    x0, x1, predicted = torch.randn(3, 32, 16, 8, 32, 32).unbind()
    t = torch.rand(32)
    loss = flowgen.FlowMatching(coupling=flowgen.GivenPairs())
    random, cond = flowgen.Randomness(0, 0, 32), {"source": x0}
    theirs, cfm = CondOTProbPath(), ConditionalFlowMatcher(sigma=0.0)

    def bare() -> Tensor:
        xt = torch.lerp(x0, x1, t[:, None, None, None, None])  # noqa: F841
        target = x1 - x0
        return F.mse_loss(predicted, target)

    def meta() -> Tensor:
        drawn = theirs.sample(x_0=x0, x_1=x1, t=t)
        return (predicted - drawn.dx_t).square().mean()

    def torchcfm() -> Tensor:
        _, _, target = cfm.sample_location_and_conditional_flow(x0, x1, t=t)
        return (predicted - target).square().mean()

    rows = {
        "three bare lines": bare,
        "**flowgen** FlowMatching": lambda: loss(lambda x, t, c: predicted, x1, cond, random).total.mean(),
        "flow-matching CondOTProbPath": meta,
        "torchcfm ConditionalFlowMatcher": torchcfm,
    }
    took = best_times(rows, 6 if quick else 30)
    lines = [_row("", "ms", "ratio to the bare lines"), _rule(2)]
    lines += [_row(n, f"{v * 1e3:.1f}", f"{v / took['three bare lines']:.2f}") for n, v in took.items()]
    return lines


def best_times(contestants: dict[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """The least processor seconds of each, taken in turn so that all see the same machine."""
    best = dict.fromkeys(contestants, math.inf)
    for _ in range(rounds):
        for name, run in contestants.items():
            start = time.process_time()
            run()
            best[name] = min(best[name], time.process_time() - start)
    return best


def _row(*cells: str) -> str:
    return "| " + " | ".join(cells) + " |"


def _rule(columns: int) -> str:
    return "|---|" + "---:|" * columns


def _number(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.2g}" if value >= 0.01 else f"{value:.1e}"


def report(quick: bool) -> str:
    torch.set_num_threads(1)
    packages = ("torch", "torchdiffeq", "flow-matching", "torchcfm", "diffusers")
    sections = {
        "Error against evaluations": (
            accuracy,
            "Median error of the end against a reference at 1e-10, mean over three random mixtures of six modes, linear path, "
            "uniform grids (diffusers' own flow grids for its schedulers). Empty: it cannot keep to that number. torchcfm brings "
            "no solver.",
        ),
        "Overhead of a step": (
            overhead,
            "Microseconds of processor time a step, 50 steps around a network that returns its input.",
        ),
        "Likelihood": (
            likelihoods,
            "Evaluations of the velocity in 2 dimensions, tolerance 1e-5 where adaptive. flowgen keeps every sample to the "
            "tolerance, so a batch costs what its hardest sample does and no error is large; torchdiffeq, behind "
            "flow-matching, keeps the mean over the batch to it. One by one both keep each sample to it.",
        ),
        "Loss": (losses, "Interpolation, target and loss of a [32, 16, 8, 32, 32] batch."),
    }
    lines = [
        START,
        f"Written by `python benchmarks/core.py` with {', '.join(f'{p} {version(p)}' for p in packages)}, Python "
        f"{platform.python_version()}, one thread of {_processor()}. flowgen's rows are bold.",
    ]
    for title, (measure, about) in sections.items():
        print(f"{title} ...", file=sys.stderr, flush=True)
        lines += ["", f"### {title}", "", about, "", *measure(quick)]
    return "\n".join([*lines, END])


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    names = (
        [line.split(":")[1].strip() for line in info.read_text().splitlines() if "model name" in line]
        if info.exists()
        else []
    )
    return names[0] if names else platform.processor() or platform.machine()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer samples and rounds")
    parser.add_argument("--output", type=Path, help="file whose core tables are replaced; printed without")
    options = parser.parse_args()
    text = report(options.quick)
    if options.output is None:
        print(text)
        return
    old = options.output.read_text() if options.output.exists() else f"# Benchmarks\n\n## The core\n\n{START}{END}\n"
    before, rest = old.split(START)
    options.output.write_text(before + text + rest.split(END)[1])


if __name__ == "__main__":
    main()

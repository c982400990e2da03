"""The pictures of docs/math.md, from the exact fields of a Gaussian mixture: python docs/make_math.py"""

from __future__ import annotations

import io
import math
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import torch
from PIL import Image
from torch import Tensor

import flowgen
from flowgen.testing.oracle import GaussianMixture

FOLDER = Path(__file__).parent / "images" / "math"
DATA, NOISE, INK = "#c8553d", "#3d6b9c", "#222222"
RING = GaussianMixture(
    torch.tensor([[2.0 * math.cos(a), 2.0 * math.sin(a)] for a in (0.5, 2.3, 4.3)], dtype=torch.float64),
    torch.tensor([0.35, 0.35, 0.35], dtype=torch.float64),
    torch.ones(3, dtype=torch.float64),
)
LINE = GaussianMixture(
    torch.tensor([[-1.5], [1.2]], dtype=torch.float64),
    torch.tensor([0.3, 0.4], dtype=torch.float64),
    torch.tensor([0.4, 0.6], dtype=torch.float64),
)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=generator(seed), dtype=torch.float64)


def paths() -> None:
    figure, axes = plt.subplots(1, 5, figsize=(10, 2.1), sharey=True)
    t = torch.linspace(0, 1, 200, dtype=torch.float64)
    named = {"Linear": flowgen.Linear(), "CondOT(0.1)": flowgen.CondOT(0.1), "Cosine": flowgen.Cosine()}
    named |= {"VP": flowgen.VP(), "VE (sigma / 50)": flowgen.VE()}
    for axis, (name, path) in zip(axes, named.items(), strict=True):
        c = path(t)
        axis.plot(t, c.alpha, color=DATA, label="alpha: share of the data")
        axis.plot(t, c.sigma / (50 if "VE" in name else 1), color=NOISE, label="sigma: share of the noise")
        axis.set(title=name, xlabel="t")
    figure.legend(
        *axes[0].get_legend_handles_labels(), loc="upper center", ncols=2, frameon=False, bbox_to_anchor=(0.5, 1.14)
    )
    save(figure, "paths")


def field() -> None:
    figure, axes = plt.subplots(1, 4, figsize=(10, 2.7), sharey=True)
    flow = RING.flow(flowgen.Linear())
    ticks = torch.linspace(-3.2, 3.2, 70, dtype=torch.float64)
    fine = torch.stack(torch.meshgrid(ticks, ticks, indexing="xy"), -1).reshape(-1, 2)
    ticks2 = torch.linspace(-3, 3, 13, dtype=torch.float64)
    coarse = torch.stack(torch.meshgrid(ticks2, ticks2, indexing="xy"), -1).reshape(-1, 2)
    for axis, t in zip(axes, (0.0, 0.35, 0.7, 1.0), strict=True):
        density = RING.log_prob(fine, flowgen.Linear(), t).exp().reshape(70, 70)
        axis.contourf(ticks, ticks, density, levels=12, cmap="Oranges")
        v = flow(coarse, torch.tensor(t, dtype=torch.float64)).velocity
        axis.quiver(*coarse.T, *v.T, color=INK, width=0.004, scale=55)
        axis.set(title=f"t = {t:g}", aspect="equal", xticks=[], yticks=[])
    save(figure, "field")


def conditional() -> None:
    """The field of each data point alone, and their mean, weighted by how likely each is behind x_t."""
    figure, axes = plt.subplots(1, 4, figsize=(10, 2.7), sharey=True)
    points = torch.tensor([[-1.9, -1.2], [1.8, -1.0], [0.3, 1.9]], dtype=torch.float64)
    colours, t = (DATA, NOISE, "#5a9367"), torch.tensor(0.5, dtype=torch.float64)
    ticks = torch.linspace(-3, 3, 11, dtype=torch.float64)
    x = torch.stack(torch.meshgrid(ticks, ticks, indexing="xy"), -1).reshape(-1, 2)
    each = (points[:, None] - x) / (1 - t)  # [points, places, 2] on the path of straight lines
    likely = (-(x - t * points[:, None]).square().sum(-1) / (2 * (1 - t) ** 2)).softmax(0)  # p(x1 | x_t = x)
    for axis, point, own, weight, colour in zip(axes, points, each, likely, colours, strict=False):
        axis.quiver(*x.T, *own.T, color=colour, width=0.005, scale=60, alpha=0.15 + 0.85 * weight)
        axis.scatter(*point, s=40, color=colour)
        axis.set(title="to one point; darker: likelier", aspect="equal", xticks=[], yticks=[])
    mean = (likely[..., None] * each).sum(0)
    axes[3].quiver(*x.T, *mean.T, color=INK, width=0.005, scale=60)
    for point, colour in zip(points, colours, strict=True):
        axes[3].scatter(*point, s=40, color=colour)
    axes[3].set(title="their weighted mean: the field", aspect="equal", xticks=[], yticks=[])
    save(figure, "conditional")


def diffusion() -> None:
    """The same noise on the path of diffusion models and on straight lines, as an animation."""
    x0, steps = normal(150, 2, seed=7), 40
    grid = flowgen.uniform_grid(steps)
    states: dict[str, list[Tensor]] = {}
    for name, path in (
        ("VP: the path of diffusion models", flowgen.VP()),
        ("linear: optimal transport of a point", flowgen.Linear()),
    ):
        states[name] = [x0]
        keep = states[name].append
        flowgen.sample(
            RING.flow(path), x0, grid, solver=flowgen.DPMSolverPP2M(), on_step=lambda i, t, x, keep=keep: keep(x.clone())
        )  # fmt: skip
    frames = []
    for i in [*range(steps + 1), *[steps] * 8]:
        figure, axes = plt.subplots(1, 2, figsize=(6, 3.1), sharey=True)
        for axis, (name, own) in zip(axes, states.items(), strict=True):
            axis.plot(*torch.stack(own[: i + 1], 1)[:40].permute(2, 1, 0), color="#bbbbbb", lw=0.6)
            axis.scatter(*own[i].T, s=5, color=DATA)
            axis.set(title=name, aspect="equal", xlim=(-3.6, 3.6), ylim=(-3.6, 3.6), xticks=[], yticks=[])
        figure.text(0.5, 0.02, f"t = {i / steps:.2f}", ha="center")
        buffer = io.BytesIO()
        figure.savefig(buffer, dpi=70)
        plt.close(figure)
        frames.append(Image.open(buffer).convert("RGB").quantize(16))
    first, *rest = frames
    first.save(FOLDER / "diffusion.gif", save_all=True, append_images=rest, duration=90, loop=0, optimize=True)


def trajectories() -> None:
    figure, axes = plt.subplots(1, 3, figsize=(10, 2.8), sharey=True)
    steps, n = 160, 22
    grid, x0 = flowgen.uniform_grid(steps), normal(n, 1, seed=3)
    solvers = {
        "ODE (Heun)": flowgen.Heun(),
        "SDE, churn 0.5": flowgen.EulerMaruyama(0.5),
        "SDE, churn 2": flowgen.EulerMaruyama(2.0),
    }
    y = torch.linspace(-3.2, 3.2, 160, dtype=torch.float64)[:, None]
    shade = torch.stack([LINE.log_prob(y, flowgen.Linear(), float(t)).exp() for t in grid], 1)
    for axis, (name, solver) in zip(axes, solvers.items(), strict=True):
        g, states = generator(5), [x0]
        flowgen.sample(
            LINE.flow(), x0, grid, solver=solver,
            noise=lambda x, t, s, g=g: torch.randn(x.shape, generator=g, dtype=x.dtype),
            on_step=lambda i, t, x, states=states: states.append(x),
        )  # fmt: skip
        axis.imshow(shade, origin="lower", extent=(0, 1, -3.2, 3.2), aspect="auto", cmap="Oranges")
        axis.plot(grid, torch.cat(states, 1).T, color=INK, lw=0.7)
        axis.set(title=name, xlabel="t (noise to data)")
    save(figure, "trajectories")


def guidance() -> None:
    figure, axes = plt.subplots(1, 4, figsize=(10, 2.7), sharey=True)
    x0 = normal(500, 2, seed=1)
    # the condition "one of the upper two", of which guidance pushes away from the third
    cond, null = RING.only((0, 1), 500), RING.null(500)
    rules: dict[str, Any] = {"no guidance": None, "CFG 3, t > 0.1": flowgen.CFG(3.0)}
    rules |= {"CFG 3, all t": flowgen.CFG(3.0, start=0.0), "APG 6": flowgen.APG(6.0)}
    for axis, (name, rule) in zip(axes, rules.items(), strict=True):
        flow = RING.flow() if rule is None else rule(RING.flow(), null)
        x = flowgen.sample(flow, x0, flowgen.uniform_grid(40), solver=flowgen.AdamsMoulton(), cond=cond)
        axis.scatter(*RING.sample(900, generator()).T, s=2, color="#dddddd")
        axis.scatter(*x.T, s=2, color=DATA)
        axis.set(title=name, aspect="equal", xlim=(-4, 4), ylim=(-4, 4), xticks=[], yticks=[])
    save(figure, "guidance")


def coupling() -> None:
    figure, axes = plt.subplots(1, 2, figsize=(7, 3), sharey=True)
    x1, x0 = RING.sample(90, generator(2)), normal(90, 2, seed=4)
    for axis, rule in zip(axes, (flowgen.Independent(), flowgen.OptimalTransport()), strict=True):
        order = rule(x0, x1)
        start = x0 if order is None else x0[order]
        for a, b in zip(start, x1, strict=True):
            axis.plot(*torch.stack([a, b]).T, color="#bbbbbb", lw=0.6)
        axis.scatter(*start.T, s=7, color=NOISE)
        axis.scatter(*x1.T, s=7, color=DATA)
        axis.set(title=type(rule).__name__, aspect="equal", xticks=[], yticks=[])
    save(figure, "coupling")


def solvers() -> None:
    figure, axis = plt.subplots(figsize=(6, 3.2))
    x0 = normal(256, 2, seed=1)
    end = flowgen.sample(RING.flow(), x0, flowgen.uniform_grid(1), solver=flowgen.DormandPrince(1e-10, 1e-10))
    named = {"Euler": flowgen.Euler(), "Heun": flowgen.Heun(), "midpoint": flowgen.Midpoint(), "RK4": flowgen.RK4()}
    named |= {"DPM++ 2M": flowgen.DPMSolverPP2M(), "Adams-Moulton": flowgen.AdamsMoulton()}
    counts = (4, 8, 16, 32, 64)
    for name, solver in named.items():
        errors = []
        for n in counts:
            x = flowgen.sample(RING.flow(), x0, flowgen.uniform_grid(n // solver.evaluations), solver=solver)
            errors.append(float((x - end).norm(dim=1).median()))
        axis.loglog(counts, errors, "o-", ms=3, label=name)
    axis.set(xlabel="evaluations of the network", ylabel="median error", xticks=counts)
    axis.set_xticklabels(map(str, counts))
    axis.minorticks_off()
    axis.legend(frameon=False, fontsize=8)
    save(figure, "solvers")


def save(figure: Any, name: str) -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=90, bbox_inches="tight")
    plt.close(figure)
    # 48 colours are a fourth of the size
    Image.open(buffer).convert("RGB").quantize(48).save(FOLDER / f"{name}.png", optimize=True)


def main() -> None:
    torch.set_num_threads(1)
    plt.rcParams.update({"font.size": 9, "axes.titlesize": 9, "axes.spines.top": False, "axes.spines.right": False})
    for picture in (paths, field, conditional, diffusion, trajectories, guidance, coupling, solvers):
        picture()


if __name__ == "__main__":
    main()

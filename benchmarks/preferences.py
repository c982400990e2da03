"""A scripted voter with a known preference, end to end: pairs of a run's own clips, votes, training, and who wins afterwards.

    python benchmarks/preferences.py runs/fsdd -o runs/fsdd-brighter [--rule brighter] [--pairs 300] [--steps 80]

Takes any run of the modality audio, trained beforehand. The first half makes two clips of the same conditions for each pair
and writes the table as the page's vote does; `flowgen train` trains it. The second half samples both runs under conditions
and noise that no vote has seen, equal for both, and prints the share of clips that the rule prefers to the reference's, and
the Frechet distance of both to real clips, with 95 % intervals. The interval of their ratio is by half samples of the same
rows on both sides.
"""

from __future__ import annotations

import argparse
import math
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from flowgen.config import ComponentConfig, build, dumps
from flowgen.core.random import generator
from flowgen.data.order import full_size
from flowgen.errors import UsageError
from flowgen.evaluation import draw_sets
from flowgen.evaluation.intervals import RESAMPLES, intervals, wilson
from flowgen.media.clip import Clip
from flowgen.runs.generator import Generator
from flowgen.training.loggers import read_log
from flowgen.ui.votes import Ballot, Pair

TIE = 0.01
"""Clips whose scores differ by less than this share of the spread of all are a tie."""
Score = Callable[[Clip], float]


def _wave(clip: Clip) -> Tensor:
    data: Any = clip.data
    return data.double().mean(0)


def brighter(clip: Clip) -> float:
    """The spectral centroid, in octaves."""
    power = torch.fft.rfft(_wave(clip)).abs().square()
    hertz = torch.linspace(0, float(clip.rate) / 2, len(power), dtype=torch.float64)  # type: ignore[arg-type]
    return math.log2(float((hertz * power).sum() / power.sum().clamp(min=1e-12)) + 1.0)


def louder(clip: Clip) -> float:
    """The level, in dB."""
    return 10 * math.log10(float(_wave(clip).square().mean()) + 1e-12)


def shorter(clip: Clip) -> float:
    """The centre of the energy in time, in seconds, negative."""
    power = _wave(clip).square()
    seconds = torch.arange(len(power), dtype=torch.float64) / float(clip.rate)  # type: ignore[arg-type]
    return -float((seconds * power).sum() / power.sum().clamp(min=1e-12))


RULES: dict[str, Score] = {"brighter": brighter, "louder": louder, "shorter": shorter}


def conditions(run: Generator, count: int, seed: int) -> list[dict[str, Any]]:
    """Conditions of clips of the run's data, drawn by `seed`."""
    dataset = full_size(run.experiment.dataset)
    clips = [dataset.clip(int(i), 0) for i in torch.randint(len(dataset), (count,), generator=generator(seed, "asked"))]
    return [{name: clip.conditions.get(name) for name in run.conditioners} for clip in clips]


def vote(run: Generator, score: Score, pairs: int, seed: int, ballot: Ballot, name: str, swapped: bool) -> None:
    """Write the table of the votes of one who goes by `score` alone; `swapped`: who always says the other one."""
    asked = conditions(run, pairs, seed)
    sides = [run.sample(asked, seed=seed + 1 + side) for side in (0, 1)]
    scores = torch.tensor([[score(clip) for clip in side] for side in sides])
    suffix, spread = next(iter(run.modality.formats)), float(scores.std())
    with tempfile.TemporaryDirectory() as folder:
        for i, (left, right) in enumerate(zip(*sides, strict=True)):
            places = [Path(folder) / f"{end}{suffix}" for end in ("left", "right")]
            for clip, place in zip((left, right), places, strict=True):
                run.modality.write([clip], place, {})
            difference = float(scores[0, i] - scores[1, i])
            verdict = "tie" if abs(difference) < TIE * spread else "left" if (difference > 0) != swapped else "right"
            ballot.record(Pair((name, places[0]), (name, places[1]), asked[i], seed), verdict)  # type: ignore[arg-type]


def config(run: Path, base: Generator, out: Path, table: Path, options: argparse.Namespace) -> Path:
    """A config that trains `run` further on a table, as a user would write it."""
    kept = {k: v for k, v in base.config.loss.options.items() if k in ("weights", "noise_levels", "max_ratio")}
    loss = {
        "type": "flow-dpo",
        "teacher": str(run.resolve()),
        "beta": options.beta,
        "predicts": base.loss.predicts,
        **kept,
    }
    if options.cap is not None:
        loss["cap"] = options.cap
    if options.drift_weight:
        loss["drift_weight"] = options.drift_weight
    train = {
        "steps": options.steps,
        "batch_size": options.batch,
        "log_every": 20,
        "optimizer": {"lr": options.lr},
        "schedule": {"warmup": 20, "decay": "cosine"},
        "ema": {"decay": 0.95},
        "checkpoint": {"every": options.steps},
        "validation": {"every": max(options.steps // 4, 1)},
        "preview": {"every": 0},
    }
    data = {"type": "preferences", "table": str(table.resolve()), "run": str(run.resolve())}
    path = out / "preferred.yaml"
    values = {"extends": str((run / "config.yaml").resolve()), "name": "preferred", "run": str((out / "run").resolve())}
    path.write_text(dumps({**values, "data": data, "loss": loss, "loggers": ["jsonl"], "train": train}))
    return path


def ratio(metric: Any, ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor], real: Mapping[str, Tensor]) -> str:
    """The quotient of two Frechet distances, and its 95 % interval by half samples of the same rows."""

    def quotient(rows: Tensor, others: Tensor) -> float:
        near = {name: value[others] for name, value in real.items()}
        found = [metric.figures({n: v[rows] for n, v in side.items()}, near)["frechet"] for side in (ours, theirs)]
        return float(found[0] / found[1])

    n, m = (len(next(iter(side.values()))) for side in (ours, real))
    g = generator(0, "halves")
    halves = [
        quotient(torch.randperm(n, generator=g)[: n // 2], torch.randperm(m, generator=g)[: m // 2])
        for _ in range(RESAMPLES)
    ]
    whole, width = quotient(torch.arange(n), torch.arange(m)), 1.96 * float(torch.tensor(halves).std())
    return f"{whole:.3f} [{whole - width:.3f}, {whole + width:.3f}]"


def report(run: Path, trained: Path, score: Score, count: int, seed: int) -> None:
    """Print what the rule prefers at equal conditions and noise, and how far both runs are from real clips."""
    both = [Generator.load(run), Generator.load(trained)]
    asked = conditions(both[0], count, seed)
    made: list[Sequence[Clip]] = [side.sample(asked, seed=seed) for side in both]
    before, after = (torch.tensor([score(clip) for clip in side]) for side in made)
    won = float((after > before).double().mean())
    low, high = wilson(won, count)
    print(f"win rate over the reference: {won:.1%} [{low:.1%}, {high:.1%}] of {count} held-out pairs at equal noise")
    other = torch.tensor([score(clip) for clip in both[0].sample(asked, seed=seed + 1)])
    apart = float((after > other).double().mean())
    low, high = wilson(apart, count)
    print(f"win rate over clips of other noise: {apart:.1%} [{low:.1%}, {high:.1%}]; without training it is 50 %")
    print(f"score of the rule: {float(before.mean()):.4g} before, {float(after.mean()):.4g} after")
    dataset = full_size(both[0].experiment.dataset)
    metric = build("metric", ComponentConfig(type="audio-distribution"), modality=both[0].modality, dataset=dataset)
    real = metric.features(draw_sets(dataset, count, seed).reference)
    found = [metric.features(side) for side in made]
    for name, own in zip(("reference", "trained"), found, strict=True):
        figures = metric.figures(own, real)
        spread = intervals(metric, own, real, figures, seed)
        said = [
            f"{k} {figures[k]:.3f} [{spread[k][0]:.3f}, {spread[k][1]:.3f}]" for k in ("frechet", "recall", "within")
        ]
        print(f"{name}: {', '.join(said)}")
    print(f"ratio of the Frechet distances: {ratio(metric, found[1], found[0], real)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("-o", "--out", type=Path, required=True, help="a new folder: votes, config and the trained run")
    parser.add_argument("--rule", choices=sorted(RULES), default="brighter")
    parser.add_argument("--pairs", type=int, default=300, help="to vote on")
    parser.add_argument("--held-out", type=int, default=400, help="clips to compare afterwards")
    parser.add_argument("--steps", type=int, default=80)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--lr", type=float, default=2e-5)
    parser.add_argument("--beta", type=float, default=2000.0)
    parser.add_argument("--cap", type=float)
    parser.add_argument("--drift-weight", type=float, default=0.0)
    parser.add_argument("--swapped", action="store_true", help="a control: the voter always says the other one")
    parser.add_argument("--votes", type=Path, help="the folder of a vote that is there already")
    parser.add_argument("--seed", type=int, default=1000)
    options = parser.parse_args()
    if (options.out / "run").exists():
        raise UsageError(f"{options.out} holds a run already; choose another folder with -o")
    score, base = RULES[options.rule], Generator.load(options.run)
    options.out.mkdir(parents=True, exist_ok=True)
    ballot = Ballot(options.votes or options.out / "votes")
    if options.votes is None:
        vote(base, score, options.pairs, options.seed, ballot, str(options.run), options.swapped)
    path = config(options.run, base, options.out, ballot.table, options)
    subprocess.run([sys.executable, "-m", "flowgen", "train", path, "--init-from", options.run, "--quiet"], check=True)
    for line in read_log(options.out / "run"):
        parts = {k.removeprefix("loss/"): v for k, v in line.items() if k.startswith(("loss/", "validation/loss/"))}
        print(f"step {line['step']}: {', '.join(f'{name} {value:.4g}' for name, value in parts.items())}")
    report(options.run, options.out / "run", score, options.held_out, options.seed + 100)


if __name__ == "__main__":
    main()

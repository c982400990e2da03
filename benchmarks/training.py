"""What a step costs through the trainer, beside a bare DeepSpeed loop and a bare torch loop of the same network and batch.

    python benchmarks/training.py [--rounds 3] [--cases "vectors, MLP"] [--threads 1] [--steps | --checkpoints]

One process, float32. Processor time, not wall time, of the fastest round of each; the loops take turns, so that
whatever else the machine does meets them alike. All make the clips of their batches, clip gradients and keep an average.
Then, in wall time, how long a checkpoint keeps training waiting, written in the foreground and in the background, beside the
writing itself. Figures of one machine stand in docs/training.md.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

import torch

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests" / "training" / "plugin"))

from rich.console import Console  # noqa: E402

from flowgen.config import Document, resolve  # noqa: E402
from flowgen.runs.experiment import Experiment  # noqa: E402
from flowgen.runs.run import Run  # noqa: E402
from flowgen.training.checkpoints import Saver  # noqa: E402
from flowgen.training.deepspeed_config import deepspeed_config  # noqa: E402
from flowgen.training.ema import Average  # noqa: E402
from flowgen.training.engine import Objective, start_engine, start_ranks  # noqa: E402

CASES = {
    "vectors, MLP": dict(
        modality={"type": "tiny", "channels": 2},
        network={"type": "mlp", "width": 512, "depth": 3},
        batch_size=256,
        steps=100,
    ),
    "sequences, transformer": dict(
        modality={"type": "tiny", "channels": 16, "length": 64},
        network={"type": "transformer", "width": 128, "depth": 4, "heads": 4},
        batch_size=16,
        steps=10,
    ),
    "sequences, transformer, 30 M": dict(
        modality={"type": "tiny", "channels": 16, "length": 64},
        network={"type": "transformer", "width": 512, "depth": 8, "heads": 8},
        batch_size=8,
        steps=4,
    ),
}


def config(case: dict, folder: Path) -> dict:
    steps = 2 * case["steps"]
    return {
        "name": "benchmark",
        "run": str(folder / "run"),
        "modality": case["modality"],
        "data": {"type": "tiny", "clips": 4096},
        "encoder": "tiny",
        "network": case["network"],
        "loggers": ["clock"],
        "train": {
            "steps": steps,
            "batch_size": case["batch_size"],
            "log_every": case["steps"],
            "checkpoint": {"every": 10 * steps},
            "validation": {"every": 0},
            "preview": {"every": 0},
        },
    }


def parts(values: dict):
    config = resolve(Document(values)).config
    experiment = Experiment(config).complete()
    config, dataset, encoder = experiment.config, experiment.dataset, experiment.encoder
    conditioners, network = experiment.conditioners, experiment.network

    def batch(step: int):
        clips = [dataset.clip(i % len(dataset), i) for i in range(step * count, (step + 1) * count)]
        kinds = [conditioners["kind"].encode(clip.conditions["kind"]) for clip in clips]
        return encoder.encode(clips).x, {"kind": torch.stack(kinds)}

    count = config.train.batch_size
    return config, network, experiment.loss, batch


def bare_torch(values: dict) -> float:
    """Seconds a step: forward, loss, backward, clipping, AdamW, and a plain average."""
    config, network, loss, batch = parts(values)
    adamw = torch.optim.AdamW(network.parameters(), lr=1e-4, fused=True)
    average = [p.detach().clone() for p in network.parameters()]

    def step(i: int) -> None:
        x1, cond = batch(i)
        total = loss(network, x1, cond, Plain(len(x1))).total.mean()
        adamw.zero_grad()
        total.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        adamw.step()
        torch._foreach_lerp_(average, [p.detach() for p in network.parameters()], 0.001)
        total.item()

    return timed(step, config.train.log_every)


def bare_deepspeed(values: dict) -> float:
    """The same with DeepSpeed's engine, which clips."""
    config, network, loss, batch = parts(values)
    settings = {**deepspeed_config(config, 1), "gradient_clipping": 1.0}
    engine = start_engine(Objective(network, loss), config.train.optimizer, settings)
    weights = [p.detach() for p in network.parameters()]
    average = [p.clone() for p in weights]

    def step(i: int) -> None:
        x1, cond = batch(i)
        total = engine(x1, cond, Plain(len(x1))).total.mean()
        engine.backward(total)
        engine.step()
        torch._foreach_lerp_(average, weights, 0.001)
        total.item()

    seconds = timed(step, config.train.log_every)
    engine.destroy()
    return seconds


class Plain:
    """Random numbers straight from torch."""

    def __init__(self, count: int) -> None:
        self.count = count

    def normal(self, like, purpose=""):
        return torch.randn_like(like)

    def uniform(self, purpose="", *, stratified=False):
        return torch.rand(self.count, dtype=torch.float64)


def trainer(values: dict) -> float:
    from flowgen.training.trainer import train

    folder = Path(values["run"])
    train(resolve(Document(values)), console=Console(stderr=True, quiet=True))
    (step1, began), (step2, ended) = map(json.loads, (folder / "clock.jsonl").read_text().splitlines()[-2:])
    return (ended - began) / (step2 - step1)


class Timed(Saver):
    """Notes how long the writing itself takes, in the thread that does it."""

    wrote = 0.0

    def _write(self, *arguments) -> None:
        began = time.monotonic()
        super()._write(*arguments)
        self.wrote = time.monotonic() - began


def checkpoint(values: dict, background: bool) -> tuple[float, float]:
    """Seconds that training waits for a checkpoint, and seconds of its writing; the second one, when buffers are warm."""
    config, network, loss, batch = parts(values)
    engine = start_engine(Objective(network, loss), config.train.optimizer, deepspeed_config(config, 1))
    ranks = start_ranks()
    averages = {"ema": Average(engine, ranks, lambda step: 0.999)}
    with tempfile.TemporaryDirectory() as folder:
        saver = Timed(Run(Path(folder)), engine, averages, ranks, keep=1, background=background)
        for step in range(3):
            x1, cond = batch(step)
            engine.backward(engine(x1, cond, Plain(len(x1))).total.mean())
            engine.step()
            began = time.monotonic()
            saver.save(step, {})
            stalled = time.monotonic() - began
            saver.wait()
    engine.destroy()
    return stalled, saver.wrote


def print_checkpoints(rounds: int, chosen: list[str]) -> None:
    print("| case | written in, s | foreground stalls, s | background stalls, s | of the writing |")
    print("|---|---|---|---|---|")
    for name, case in CASES.items():
        if chosen and name not in chosen:
            continue
        with tempfile.TemporaryDirectory() as folder:
            values = config(case, Path(folder))
            front = min(checkpoint(values, background=False) for _ in range(rounds))
            behind = min(checkpoint(values, background=True) for _ in range(rounds))
        print(
            f"| {name} | {front[1]:.2f} | {front[0]:.2f} | {behind[0]:.3f} | {behind[0] / front[1]:.1%} |", flush=True
        )


def timed(step, count: int) -> float:
    for i in range(max(count // 4, 2)):
        step(i)
    began = time.process_time()
    for i in range(count):
        step(i)
    return (time.process_time() - began) / count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--cases", default="")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--steps", action="store_true", help="steps alone")
    parser.add_argument("--checkpoints", action="store_true", help="checkpoints alone")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    start_ranks()
    chosen = options.cases.split(";") if options.cases else []
    if not options.checkpoints:
        print_steps(options.rounds, chosen)
    if not options.steps:
        print_checkpoints(options.rounds, chosen)


def print_steps(rounds: int, chosen: list[str]) -> None:
    loops = {"torch": bare_torch, "DeepSpeed": bare_deepspeed, "trainer": trainer}
    print("| case | parameters | torch, ms | DeepSpeed, ms | trainer, ms | trainer/torch | trainer/DeepSpeed |")
    print("|---|---|---|---|---|---|---|")
    for name, case in CASES.items():
        if chosen and name not in chosen:
            continue
        best = dict.fromkeys(loops, float("inf"))
        for _ in range(rounds):
            for loop, run in loops.items():
                with tempfile.TemporaryDirectory() as folder:
                    best[loop] = min(best[loop], 1e3 * run(config(case, Path(folder))))
        with tempfile.TemporaryDirectory() as folder:
            count = sum(p.numel() for p in parts(config(case, Path(folder)))[1].parameters())
        figures = " | ".join(f"{best[loop]:.2f}" for loop in loops)
        print(
            f"| {name} | {count / 1e6:.2f} M | {figures} | {best['trainer'] / best['torch']:.2f} "
            f"| {best['trainer'] / best['DeepSpeed']:.2f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()

"""What a step costs through the trainer, beside a bare DeepSpeed loop and a bare torch loop of the same network and batch.

    python benchmarks/training.py [--rounds 3] [--cases "vectors, MLP"]

One thread, one process, float32. Processor time, not wall time, of the fastest round of each; the loops take turns, so that
whatever else the machine does meets them alike. Figures of one machine stand in docs/training.md.
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
from flowgen.experiment import (  # noqa: E402  # noqa: E402
    build_conditioners,
    build_dataset,
    build_encoder,
    build_loss,
    build_modality,
    build_network,
    settle_conditions,
)
from flowgen.training.deepspeed_config import deepspeed_config  # noqa: E402
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
    modality = build_modality(config)
    dataset = build_dataset(config, modality)
    config = settle_conditions(config, dataset)
    encoder = build_encoder(config, modality)
    conditioners = build_conditioners(config)
    network = build_network(config, encoder.spec, conditioners)
    count = config.train.batch_size
    x1 = torch.randn(count, *encoder.spec.shape)
    cond = {"kind": torch.randint(0, 4, (count,))}
    return config, network, build_loss(config), x1, cond


def bare_torch(values: dict) -> float:
    """Seconds a step: forward, loss, backward, clipping, AdamW, and a plain average."""
    config, network, loss, x1, cond = parts(values)
    adamw = torch.optim.AdamW(network.parameters(), lr=1e-4, fused=True)
    average = [p.detach().clone() for p in network.parameters()]

    def step(i: int) -> None:
        total = loss(network, x1, cond, Plain(len(x1))).total.mean()
        adamw.zero_grad()
        total.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        adamw.step()
        torch._foreach_lerp_(average, [p.detach() for p in network.parameters()], 0.001)
        total.item()

    return timed(step, config.train.log_every)


def bare_deepspeed(values: dict) -> float:
    config, network, loss, x1, cond = parts(values)
    engine = start_engine(Objective(network, loss), config.train.optimizer, deepspeed_config(config, 1))

    def step(i: int) -> None:
        total = engine(x1, cond, Plain(len(x1))).total.mean()
        engine.backward(total)
        engine.step()
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
    options = parser.parse_args()
    torch.set_num_threads(1)
    start_ranks()
    loops = {"torch": bare_torch, "DeepSpeed": bare_deepspeed, "trainer": trainer}
    print("| case | parameters | torch, ms | DeepSpeed, ms | trainer, ms | trainer/torch | trainer/DeepSpeed |")
    print("|---|---|---|---|---|---|---|")
    for name, case in CASES.items():
        if options.cases and name not in options.cases.split(";"):
            continue
        best = dict.fromkeys(loops, float("inf"))
        for _ in range(options.rounds):
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

"""A soak: a run that is killed again and again ends with the weights, bit for bit, of the run that was left alone.

    python benchmarks/chaos.py [--config video/moving-digits] [--faults 25] [--ranks 2] [--seed 0] [key=value ...]

Faults come at random moments of training and of saving: SIGKILL to every process, SIGKILL to one rank, SIGTERM to the
program. After each the run is resumed. Prints what was done and exits with 1 where the weights differ.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import torch
from safetensors.torch import load_file

from flowgen.run import Run

QUIET = ["train.validation.every=0", "train.preview.every=0", "train.schedule.decay=constant"]


def start(arguments: list[str], ranks: int, log: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "flowgen", "train", *arguments, "--quiet", "--resume", "--gpus", str(ranks)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with log.open("ab") as file:
        return subprocess.Popen(command, stdout=file, stderr=file, env=environment, start_new_session=True)


def training(folder: Path, before: int) -> bool:
    """Whether the run has come beyond where it stood: a fault before the first step proves little."""
    return (folder / "log.jsonl").is_file() and (folder / "log.jsonl").stat().st_size > before


def strike(process: subprocess.Popen[bytes], fault: str, dice: random.Random) -> None:
    children = psutil.Process(process.pid).children(recursive=True)
    ranks = [c for c in children if c.is_running() and "RANK" in c.environ()]
    if fault == "kill all" or not ranks:
        os.killpg(process.pid, signal.SIGKILL)
        for child in children:  # the agent starts ranks in sessions of their own
            with contextlib.suppress(psutil.NoSuchProcess):
                child.kill()
    elif fault == "kill one":
        dice.choice(ranks).kill()
    else:
        process.send_signal(signal.SIGTERM)


def tensors(folder: Path) -> dict[tuple[str, str], torch.Tensor]:
    root = Run(folder).newest_checkpoint().folder
    files = sorted(root.rglob("*.safetensors"))
    return {(str(p.relative_to(root)), k): v for p in files for k, v in load_file(p).items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", default="video/moving-digits")
    parser.add_argument("--faults", type=int, default=25)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("overrides", nargs="*")
    options = parser.parse_args()
    dice = random.Random(options.seed)
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as place:
        alone, chaos = Path(place, "alone"), Path(place, "chaos")
        shared = [options.config, *QUIET, "train.log_every=1", *options.overrides]
        log = Path(place, "log.txt")
        if start([*shared, f"run={alone}"], options.ranks, log).wait() != 0:
            sys.exit(log.read_text()[-3000:])
        took = time.monotonic() - began
        print(f"left alone: {Run(alone).newest_checkpoint().step} steps in {took:.0f} s", flush=True)

        given: list[str] = []
        while True:
            before = (chaos / "log.jsonl").stat().st_size if (chaos / "log.jsonl").is_file() else 0
            process = start([*shared, f"run={chaos}"], options.ranks, log)
            if len(given) < options.faults:
                while process.poll() is None and not training(chaos, before):
                    time.sleep(0.05)
                time.sleep(dice.uniform(0, max(took / options.faults, 0.5)))
            if len(given) < options.faults and process.poll() is None:
                fault = dice.choice(["kill all", "kill one", "terminate"])
                strike(process, fault, dice)
                code = process.wait()
                given.append(fault)
                saved = [c.step for c in Run(chaos).checkpoints()]
                print(f"fault {len(given)}: {fault}, exit code {code}, whole checkpoints {saved}", flush=True)
                if fault == "terminate" and code != 0:
                    sys.exit(f"SIGTERM ended with exit code {code}:\n{log.read_text()[-3000:]}")
                continue
            if process.wait() != 0:
                sys.exit(log.read_text()[-3000:])
            break
        one, other = tensors(alone), tensors(chaos)
        same = one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)
        print(f"{len(given)} faults, {len(one)} tensors {'equal bit for bit' if same else 'DIFFER'}")
        sys.exit(0 if same else 1)


if __name__ == "__main__":
    main()

"""A soak: a run that is killed again and again ends with the weights, bit for bit, of the run that was left alone.

    python benchmarks/chaos.py [--config video/moving-digits] [--faults 25] [--ranks 2] [--seed 0] [--folder runs/chaos] [key=value ...]

Faults come at random moments of training and of saving, each kind of `chaos_faults.py` in turn: SIGKILL to all, to one rank, to
the launcher alone, SIGTERM, a full disk, no more memory, sampling beside; the newest checkpoint deleted or half written, the log
cut; a port in use. After each the run is resumed. Everything lies in one folder, with what was done so far in faults.jsonl: the same
command goes on where it was interrupted itself. Ends with a verdict, and exits with 1 where the weights differ.

A checkpoint is saved every 1/20 of the steps; each fault costs a restart and the steps since the last one. With train.steps=300 a
fault costs little more than its restart.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from chaos_faults import FAULTS, FOLDER, PROCESS, START, Scene, kill_all, lines
from safetensors.torch import load_file

from flowgen.config import load
from flowgen.runs.run import Run

QUIET = ["train.validation.every=0", "train.preview.every=0", "train.schedule.decay=constant"]


def start(
    arguments: list[str], ranks: int, log: Path, variables: Mapping[str, str] | None = None
) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "flowgen", "train", *arguments, "--quiet", "--resume", "--gpus", str(ranks)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **(variables or {})}
    with log.open("ab") as file:
        return subprocess.Popen(command, stdout=file, stderr=file, env=environment, start_new_session=True)


def wait_for_moment(process: subprocess.Popen[bytes], folder: Path, steps: int, dice: random.Random) -> None:
    """Until the run has done so many steps more and is somewhere in the next one, or in the saving before it; or has ended."""
    before, seen = lines(folder), time.monotonic()
    last, step_s = before, 1.0
    while process.poll() is None and lines(folder) <= before + steps:
        now = lines(folder)
        if now > last:
            last, step_s, seen = now, time.monotonic() - seen, time.monotonic()
        time.sleep(0.02)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(dice.uniform(0, 1.5 * min(step_s, 10.0)))


@contextlib.contextmanager
def reaping(process: subprocess.Popen[bytes]) -> Iterator[None]:
    """Where the soak itself is interrupted, no rank stays behind."""
    try:
        yield
    except BaseException:
        if process.poll() is None:
            kill_all(Scene(process, Path(), random.Random()))
            process.wait()
        raise


def tensors(folder: Path) -> dict[tuple[str, str], torch.Tensor]:
    root = Run(folder).newest_checkpoint().folder
    files = sorted(root.rglob("*.safetensors"))
    return {(str(p.relative_to(root)), k): v for p in files for k, v in load_file(p).items()}


def steps_done(folder: Path) -> int:
    return Run(folder).newest_checkpoint().step if Run(folder).checkpoints() else 0


def leave_alone(arguments: list[str], folder: Path, steps: int, ranks: int, log: Path) -> None:
    """The run that nothing happens to."""
    began = time.monotonic()
    if steps_done(folder) < steps:
        process = start([*arguments, f"run={folder}"], ranks, log)
        with reaping(process):
            if process.wait() != 0:
                sys.exit(log.read_text()[-3000:])
    print(f"left alone: {steps_done(folder)} steps in {time.monotonic() - began:.0f} s", flush=True)


def harass(arguments: list[str], folder: Path, steps: int, options: argparse.Namespace, log: Path) -> int:
    """The run that faults happen to, until it is done; returns how many did."""
    record = folder.with_name("faults.jsonl")
    given = len(record.read_text().splitlines()) if record.is_file() else 0
    began, at_first = time.monotonic(), given
    while True:
        dice = random.Random(f"{options.seed}/{given}")
        # each kind in turn, in an order of its own in every round
        fault = random.Random(f"{options.seed}/{given // len(FAULTS)}").sample(FAULTS, len(FAULTS))[given % len(FAULTS)]
        if given == options.faults:
            fault = "none"
        with START[fault]() if fault in START else contextlib.nullcontext({}) as variables:
            process = start([*arguments, f"run={folder}"], options.ranks, log, variables)
            with reaping(process):
                if given < options.faults:
                    # so few steps that the run is not done before it has had its faults
                    wait_for_moment(process, folder, dice.randint(0, int(1.2 * steps / (options.faults + 1))), dice)
                if fault == "none" or (process.poll() is not None and fault not in START):
                    if process.wait() != 0:
                        sys.exit(log.read_text()[-3000:])
                    return given
                happen(fault, Scene(process, folder, dice, steps=steps // 10))
                code = process.wait()
        given += 1
        entry = {"fault": fault, "exit": code, "saved": [c.step for c in Run(folder).checkpoints()]}
        with record.open("a") as file:
            file.write(json.dumps(entry) + "\n")
        each = (time.monotonic() - began) / (given - at_first)
        print(
            f"fault {given} of {options.faults}: {fault}, exit code {code}, whole checkpoints {entry['saved']}; "
            f"{each:.0f} s a fault, at most {each * (options.faults - given) / 60:.0f} min of them left",
            flush=True,
        )
        if fault == "terminate" and code != 0:
            sys.exit(f"SIGTERM ended with exit code {code}:\n{log.read_text()[-3000:]}")
        if fault not in ("little memory", "kill one rank") and own_traceback(log.read_text()):
            sys.exit(f"FAILED: {fault} ended with a traceback:\n{log.read_text()[-3000:]}")
        log.write_text("")


def own_traceback(text: str) -> bool:
    """Whether one goes through flowgen. Those of threads of other libraries (TensorBoard, the elastic agent) do not count: what
    comes before the thread began is where flowgen met the same error, and warned."""
    parts = text.split("Traceback (most recent call last)")[1:]
    return any("/flowgen/" in part.rpartition("in _bootstrap_inner")[2] for part in parts)


def happen(fault: str, scene: Scene) -> None:
    """One fault, until the run stands."""
    if fault in PROCESS:
        PROCESS[fault](scene)
    elif scene.process.poll() is None:
        kill_all(scene)
    if fault == "full disk":
        try:
            scene.process.wait(60)
        except subprocess.TimeoutExpired:
            kill_all(scene)  # nothing was to be written
    scene.process.wait()
    if fault in FOLDER:
        FOLDER[fault](scene.folder, scene.dice)


def verdict(alone: Path, chaos: Path, given: int, wanted: int) -> int:
    """Compare the two runs; the exit code."""
    one, other = tensors(alone), tensors(chaos)
    differ = sorted(
        k for k in one.keys() | other.keys() if k not in one or k not in other or not torch.equal(one[k], other[k])
    )
    at = f"step {steps_done(alone)} and step {steps_done(chaos)}"
    print(f"{given} faults; {at}; {len(one) - len(differ)} of {len(one)} tensors equal bit for bit")
    if differ or steps_done(alone) != steps_done(chaos):
        print(f"FAILED: they differ in {', '.join('/'.join(k) for k in differ[:5])}")
        return 1
    if given < wanted:
        print(f"FAILED: the run ended after {given} of {wanted} faults; give it more steps")
        return 1
    print("PASSED: weights, averages and moments are those of the run that was left alone")
    return 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", default="video/moving-digits")
    parser.add_argument("--faults", type=int, default=25)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, default=Path("runs/chaos"))
    parser.add_argument("overrides", nargs="*")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # so that it takes its ranks along
    options.folder.mkdir(parents=True, exist_ok=True)
    steps = resolve_steps(options.config, options.overrides)
    shared = [
        options.config,
        *QUIET,
        "train.log_every=1",
        f"train.checkpoint.every={max(steps // 20, 1)}",
        *options.overrides,
    ]
    remember(options.folder / "command.json", {"ranks": options.ranks, "seed": options.seed, "arguments": shared})
    alone, chaos, log = (options.folder / name for name in ("alone", "chaos", "log.txt"))
    leave_alone(shared, alone, steps, options.ranks, log)
    given = harass(shared, chaos, steps, options, log)
    sys.exit(verdict(alone, chaos, given, options.faults))


def resolve_steps(config: str, overrides: list[str]) -> int:
    return load(config, tuple(overrides)).config.train.steps


def remember(path: Path, command: dict[str, object]) -> None:
    """What the folder was begun with; an interrupted soak goes on with the same only."""
    if path.is_file() and json.loads(path.read_text()) != command:
        sys.exit(f"{path.parent} was begun with {path.read_text()}; go on with the same, or choose another --folder")
    path.write_text(json.dumps(command))


if __name__ == "__main__":
    main()

"""The faults of `chaos.py`: what happens to a run that trains, to its folder while it stands, and to its next start."""

from __future__ import annotations

import contextlib
import os
import random
import resource
import shutil
import signal
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

from flowgen.runs.generator import Generator
from flowgen.runs.run import Run

Process = subprocess.Popen[bytes]


@dataclass(frozen=True)
class Scene:
    """A run that trains: its program, its folder, the dice, and how many steps it may do while a fault lasts."""

    process: Process
    folder: Path
    dice: random.Random
    steps: int = 0

    @property
    def ranks(self) -> list[psutil.Process]:
        found = []
        for child in psutil.Process(self.process.pid).children(recursive=True):
            with contextlib.suppress(psutil.Error):
                if "RANK" in child.environ():
                    found.append(child)
        return found


def lines(folder: Path) -> int:
    """Steps logged so far, those that were done twice counted twice."""
    path = folder / "log.jsonl"
    return path.read_bytes().count(b"\n") if path.is_file() else 0


# What happens to processes


def kill_all(scene: Scene) -> None:
    children = psutil.Process(scene.process.pid).children(recursive=True)
    os.killpg(scene.process.pid, signal.SIGKILL)
    for child in children:  # the agent starts ranks in sessions of their own
        with contextlib.suppress(psutil.NoSuchProcess):
            child.kill()


def kill_one_rank(scene: Scene) -> None:
    if ranks := scene.ranks:
        scene.dice.choice(ranks).kill()
    else:
        scene.process.kill()


def kill_launcher(scene: Scene) -> None:
    """What it started must end by itself within 5 s."""
    children = psutil.Process(scene.process.pid).children(recursive=True)
    scene.process.kill()
    scene.process.wait()
    _, alive = psutil.wait_procs(children, timeout=5)
    if alive:
        for child in alive:
            child.kill()
        sys.exit(f"FAILED: {len(alive)} processes went on 5 s after their launcher was killed")


def terminate(scene: Scene) -> None:
    scene.process.send_signal(signal.SIGTERM)


def full_disk(scene: Scene) -> None:
    """From now on no process can write more than 2 kB to a file: the log or the next checkpoint fails."""
    for child in [psutil.Process(scene.process.pid), *psutil.Process(scene.process.pid).children(recursive=True)]:
        with contextlib.suppress(psutil.Error):
            child.rlimit(resource.RLIMIT_FSIZE, (2048, 2048))


def little_memory(scene: Scene) -> None:
    """From now on no process can have more memory than it has."""
    for child in scene.ranks or [psutil.Process(scene.process.pid)]:
        with contextlib.suppress(psutil.Error):
            now = child.memory_info().vms
            child.rlimit(resource.RLIMIT_AS, (now, now))
    with contextlib.suppress(subprocess.TimeoutExpired):
        scene.process.wait(20)  # it fails, or needs no more, or stands where a thread cannot be started
    if scene.process.poll() is None:
        kill_all(scene)


def sample_beside(scene: Scene) -> None:
    """Clips are sampled while it trains and saves, again and again; then all is killed, before it is done."""
    last = lines(scene.folder) + scene.steps
    while scene.process.poll() is None and lines(scene.folder) < last:
        if Run(scene.folder).checkpoints():
            try:
                Generator.load(scene.folder).sample([{}] * 4)
            except Exception:
                kill_all(scene)
                sys.exit(f"FAILED: sampling beside the training:\n{traceback.format_exc()}")
        time.sleep(0.1)
    if scene.process.poll() is None:
        kill_all(scene)


PROCESS: dict[str, Callable[[Scene], None]] = {
    "kill all": kill_all,
    "kill one rank": kill_one_rank,
    "kill launcher": kill_launcher,
    "terminate": terminate,
    "full disk": full_disk,
    "little memory": little_memory,
    "sample beside": sample_beside,
}


# What happens to the folder, while nothing runs


def newest_deleted(folder: Path, dice: random.Random) -> None:
    found = Run(folder).checkpoints()
    if len(found) > 1:
        shutil.rmtree(found[-1].folder)


def newest_half_written(folder: Path, dice: random.Random) -> None:
    """As a machine leaves it whose power went: the manifest, which is written last, is not there, and a file is cut."""
    found = Run(folder).checkpoints()
    if len(found) > 1:
        (found[-1].folder / "manifest.json").unlink()
        _cut(dice.choice(sorted(found[-1].folder.rglob("*.safetensors"))), dice)


def log_cut(folder: Path, dice: random.Random) -> None:
    if (path := folder / "log.jsonl").is_file():
        _cut(path, dice, least=0.9)


FOLDER: dict[str, Callable[[Path, random.Random], None]] = {
    "newest deleted": newest_deleted,
    "newest half written": newest_half_written,
    "log cut": log_cut,
}


# What happens to the next start


@contextlib.contextmanager
def port_in_use() -> Iterator[dict[str, str]]:
    """The port that the environment names for the ranks to meet at belongs to another program."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        held.listen()
        yield {"MASTER_PORT": str(held.getsockname()[1])}


START: dict[str, Callable[[], contextlib.AbstractContextManager[dict[str, str]]]] = {"port in use": port_in_use}

FAULTS = [*PROCESS, *FOLDER, *START]


def _cut(path: Path, dice: random.Random, least: float = 0.1) -> None:
    with path.open("r+b") as file:
        file.truncate(int(path.stat().st_size * dice.uniform(least, 1.0)))

"""What this machine has, what will not work on it, and how to mend that."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import psutil
import torch
from packaging.requirements import Requirement

from flowgen import __version__
from flowgen.device import accelerator, device_count, device_name, device_of_process
from flowgen.training.machine import precision_gap

State = Literal["ok", "note", "broken"]
_ENCODERS = {"libx264": ".mp4", "aac": ".mp4 with sound", "libvpx-vp9": ".webm", "libopus": ".webm with sound"}
_LITTLE_SHARED, _LITTLE_DISK = 1 << 30, 5 << 30


@dataclass(frozen=True)
class Finding:
    """One line: `remedy` says what to do where the state is not ok."""

    name: str
    state: State
    text: str
    remedy: str = ""


def examine(folder: Path) -> Iterator[Finding]:
    """All findings, in the order in which they are of interest. `folder`: where runs would be written."""
    for look in (_versions, _accelerator, _precisions, _memory, _shared_memory, partial(_disk, folder)):
        yield from look()
    for look in (_codecs, _compiler, _ranks, _extras):
        yield from look()


def _versions() -> Iterator[Finding]:
    names = ("torch", "torchaudio", "torchvision", "deepspeed")
    found = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in names)
    yield Finding("software", "ok", f"flowgen {__version__}, Python {platform.python_version()}, {found}")


def _accelerator() -> Iterator[Finding]:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    if accelerator() is not None:
        devices = ", ".join(device_name(device_of_process(i)) for i in range(device_count()))
        yield Finding("accelerator", "ok", devices)
    elif torch.version.cuda is not None and shutil.which("nvidia-smi"):
        yield Finding(
            "accelerator",
            "note",
            f"there is a driver, and torch (built for CUDA {torch.version.cuda}) sees no GPU",
            "look with nvidia-smi; install the torch of this driver's CUDA, or a newer driver",
        )
    else:
        yield Finding("accelerator", "ok", f"none; trains on {cores} CPU cores")


def _precisions() -> Iterator[Finding]:
    if accelerator() is None:
        os.environ.setdefault("DS_ACCELERATOR", "cpu")  # or DeepSpeed warns that it looked for another one
    for dtype in (torch.bfloat16, torch.float16):
        name, gap = str(dtype).removeprefix("torch."), precision_gap(dtype)
        if gap is None:
            yield Finding(name, "ok", "weights and autocast")
        else:
            yield Finding(name, "note", gap, "train with train.precision=bfloat16 (autocast) or float32")


def _memory() -> Iterator[Finding]:
    memory = psutil.virtual_memory()
    yield Finding("memory", "ok", f"{_bytes(memory.available)} free of {_bytes(memory.total)}")


def _shared_memory() -> Iterator[Finding]:
    shared = Path("/dev/shm")
    if shared.is_dir():
        free = shutil.disk_usage(shared).free
        little = free < _LITTLE_SHARED
        remedy = "give the container more (--shm-size=2g), or set train.workers=0" if little else ""
        yield Finding("shared memory", "note" if little else "ok", f"{_bytes(free)} free for data workers", remedy)


def _disk(folder: Path) -> Iterator[Finding]:
    """Space and permission where runs would be written."""
    place = next(p for p in (folder.absolute(), *folder.absolute().parents) if p.is_dir())
    free = shutil.disk_usage(place).free
    if not os.access(place, os.W_OK):
        yield Finding(
            "disk", "broken", f"{place} cannot be written", "give the permission, or set run=FOLDER elsewhere"
        )
    elif free < _LITTLE_DISK:
        remedy = "a checkpoint takes 16 bytes a parameter: see flowgen plan, and train.checkpoint.keep"
        yield Finding("disk", "note", f"{_bytes(free)} free in {place}", remedy)
    else:
        yield Finding("disk", "ok", f"{_bytes(free)} free in {place}")


def _codecs() -> Iterator[Finding]:
    import av

    missing = {codec: what for codec, what in _ENCODERS.items() if codec not in av.codecs_available}
    if missing:
        names = ", ".join(f"{codec} ({what})" for codec, what in missing.items())
        yield Finding(
            "codecs",
            "note",
            f"PyAV {av.__version__} has no {names}",
            "install the wheel: pip install --force-reinstall av",
        )
    else:
        yield Finding("codecs", "ok", f"PyAV {av.__version__} writes {', '.join(_ENCODERS.values())}")


def _compiler() -> Iterator[Finding]:
    if shutil.which("c++") or shutil.which("g++") or shutil.which("clang++"):
        yield Finding("compiler", "ok", "for train.compile and DeepSpeed's own operators")
    else:
        yield Finding(
            "compiler",
            "note",
            "none; train.compile and the optimizer cpu-adam need one",
            "install g++ (Debian, Ubuntu: apt install g++), or leave both out",
        )


def _ranks() -> Iterator[Finding]:
    started = [name for name in ("RANK", "SLURM_STEP_NUM_TASKS", "MASTER_ADDR") if name in os.environ]
    try:
        with socket.create_server(("127.0.0.1", 0)):
            pass
    except OSError as error:
        yield Finding(
            "ranks",
            "broken",
            f"no port can be opened on 127.0.0.1 ({error.strerror})",
            "allow loopback connections: ranks meet there",
        )
        return
    if started:
        yield Finding("ranks", "ok", f"a launcher set {', '.join(started)}: this process joins its ranks")
    else:
        yield Finding("ranks", "ok", "one process, or as many as --gpus N says")


def _extras() -> Iterator[Finding]:
    """Which extras of flowgen are installed, and how to get the others."""
    metadata = importlib.metadata.metadata("flowgen")
    needs = [Requirement(line) for line in importlib.metadata.requires("flowgen") or ()]
    whole: list[str] = []
    missing: list[str] = []
    for extra in metadata.get_all("Provides-Extra") or ():
        own = [n for n in needs if n.marker is not None and n.marker.evaluate({"extra": extra})]
        own = [n for n in own if n.marker is None or not n.marker.evaluate({"extra": ""})]
        (whole if all(_installed(n) for n in own) else missing).append(extra)
    yield Finding("extras", "ok", f"installed: {', '.join(whole) or 'none'}")
    if missing:
        yield Finding("", "ok", f"not installed: {', '.join(missing)} (pip install 'flowgen[NAME]')")


def _installed(need: Requirement) -> bool:
    try:
        return need.specifier.contains(importlib.metadata.version(need.name), prereleases=True)
    except importlib.metadata.PackageNotFoundError:
        return False


def _bytes(count: int) -> str:
    return f"{count / 1e9:.1f} GB"

"""Twenty thousand damaged inputs: how many are tracebacks, hangs, crashes, or write outside of where they should.

    python benchmarks/fuzz.py [--inputs 20000] [--seed 0] [--only FAMILY ...] [--from N] [--limit 10] [--out faults.jsonl]

Inputs of a family are a function of (seed, family, number), and run in processes of their own: one that hangs or dies is
counted, and the next goes on. To see one again: --only "run folder" --from 123 --inputs 1. Exits with 1 where there are faults.

A hang is an input over --limit seconds by the clock, less the seconds in which its thread was ready to run and another program had
the processor (Linux counts them; elsewhere nothing is taken off). Waiting for a file, a pipe, a child or a lock counts. The last
columns are the longest input by that measure, by the clock, and in processor seconds of the process and its children.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import select
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

WRITES = {"os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.symlink", "os.truncate", "shutil.rmtree", "shutil.move"}
KINDS = ("traceback", "hang", "crash", "outside")
TIMES = ("seconds", "wall", "cpu")


class Late(BaseException):
    """An input is over its limit; no `except Exception` takes it."""


def delayed_s(pid: int | str = "self") -> float:
    """Seconds a process's first thread was ready to run and had no processor; 0 where the system does not count them."""
    try:
        return int(Path(f"/proc/{pid}/schedstat").read_bytes().split()[1]) / 1e9
    except (OSError, IndexError, ValueError):
        return 0.0


class Watch:
    """Seconds since it was made: own_s without those of `delayed_s`, wall_s, cpu_s (threads and ended children included)."""

    def __init__(self, pid: int | str = "self") -> None:
        self._pid = pid
        self._wall, self._delayed, self._cpu = time.monotonic(), delayed_s(pid), sum(os.times()[:4])

    @property
    def wall_s(self) -> float:
        return time.monotonic() - self._wall

    @property
    def own_s(self) -> float:
        return self.wall_s - (delayed_s(self._pid) - self._delayed)

    @property
    def cpu_s(self) -> float:
        """Of this process."""
        return sum(os.times()[:4]) - self._cpu


class Outside:
    """An audit hook that notes paths written to that lie in none of the folders that may be."""

    def __init__(self) -> None:
        self.allowed: tuple[str, ...] = ()
        self.found: list[str] = []
        sys.addaudithook(self)

    def __call__(self, event: str, arguments: Any) -> None:
        if not self.allowed:
            return
        path = arguments[1 if event == "os.symlink" else 0] if arguments else None
        if event == "open":
            flags = arguments[2] if isinstance(arguments[2], int) else 0
            if not flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
                return
        elif event not in WRITES:
            return
        if isinstance(path, bytes):
            path = os.fsdecode(path)
        if isinstance(path, str | os.PathLike):
            whole = Path(path).absolute()
            real = os.path.realpath(whole)
            if event != "open":  # of a link itself; what is opened through one is written
                real = os.path.join(os.path.realpath(whole.parent), whole.name)
            if not real.startswith(self.allowed) and real != "/dev/null":
                self.found.append(real)


def trial(
    family: str, number: int, seed: int, place: Path, outside: Outside | None = None, limit: float = 10.0
) -> dict[str, Any]:
    """Run one input in a folder of its own below `place`; what came of it."""
    import torch
    from fuzz_families import FAMILIES

    from flowgen.errors import FlowgenError

    def late(signum: int, frame: Any) -> None:
        left = limit - watch.own_s
        if left <= 0:
            raise Late
        signal.setitimer(signal.ITIMER_REAL, max(left, 0.01))  # others had the processor

    here, box, temporary = os.getcwd(), Path(tempfile.mkdtemp(dir=place)), tempfile.tempdir
    handler = signal.signal(signal.SIGALRM, late)
    result: dict[str, Any] = {"family": family, "number": number, "kind": "accepted"}
    torch.manual_seed(0)
    watch = Watch()
    try:
        os.chdir(box)
        tempfile.tempdir = str(box)
        if outside is not None:
            outside.allowed, outside.found = (str(box.resolve()), str(place.resolve() / "cache")), []
        signal.setitimer(signal.ITIMER_REAL, limit)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            FAMILIES[family](random.Random(f"{seed}/{family}/{number}"), box)
    except (FlowgenError, SystemExit) as error:
        result |= {"kind": "refused", "said": str(error)[:300]}
    except Late as error:
        result |= {"kind": "hang", "said": _where(error)}
    except BaseException as error:
        result |= {"kind": "traceback", "said": _where(error)}
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        times = {"seconds": watch.own_s, "wall": watch.wall_s, "cpu": watch.cpu_s}
        if outside is not None:
            outside.allowed = ()
            if outside.found:
                result |= {"kind": "outside", "said": outside.found[0]}
        signal.signal(signal.SIGALRM, handler)
        os.chdir(here)
        tempfile.tempdir = temporary
        subprocess.run(["rm", "-rf", str(box)], check=False)
    return {**result, **{k: round(v, 2) for k, v in times.items()}}


def _where(error: BaseException) -> str:
    """The error, and the innermost line of flowgen that it came through."""
    frames = [
        f
        for f in traceback.extract_tb(error.__traceback__)
        if "flowgen" in f.filename and not Path(f.filename).name.startswith("fuzz")
    ]
    place = f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else "?"
    return f"{place} {type(error).__name__}: {str(error)[:200]}"


def worker(family: str, first: int, count: int, seed: int, limit: float) -> None:
    """Run inputs one after the other, a line of JSON each."""
    import resource

    import torch
    from fuzz_material import clean, warm

    torch.set_num_threads(1)
    out = os.fdopen(os.dup(1), "w")
    resource.setrlimit(resource.RLIMIT_AS, (16 << 30, 16 << 30))
    place = Path(os.environ["TMPDIR"])
    if family == "command line":
        import gradio  # noqa: F401  # which writes beside itself when it is first imported
    warm([family])
    outside = Outside()
    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 1)
    os.dup2(quiet, 2)
    print("ready", file=out, flush=True)
    for number in range(first, first + count):
        print(json.dumps(trial(family, number, seed, place, outside, limit)), file=out, flush=True)
    clean()


def run_family(family: str, first: int, count: int, seed: int, limit: float) -> Iterator[dict[str, Any]]:
    """The results of a family's inputs. A process that dies, or is deaf to its alarm, is replaced."""
    number, end = first, first + count
    while number < end:
        with tempfile.TemporaryDirectory() as folder:
            environment = {**os.environ, "TMPDIR": folder, "OMP_NUM_THREADS": "1"}
            environment |= {"XDG_CACHE_HOME": f"{folder}/cache", "MPLCONFIGDIR": f"{folder}/cache"}
            environment["GRADIO_TEMP_DIR"] = f"{folder}/cache/gradio"
            command = [
                sys.executable,
                __file__,
                "--worker",
                family,
                str(number),
                str(end - number),
                str(seed),
                str(limit),
            ]
            process = subprocess.Popen(command, stdout=subprocess.PIPE, env=environment)
            assert process.stdout is not None
            for line in _lines(process, 2 * limit):
                yield json.loads(line)
                number += 1
            if number < end:
                code = process.poll()
                kind, said = ("hang", "deaf to its alarm") if code is None else ("crash", f"exit code {code}")
                times = (
                    {"seconds": 2 * limit, "wall": 2 * limit, "cpu": 0.0} if code is None else dict.fromkeys(TIMES, 0.0)
                )
                yield {"family": family, "number": number, "kind": kind, "said": said, **times}
                number += 1
            process.kill()
            process.wait()


def _lines(process: subprocess.Popen[bytes], patience: float) -> Iterator[bytes]:
    """Lines as they come, until none comes for so long (or, before the first input, for three minutes), as `Watch` counts."""
    assert process.stdout is not None
    descriptor, rest, wait, ready = process.stdout.fileno(), b"", 180.0, False
    watch = Watch(process.pid)
    while (left := wait - watch.own_s) > 0:
        if not select.select([descriptor], [], [], left)[0]:
            continue
        piece = os.read(descriptor, 1 << 16)
        if not piece:
            if process.wait() and not ready:
                sys.exit("the inputs cannot be made; the error stands above")
            return
        watch = Watch(process.pid)
        *whole, rest = (rest + piece).split(b"\n")
        for line in whole:
            wait, ready = patience, True
            if line != b"ready":
                yield line


def main() -> None:
    if sys.argv[1:2] == ["--worker"]:
        family, first, count, seed, limit = sys.argv[2:7]
        worker(family, int(first), int(count), int(seed), float(limit))
        return
    from fuzz_families import FAMILIES

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--inputs", type=int, default=20_000, help="over all families")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="+", choices=list(FAMILIES), default=list(FAMILIES))
    parser.add_argument(
        "--from", dest="first", type=int, default=0, help="the number of the first input of each family"
    )
    parser.add_argument("--limit", type=float, default=10.0, help="seconds an input may take")
    parser.add_argument("--out", type=Path, help="a file for the faults, a line of JSON each")
    options = parser.parse_args()
    total: Counter[str] = Counter()
    print(
        f"{'family':<14}{'inputs':>8}{'accepted':>10}{'refused':>9}"
        + "".join(f"{k:>11}" for k in KINDS)
        + f"{'slowest':>9}{'by clock':>10}{'processor':>11}",
        flush=True,
    )
    faults: list[dict[str, Any]] = []
    share, left = divmod(options.inputs, len(options.only))
    for i, family in enumerate(options.only):
        counts: Counter[str] = Counter()
        slowest = dict.fromkeys(TIMES, 0.0)
        for result in run_family(family, options.first, share + (i < left), options.seed, options.limit):
            counts[result["kind"]] += 1
            slowest = {k: max(v, result[k]) for k, v in slowest.items()}
            if result["kind"] in KINDS:
                faults.append(result)
                if options.out:
                    with options.out.open("a") as file:
                        file.write(json.dumps(result) + "\n")
        total += counts
        print(_row(family, counts, slowest), flush=True)
    print(_row("all", total))
    for said, count in Counter(f"{f['family']}: {f['said']}" for f in faults).most_common(40):
        print(f"{count:>5} {said}")
    sys.exit(bool(faults))


def _row(name: str, counts: Counter[str], slowest: dict[str, float] | None = None) -> str:
    figures = f"{counts.total():>8}{counts['accepted']:>10}{counts['refused']:>9}" + "".join(
        f"{counts[k]:>11}" for k in KINDS
    )
    times = "".join(f"{slowest[k]:>{width}.1f} s" for k, width in zip(TIMES, (7, 8, 9), strict=True)) if slowest else ""
    return f"{name:<14}{figures}{times}"


if __name__ == "__main__":
    main()

"""Load on `flowgen serve`, on the loopback: clients of all kinds, cancels, disconnects, and one restart.

    python benchmarks/serve.py runs/demo/audio --clients 64 --minutes 10

Each client asks for one to four clips with conditions of the run, waits, fetches, and asks again; some cancel, some leave. Half
way the server gets SIGTERM and is started again. Afterwards a share of the files is compared with what the Python API makes of the
same request, and the throughput with that of `Generator.sample` in batches of the same size on the same machine, before and after.
"""

from __future__ import annotations

import argparse
import os
import random
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from flowgen.client import Client
from flowgen.errors import FlowgenError
from flowgen.runs.generator import Generator
from flowgen.runs.requests import FromNoise


@dataclass
class Tally:
    """What became of the jobs."""

    seconds: list[float] = field(default_factory=list)
    made: list[tuple[dict[str, Any], list[Path]]] = field(default_factory=list)
    cancelled: int = 0
    left: list[str] = field(default_factory=list)
    refused: int = 0
    clips: int = 0
    problems: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)


class Server:
    """The process, which is restarted on the same port."""

    def __init__(self, run: Path, folder: Path, batch: int) -> None:
        self.run, self.folder, self.batch, self.port = run, folder, batch, 0
        self.start()

    def start(self) -> None:
        command = [sys.executable, "-m", "flowgen", "serve", str(self.run.resolve()), "--port", str(self.port)]
        command += [
            "--jobs",
            str(self.folder / "jobs"),
            "--batch",
            str(self.batch),
            "--patience",
            "10",
            "--keep",
            "1000000",
        ]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=dict(os.environ))
        assert self.process.stderr is not None
        for line in self.process.stderr:
            if found := re.search(r"http://[\d.]+:(\d+)", line):
                self.port = int(found.group(1))
                break
        threading.Thread(target=self.process.stderr.read, daemon=True).start()

    def restart(self) -> float:
        """Seconds without a server."""
        began = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        self.process.wait()
        self.start()
        return time.monotonic() - began

    @property
    def memory_mb(self) -> float:
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(r"VmRSS:\s+(\d+)", status).group(1)) / 1024  # type: ignore[union-attr]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--checked", type=int, default=40, help="jobs whose files are compared with the Python API")
    args = parser.parse_args()
    generator = Generator.load(args.run)
    offline = [throughput(generator, args.batch)]
    with tempfile.TemporaryDirectory() as name:
        folder, tally = Path(name), Tally()
        server = Server(args.run, folder, args.batch)
        try:
            measure(server, args, generator, tally, folder, offline)
        finally:
            server.process.kill()


def measure(server: Server, args: Any, generator: Generator, tally: Tally, folder: Path, offline: list[float]) -> None:
    client = Client(f"http://127.0.0.1:{server.port}", timeout_s=120)
    run = args.run.resolve().name
    until = time.monotonic() + 60 * args.minutes
    threads = [
        threading.Thread(target=ask, args=(client, run, generator, seed, until, tally, folder), daemon=True)
        for seed in range(args.clients)
    ]
    began = time.monotonic()
    for thread in threads:
        thread.start()
    memory, down = [], 0.0
    while time.monotonic() < until:
        time.sleep(5)
        memory.append(server.memory_mb)
        if not down and time.monotonic() - began > 30 * args.minutes:
            down = server.restart()
    for thread in threads:
        thread.join(300)
    seconds = time.monotonic() - began - down
    for id in tally.left:  # nobody waited for them; they are made all the same
        state = client.state(id, 60)["state"]
        if state not in ("done", "cancelled"):
            tally.problems.append(f"a job that was left is {state}")
    server.process.send_signal(signal.SIGTERM)
    server.process.wait(60)
    offline.append(throughput(generator, args.batch))
    checked = random.Random(0).sample(tally.made, min(args.checked, len(tally.made)))
    off = [distance_db(generator, request, paths) for request, paths in checked]
    own = tally.clips / seconds
    print(f"{args.clients} clients, {seconds:.0f} s and a restart of {down:.1f} s")
    print(
        f"jobs: {len(tally.made)} done, {tally.cancelled} cancelled, {len(tally.left)} left alone, {tally.refused} refused for a full queue"
    )
    print(
        f"of {len(off)} jobs compared with the Python API: the largest difference of a sample is {statistics.median(off):.0f} dB of "
        f"full scale in the median, {max(off):.0f} dB at the worst; another seed is {other_seed_db(generator, checked[0][0]):.0f} dB off"
    )
    ratio = own / statistics.mean(offline)
    print(
        f"clips a second: {own:.1f}; in batches of {args.batch} by the API {offline[0]:.1f} and {offline[1]:.1f}; ratio {ratio:.2f}"
    )
    quantiles = np.quantile(tally.seconds, [0.5, 0.99])
    print(f"seconds from asking to file: median {quantiles[0]:.2f}, 99th percentile {quantiles[1]:.2f}")
    print(
        f"memory: {memory[len(memory) // 4]:.0f} MB after a quarter, {memory[-1]:.0f} MB at the end, {max(memory):.0f} MB at most"
    )
    print(f"problems: {'; '.join(sorted(set(tally.problems))[:5]) or 'none'}")


def ask(client: Client, run: str, generator: Generator, seed: int, until: float, tally: Tally, folder: Path) -> None:
    """One client."""
    rng, turn = random.Random(seed), 0
    while time.monotonic() < until:
        turn += 1
        count = rng.choice((1, 1, 2, 4))
        conditions = [{name: rng.choice(names) for name, names in choices(generator).items()} for _ in range(count)]
        request = {"run": run, "conditions": conditions, "seed": rng.randrange(10**6)}
        began = time.monotonic()
        try:
            id = patiently(lambda request=request: client.submit(request)["id"], until)
            kind = rng.random()
            if kind < 0.02:
                patiently(lambda id=id: client.cancel(id), until)
                with tally.lock:
                    tally.cancelled += 1
                continue
            if kind < 0.04:
                with tally.lock:
                    tally.left.append(id)
                    tally.clips += count
                continue
            made = patiently(lambda id=id: client.wait(id), until + 300)
            paths = [
                patiently(lambda link=link, i=i, id=id: client.fetch(link, folder / f"{id}-{i}"), until + 300)
                for i, link in enumerate(made["files"])
            ]
        except FlowgenError as error:
            with tally.lock:
                if "full" in str(error):
                    tally.refused += 1
                elif time.monotonic() < until:
                    tally.problems.append(str(error)[:120])
            time.sleep(1)
            continue
        with tally.lock:
            tally.seconds.append(time.monotonic() - began)
            tally.made.append((request, paths))
            tally.clips += count


def patiently(call: Any, until: float) -> Any:
    """Again while the server is away."""
    while True:
        try:
            return call()
        except FlowgenError as error:
            if "cannot reach" not in str(error) or time.monotonic() > until:
                raise
            time.sleep(0.3)
        except (ConnectionError, OSError):
            time.sleep(0.3)


def choices(generator: Generator) -> dict[str, list[str]]:
    """Names of the class conditions."""
    found = {k: v.options.get("names") for k, v in (generator.config.conditions or {}).items() if v.type == "class"}
    return {name: list(names) for name, names in found.items() if names}


def throughput(generator: Generator, batch: int) -> float:
    """Clips a second of the Python API, files not written."""
    rng = random.Random(0)
    conditions = [{name: rng.choice(names) for name, names in choices(generator).items()} for _ in range(batch)]
    generator.sample(FromNoise(conditions=conditions[:2]))
    began = time.perf_counter()
    turns = 0
    while time.perf_counter() - began < 10:
        generator.sample(FromNoise(conditions=conditions, seed=turns))
        turns += 1
    return turns * batch / (time.perf_counter() - began)


def distance_db(generator: Generator, request: dict[str, Any], paths: list[Path]) -> float:
    """How far files of sound are from what the Python API makes of the request, made alone."""
    import soundfile

    clips = generator.sample(FromNoise(conditions=request["conditions"], seed=request["seed"]))
    pairs: list[tuple[Any, Any]] = [
        (soundfile.read(p, always_2d=True)[0].T, clip.data) for clip, p in zip(clips, paths, strict=True)
    ]
    return _db(max(float(np.abs(file - wave.clamp(-1, 1).numpy()).max()) for file, wave in pairs))


def other_seed_db(generator: Generator, request: dict[str, Any]) -> float:
    """The same of another clip, which a wrong file would be."""
    one, other = (generator.sample(FromNoise(conditions=request["conditions"], seed=s))[0].data for s in (0, 1))
    return _db(float((one - other).abs().max()))  # type: ignore[operator, union-attr]


def _db(amplitude: float) -> float:
    return 20 * float(np.log10(max(amplitude, 1e-9)))


if __name__ == "__main__":
    main()

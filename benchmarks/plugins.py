"""What plugins cost: `flowgen --help` and `plugins list` with 50 of them installed, and registering 500 components.

python benchmarks/plugins.py
"""

from __future__ import annotations

import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

from flowgen.plugins import Component, Registry, hookimpl

PLUGIN = """
from pathlib import Path
from flowgen import Component, hookimpl

@hookimpl
def flowgen_components():
    return [Component("metric", f"m{i}-{{n}}", "flowgen.core.paths:Linear", "a metric") for n in range(10)]
"""


def install(folder: Path, count: int) -> None:
    for i in range(count):
        (folder / f"bench_{i}.py").write_text(PLUGIN.replace("m{i}-{{n}}", f"m{i}-{{n}}"))
        info = folder / f"bench_{i}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: bench-{i}\nVersion: 1.0\nSummary: number {i}\n")
        (info / "entry_points.txt").write_text(
            f"[flowgen]\nbench{i} = bench_{i}\n[flowgen.commands]\nbench{i} = bench_{i}:command\n"
        )


def cpu_seconds(arguments: list[str], site: Path, runs: int = 7) -> float:
    """Median CPU time of the program."""
    spent = []
    for _ in range(runs):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(
            [sys.executable, "-m", "flowgen", *arguments],
            env={**os.environ, "PYTHONPATH": str(site)},
            stdout=subprocess.DEVNULL,
            check=True,
        )
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        spent.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return statistics.median(spent)


def registration_seconds(components: int, runs: int = 7) -> float:
    """Median CPU time of taking in one plugin with so many components."""
    spent = []
    for _ in range(runs):
        registry = Registry(entry_points=[])
        began = time.process_time()
        made = [Component("metric", f"m{i}", "flowgen.core.paths:Linear", "a metric") for i in range(components)]
        registry.register("bench", SimpleNamespace(flowgen_components=hookimpl(lambda made=made: made)))
        spent.append(time.process_time() - began)
    return statistics.median(spent)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        none, fifty = Path(folder) / "none", Path(folder) / "fifty"
        none.mkdir()
        fifty.mkdir()
        install(fifty, 50)
        print("CPU time, median of 7")
        for arguments in (["--help"], ["plugins", "list"]):
            for label, site in (("no plugin more", none), ("50 plugins", fifty)):
                print(f"  flowgen {' '.join(arguments):<14} {label:<16} {1000 * cpu_seconds(arguments, site):6.0f} ms")
    print(f"  registering 500 components          {1000 * registration_seconds(500):6.1f} ms")


if __name__ == "__main__":
    main()

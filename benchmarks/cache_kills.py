"""Kill `flowgen data cache` at random, go on, and compare with a cache that was never stopped: bit for bit.

    python benchmarks/cache_kills.py CONFIG [--kills 25] [overrides ...]

The cache has small shards here, so that kills fall within and between them. Exit code 1: the folders differ.
"""

from __future__ import annotations

import argparse
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

CODE = (
    "import sys; import flowgen.training.caching as caching; caching.PER_SHARD = {shard};"
    "from flowgen.cli import cli; cli(['data', 'cache', *sys.argv[1:]])"
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config")
    parser.add_argument("overrides", nargs="*")
    parser.add_argument("--kills", type=int, default=25)
    parser.add_argument("--shard", type=int, default=8, help="clips in a shard")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rng = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as place:
        whole, killed = Path(place, "whole"), Path(place, "killed")

        def start(folder: Path) -> subprocess.Popen[bytes]:
            code = CODE.format(shard=options.shard)
            command = [sys.executable, "-c", code, options.config, *options.overrides, "-o", str(folder)]
            return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

        if start(whole).wait():
            print("the cache cannot be made at all; run flowgen data cache CONFIG to see why")
            return 2
        shards = len(list(whole.glob("shard-*")))
        landed = 0
        for kill in range(options.kills):
            # so that the last kill falls near the end: after a share of the shards, and a moment more
            wanted = shards * kill // options.kills
            process = start(killed)
            while process.poll() is None and len(list(killed.glob("shard-*"))) < wanted:
                time.sleep(0.002)
            time.sleep(rng.uniform(0, 0.1) if kill else rng.uniform(0, 4))
            process.kill()
            landed += process.wait() == -signal.SIGKILL
        rest = len(list(killed.glob("shard-*")))
        failed = start(killed).wait()
        files = {p.name for folder in (whole, killed) for p in folder.iterdir()} - {".lock"}
        different = [n for n in sorted(files) if not _same(whole / n, killed / n)]
        print(
            f"{landed} of {options.kills} kills fell before the end; {rest} of {shards} shards were there after the last"
        )
        print(f"{len(files)} files, different: {', '.join(different) or 'none'}; exit code of the last run {failed}")
        return int(bool(different or failed))


def _same(a: Path, b: Path) -> bool:
    return a.is_file() and b.is_file() and a.read_bytes() == b.read_bytes()


if __name__ == "__main__":
    sys.exit(main())

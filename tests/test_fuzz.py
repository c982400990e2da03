"""A short part of benchmarks/fuzz.py: damaged inputs of every family are accepted or refused in a sentence."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
SHORT = {"config": 12, "override": 40, "table": 30, "shard": 30, "media": 25, "run folder": 25, "command line": 20}


@pytest.fixture(scope="module")
def fuzz(tmp_path_factory):
    before = os.environ.get("XDG_CACHE_HOME")
    os.environ["XDG_CACHE_HOME"] = str(tmp_path_factory.mktemp("cache"))
    sys.path.insert(0, str(BENCHMARKS))
    import fuzz
    import fuzz_families
    import fuzz_material

    fuzz_material.warm(list(fuzz_families.FAMILIES))
    yield fuzz
    fuzz_material.clean()
    sys.path.remove(str(BENCHMARKS))
    del os.environ["XDG_CACHE_HOME"]
    if before is not None:
        os.environ["XDG_CACHE_HOME"] = before


@pytest.mark.parametrize("family", SHORT)
def test_no_damaged_input_is_a_traceback(fuzz, tmp_path, family):
    from fuzz_families import FAMILIES

    assert family in FAMILIES
    results = [fuzz.trial(family, number, 1, tmp_path) for number in range(SHORT[family])]
    assert [r for r in results if r["kind"] not in ("accepted", "refused")] == []
    assert {r["kind"] for r in results} == {"accepted", "refused"}


def test_a_fault_is_found(fuzz, tmp_path, monkeypatch):
    def faulty(dice, box):
        kind = dice.choice(("raise", "write", "hang", "fine"))
        if kind == "raise":
            raise KeyError("x")
        if kind == "write":
            (tmp_path / "elsewhere").write_text("")
        while kind == "hang":
            pass

    monkeypatch.setitem(sys.modules["fuzz_families"].FAMILIES, "faulty", faulty)
    outside = fuzz.Outside()
    (tmp_path / "place").mkdir()
    found = {fuzz.trial("faulty", number, 0, tmp_path / "place", outside, limit=0.1)["kind"] for number in range(20)}
    assert found == {"traceback", "outside", "hang", "accepted"}


def test_a_processor_that_others_have_is_no_hang_and_a_wait_is(fuzz, tmp_path, monkeypatch):
    """Time that the system says another program had the processor is taken off; sleeping is not."""
    families = sys.modules["fuzz_families"].FAMILIES
    monkeypatch.setitem(families, "waits", lambda dice, box: time.sleep(0.4))
    assert fuzz.trial("waits", 0, 0, tmp_path, limit=0.2)["kind"] == "hang"
    began = time.monotonic()
    monkeypatch.setattr(fuzz, "delayed_s", lambda pid="self": 0.75 * (time.monotonic() - began))
    result = fuzz.trial("waits", 0, 0, tmp_path, limit=0.2)
    assert result["kind"] == "accepted"
    assert result["seconds"] < 0.2 < 0.4 <= result["wall"]
    assert result["cpu"] < 0.3
    monkeypatch.setitem(families, "waits", lambda dice, box: time.sleep(60))
    assert fuzz.trial("waits", 0, 0, tmp_path, limit=0.2)["kind"] == "hang"


def test_the_system_counts_how_long_a_process_waited_for_a_processor(fuzz):
    """Two that share one processor: each had half of the time by the clock."""
    if not Path("/proc/self/schedstat").exists():
        pytest.skip("this system does not count it")
    busy = "import os, time; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}); print(1, flush=True)\nwhile True: pass"
    processes = [subprocess.Popen([sys.executable, "-c", busy], stdout=subprocess.PIPE) for _ in range(2)]
    try:
        for process in processes:
            process.stdout.readline()
        watch = fuzz.Watch(processes[0].pid)
        time.sleep(1.0)
        assert watch.own_s < 0.8 * watch.wall_s
    finally:
        for process in processes:
            process.kill()
            process.wait()
            process.stdout.close()


def test_the_command_prints_a_row_for_each_family():
    command = [sys.executable, str(BENCHMARKS / "fuzz.py"), "--only", "override", "--inputs", "3"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert [line.split()[:2] for line in done.stdout.splitlines()[1:]] == [["override", "3"], ["all", "3"]]

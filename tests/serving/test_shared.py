"""Several servers and one Redis: any of them takes, makes, cancels and hands out any job, and none is lost or made twice."""

import json
import shutil
import socket
import subprocess
import threading
import time
from contextlib import contextmanager

import numpy as np
import pytest
import soundfile
from click.testing import CliRunner

from flowgen.cli import cli
from flowgen.client import Client
from flowgen.errors import FlowgenError, UsageError
from flowgen.serving.loaded import Loaded
from flowgen.serving.sampler import Sampler
from tests.serving.test_server import STEP, TOKEN, ask, server

pytest.importorskip("fastapi")
redis = pytest.importorskip("redis")
pytestmark = pytest.mark.skipif(shutil.which("redis-server") is None, reason="no redis-server")


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


@contextmanager
def started(port, folder):
    command = ["redis-server", "--port", str(port), "--dir", str(folder), "--appendonly", "yes", "--save", ""]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        until = time.monotonic() + 10
        while True:
            try:
                redis.Redis(port=port).ping()
                break
            except redis.RedisError:
                assert time.monotonic() < until
                time.sleep(0.05)
        yield f"redis://127.0.0.1:{port}/0"
    finally:
        process.terminate()
        process.wait()


@pytest.fixture
def queue(tmp_path):
    (tmp_path / "redis").mkdir()
    with started(free_port(), tmp_path / "redis") as url:
        yield url


def test_two_servers_are_one(untrained_runs, queue, tmp_path):
    one, other = tmp_path / "one", tmp_path / "other"
    with (
        server(untrained_runs, "--redis", queue, "--jobs", str(one)) as (first, _),
        server(untrained_runs, "--redis", queue, "--jobs", str(other)) as (second, _),
    ):
        a, b = Client(first, TOKEN), Client(second, TOKEN)
        ids = [(a if i % 2 else b).submit({"run": "notes", "seed": i, "count": 3})["id"] for i in range(40)]
        made = [(b if i % 2 else a).wait(id) for i, id in enumerate(ids)]
        for i in (3, 4):
            client = b if i % 2 else a
            sound = soundfile.read(client.fetch(made[i]["files"][0], tmp_path / "a.wav"))[0]
            asked = [
                "sample",
                str(untrained_runs / "runs" / "notes"),
                "--seed",
                str(i),
                "-o",
                str(tmp_path / f"{i}.wav"),
            ]
            assert CliRunner().invoke(cli, asked, catch_exceptions=False).exit_code == 0
            assert np.abs(sound - soundfile.read(tmp_path / f"{i}.wav")[0]).max() <= STEP
        counts = [
            ask(url, "GET", "/metrics")[1].partition("\nflowgen_clips_made ")[2].split()[0] for url in (first, second)
        ]
        assert sum(map(float, counts)) == 120, "made twice, or lost"
        assert all(float(count) > 0 for count in counts), "one server did nothing"

        tone = tmp_path / "a.wav"
        varied = a.submit({"run": "notes", "way": "vary", "clip": "x"}, files={"x": tone})
        assert b.wait(varied["id"])["state"] == "done"
        long = a.submit({"run": "moving-digits", "way": "long", "seconds": 900})
        while a.state(long["id"])["state"] == "queued":
            time.sleep(0.05)
        assert b.cancel(long["id"])["state"] == "cancelled"
        with pytest.raises(FlowgenError, match="cancelled"):
            a.wait(long["id"])
        assert a.wait(a.submit({"run": "notes"})["id"])["state"] == "done"


@pytest.fixture
def samplers(untrained_runs, queue, tmp_path, monkeypatch):
    """Two that share a queue, in this process, whose leases end soon."""
    from flowgen.serving import shared

    monkeypatch.setattr(shared, "LEASE_S", 1)
    loaded = Loaded({"notes": untrained_runs / "runs" / "notes"}, 1e9, "cpu")
    return [Sampler(shared.SharedJobs(tmp_path / name, queue), loaded) for name in ("one", "other")]


def test_what_a_server_that_is_gone_had_claimed_is_made_by_another(samplers):
    gone, other = samplers
    job = gone.accept({"seed": 3}, {}, 10)
    assert gone.jobs.claim(gone.jobs.queued()[0])
    gone.jobs._claimed.clear()  # it says nothing any more
    assert other.jobs.queued() == []
    other.start()
    until = time.monotonic() + 20
    while (now := other.jobs.get(job.id)).state != "done":
        assert time.monotonic() < until, now
        time.sleep(0.1)
    other.stop(5)
    assert len(now.files) == 1


def test_what_was_being_made_when_the_queue_went_away_is_made_after_it_came_back(samplers, monkeypatch):
    one, _ = samplers
    job, plain, away = one.accept({"seed": 3}, {}, 10), one.jobs.change, [2]

    def change(job, **values):
        if "done_steps" in values and values.get("state") is None and away[0]:
            away[0] -= 1
            raise redis.ConnectionError
        plain(job, **values)

    def failed(job, **values):
        if values.get("state") == "failed":
            raise redis.ConnectionError  # what went wrong cannot be said either
        change(job, **values)

    monkeypatch.setattr(one.jobs, "change", failed)
    one.start()
    until = time.monotonic() + 30
    while (now := one.jobs.get(job.id)).state != "done":
        assert time.monotonic() < until, now
        time.sleep(0.1)
    one.stop(5)
    assert away == [0]


def test_a_job_is_claimed_once_and_ends_once(samplers):
    one, other = samplers
    for round in range(20):
        job = one.accept({"seed": round}, {}, 100)
        won, both = [], threading.Barrier(2)

        def claim(jobs, id=job.id, won=won, both=both):
            own = jobs.get(id)
            both.wait()
            if jobs.claim(own):
                won.append(own)

        threads = [threading.Thread(target=claim, args=(s.jobs,)) for s in samplers]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(won) == 1
        other.jobs.change(other.jobs.get(job.id), state="cancelled")
        one.jobs.change(won[0], state="failed", error="late")
        assert (won[0].state, one.jobs.get(job.id).error) == ("cancelled", "")


def test_a_queue_that_is_away_is_said_and_comes_back(untrained_runs, tmp_path):
    port, data = free_port(), tmp_path / "redis"
    data.mkdir()
    with started(port, data) as url:
        serving = server(untrained_runs, "--redis", url, "--jobs", str(tmp_path / "jobs"))
        address, _ = serving.__enter__()
        id = Client(address, TOKEN).submit({"run": "notes"})["id"]
        Client(address, TOKEN).wait(id)
    try:
        status, answer = ask(address, "GET", f"/v1/generations/{id}")
        assert (status, answer["error"]) == (503, "the jobs that this server shares cannot be reached; try again")
        assert ask(address, "POST", "/v1/generations", json.dumps({"run": "notes"}))[0] == 503
        with started(port, data):
            assert ask(address, "GET", f"/v1/generations/{id}")[1]["state"] == "done"
            again = Client(address, TOKEN)
            assert again.wait(again.submit({"run": "notes"})["id"])["state"] == "done"
    finally:
        serving.__exit__(None, None, None)


def test_an_address_that_is_none_is_said_without_its_password(untrained_runs):
    run = str(untrained_runs / "runs" / "notes")
    done = CliRunner().invoke(cli, ["serve", run, "--redis", f"redis://:secret@127.0.0.1:{free_port()}/0"])
    assert isinstance(done.exception, UsageError)
    assert "127.0.0.1 cannot be reached" in str(done.exception)
    assert "secret" not in str(done.exception)
    kept = CliRunner().invoke(cli, ["serve", run, "--redis", "redis://x", "--keep", "5"])
    assert "--keep is for jobs of this server alone" in str(kept.exception)

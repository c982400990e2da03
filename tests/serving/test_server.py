"""A real server process on the loopback, asked as a stranger would: right clips, one sentence for everything else."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager

import numpy as np
import pytest
import soundfile
from click.testing import CliRunner

from flowgen.cli import cli
from flowgen.client import Client
from flowgen.errors import FlowgenError, UsageError

pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")

TOKEN = "a-token-of-tests-0123456789"
STEP = 1.5 / 32768


@contextmanager
def server(folder, *options, token=True):
    """Yields its address and process."""
    (folder / "token").write_text(TOKEN)
    (folder / "token").chmod(0o600)
    asked = ["--token-file", str(folder / "token")] if token else []
    runs = [str(folder / "runs" / name) for name in ("notes", "waves", "moving-digits")]
    command = [sys.executable, "-m", "flowgen", "serve", *runs, "--port", "0", *asked, *options]
    process = subprocess.Popen(command, cwd=folder, stderr=subprocess.PIPE, text=True, env={**os.environ})
    try:
        line = process.stderr.readline()
        while "http://" not in line:
            assert line, "the server did not start"
            line = process.stderr.readline()
        yield re.search(r"http://[\d.]+:\d+", line).group(), process
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def served(untrained_runs):
    with server(untrained_runs, "--jobs", str(untrained_runs / "jobs"), "--upload", "1", "--queue", "40") as (url, _):
        yield url


@pytest.fixture(scope="module")
def client(served):
    return Client(served, TOKEN)


@pytest.fixture(scope="module")
def tone(tmp_path_factory):
    path = tmp_path_factory.mktemp("tone") / "tone.wav"
    soundfile.write(path, 0.3 * np.sin(2 * np.pi * 440 * np.arange(4000) / 8000), 8000)
    return path


def samples(path):
    return soundfile.read(path)[0]


def ask(url, method, path, body=None, headers=None):
    """Status and JSON of an answer."""
    host, port = url.removeprefix("http://").split(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=30)
    given = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json", **(headers or {})}
    connection.request(method, path, body, {k: v for k, v in given.items() if v is not None})
    answer = connection.getresponse()
    text = answer.read()
    try:
        return answer.status, json.loads(text)
    except ValueError:
        return answer.status, text.decode(errors="replace")


# What it is for


def test_the_same_seed_is_the_clip_of_the_command_line(client, untrained_runs, tmp_path):
    asked = {"run": "notes", "conditions": {"pitch": "C4"}, "seed": 5, "count": 2, "settings": {"steps": 3}}
    remote = client.sample(asked, into=tmp_path)
    local = tmp_path / "own.wav"
    options = ["-c", "pitch=C4", "--seed", "5", "-n", "2", "--steps", "3", "-o", str(local)]
    CliRunner().invoke(cli, ["sample", str(untrained_runs / "runs/notes"), *options], catch_exceptions=False)
    for i, path in enumerate(remote):
        own = samples(tmp_path / f"own-{i}.wav")
        assert np.abs(own).max() > 0
        np.testing.assert_allclose(samples(path), own, atol=STEP)
    assert not np.allclose(samples(remote[0]), samples(remote[1]), atol=0.01)


def test_jobs_that_are_made_together_are_what_they_are_alone(client, tmp_path):
    """Twelve at once: while the first is made the others wait, and go in one batch.

    Without a search for phases, which amplifies the rounding of another batch size (docs/serving.md).
    """
    asked = [
        {"run": "waves", "conditions": {"pitch": p}, "seed": s, "settings": {"steps": 40}}
        for s, p in enumerate(["C4", "E4", "G4", "C5"] * 3)
    ]
    ids = [client.submit(a)["id"] for a in asked]
    ended = [client.wait(i) for i in ids]
    assert len({e["seconds"] for e in ended}) < 12  # some shared a batch
    for i in (5, 11):
        together = client.fetch(ended[i]["files"][0], tmp_path / f"{i}.wav")
        alone = client.sample(asked[i], into=tmp_path)[0]
        np.testing.assert_allclose(samples(together), samples(alone), atol=STEP)


def test_every_way_of_a_sound(client, tone, tmp_path):
    files = {"a": tone, "b": tone}
    begun = {"run": "notes", "format": "flac"}
    ways = [
        {"way": "continue", "clip": "a", "seconds": 0.3},
        {"way": "inpaint", "clip": "a", "start_s": 0.1, "end_s": 0.2},
        {"way": "vary", "clip": "a", "strength": 0.2},
        {"way": "animate", "first": "a", "seconds": 1},
        {"way": "interpolate", "a": "a", "b": "b", "count": 3, "settings": {"guidance": None}},
    ]
    for way in ways:
        used = {k: v for k, v in files.items() if k in way.values()}
        made = client.sample({**begun, **way}, used, into=tmp_path)
        assert len(made) == way.get("count", 1), way
        assert soundfile.info(made[0]).format == "FLAC"
    kept = samples(client.sample({**begun, **ways[1]}, {"a": tone}, into=tmp_path)[0])
    np.testing.assert_allclose(kept[:700], samples(tone)[:700], atol=STEP)
    assert not np.allclose(kept[900:1500], samples(tone)[900:1500], atol=1e-3)


def test_a_video_run_beside_it(client, tmp_path):
    made = client.sample({"run": "moving-digits", "conditions": [{"digit": 3}, {"digit": 4}]}, into=tmp_path)
    assert [path.suffix for path in made] == [".mp4", ".mp4"]
    assert b"ftyp" in made[0].read_bytes()[:12]
    assert {run["name"] for run in client.runs()} == {"notes", "waves", "moving-digits"}
    notes = next(run for run in client.runs() if run["name"] == "notes")
    assert "pitch" in notes["conditions"]
    assert ".wav" in notes["formats"]


def test_progress_is_told_and_cancelling_ends_it(served, client):
    long = client.submit({"run": "notes", "settings": {"steps": 20000}})
    behind = client.submit({"run": "notes", "settings": {"steps": 19999}})
    request = urllib.request.Request(
        f"{served}/v1/generations/{long['id']}/events", headers={"Authorization": f"Bearer {TOKEN}"}
    )
    with urllib.request.urlopen(request, timeout=30) as stream:
        seen = []
        while len(seen) < 3:
            line = stream.readline().decode()
            if line.startswith("data:"):
                seen.append(json.loads(line[5:])["progress"]["done"])
        assert seen == sorted(seen)
        for job in (behind, long):
            assert client.cancel(job["id"])["state"] == "cancelled"
        rest = stream.read().decode()
    assert "event: cancelled" in rest
    with pytest.raises(FlowgenError, match="cancelled"):
        client.wait(behind["id"])
    assert client.wait(client.submit({"run": "notes"})["id"])["state"] == "done"


def test_a_long_clip_is_heard_while_it_is_made_and_is_that_of_the_command_line(
    served, client, untrained_runs, tmp_path
):
    job = client.submit({"run": "notes", "way": "long", "seconds": 40, "seed": 3, "conditions": {"pitch": "C4"}})
    sound = client.stream(job["id"])
    begun = next(sound)
    assert client.state(job["id"])["state"] == "running"
    assert begun.startswith(b"RIFF")
    (tmp_path / "heard.wav").write_bytes(begun + b"".join(sound))
    made = client.wait(job["id"])
    client.fetch(made["files"][0], tmp_path / "made.wav")
    asked = ["sample", str(untrained_runs / "runs" / "notes"), "--long", "40", "--seed", "3", "-c", "pitch=C4"]
    done = CliRunner().invoke(cli, [*asked, "-o", str(tmp_path / "own.wav")], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    own, fetched = samples(tmp_path / "own.wav"), samples(tmp_path / "made.wav")
    assert len(own) == len(fetched) == 40 * 8000
    begins = int(0.5 * 8000)  # the first window; each further one amplifies the rounding of those before it
    assert np.abs(fetched[:begins] - own[:begins]).max() <= STEP
    assert (tmp_path / "heard.wav").read_bytes()[-2 * len(own) :] == (tmp_path / "made.wav").read_bytes()[
        -2 * len(own) :
    ]
    short = client.submit({"run": "notes"})
    with pytest.raises(UsageError, match="no clip that grows"):
        next(client.stream(short["id"]))


def test_a_long_clip_that_nobody_wants_any_more_ends(served, client):
    job = client.submit({"run": "moving-digits", "way": "long", "seconds": 600})
    next(client.stream(job["id"]))
    client.cancel(job["id"])
    until = time.monotonic() + 20
    again = client.submit({"run": "moving-digits"})
    while (state := client.state(again["id"])["state"]) != "done":
        assert time.monotonic() < until, state
        time.sleep(0.1)
    for wrong, word in (({"count": 2}, "count"), ({"seconds": -1}, "seconds"), ({"strength": 0.5}, "strength")):
        with pytest.raises(UsageError, match=word):
            client.submit({"run": "notes", "way": "long", "seconds": 5, **wrong})


def test_the_state_is_drawn_while_it_is_sampled_where_that_is_asked_for(served, client):
    shown = client.wait(client.submit({"run": "moving-digits", "preview": True, "count": 2})["id"])
    status, picture = ask(served, "GET", shown["preview"])
    assert (status, picture[1:4]) == (200, "PNG")
    silent = client.wait(client.submit({"run": "moving-digits"})["id"])
    assert "preview" not in silent
    assert ask(served, "GET", f"/v1/generations/{silent['id']}/preview")[0] == 404
    with pytest.raises(UsageError, match="preview: is no field of this way"):
        client.submit({"run": "moving-digits", "way": "vary", "clip": "a", "preview": True}, files={"a": __file__})


def test_who_is_refused_while_still_sending_hears_why(served):
    for body in ("x" * 500_000, "x" * 3_000_000):  # of which the second is larger than the server takes
        for given, status in ((None, 401), (f"Bearer {TOKEN}", 413 if len(body) > 1_000_000 else 422)):
            assert ask(served, "POST", "/v1/generations", body, {"Authorization": given})[0] == status


def test_figures_and_health_are_there(served):
    assert ask(served, "GET", "/health", headers={"Authorization": None})[0] == 200
    status, text = ask(served, "GET", "/metrics")
    assert status == 200
    assert 'flowgen_jobs{state="done"}' in text
    assert "flowgen_jobs_accepted_total" in text


def test_the_command_line_samples_remotely_with_the_same_options(served, untrained_runs, tone, tmp_path, monkeypatch):
    monkeypatch.setenv("FLOWGEN_TOKEN", TOKEN)
    for name, options in {
        "plain": ["-c", "pitch=C4", "-c", "pitch=E4", "--seed", "3", "--steps", "3", "--guidance", "2"],
        "inpainted": ["--inpaint", str(tone), "--from", "0.1", "--to", "0.2", "--normalise"],
        "varied": ["--vary", str(tone), "--strength", "0.3", "-n", "2"],
    }.items():
        for where, run in (("here", str(untrained_runs / "runs/notes")), ("there", f"{served}/notes")):
            command = ["sample", run, *options, "-o", str(tmp_path / f"{name}-{where}.wav")]
            done = CliRunner().invoke(cli, command, catch_exceptions=False)
            assert done.exit_code == 0
        here, there = (sorted(tmp_path.glob(f"{name}-{where}*.wav")) for where in ("here", "there"))
        assert len(here) == len(there) == (1 if name == "inpainted" else 2)
        for one, other in zip(here, there, strict=True):
            np.testing.assert_allclose(samples(one), samples(other), atol=STEP)
    for options, word in ((["--device", "cpu"], "--device"), (["-c", "pitch=H9"], "H9"), (["-o", "x"], "extension")):
        done = CliRunner().invoke(cli, ["sample", f"{served}/notes", *options])
        assert isinstance(done.exception, UsageError)
        assert word in str(done.exception)
    again = CliRunner().invoke(cli, ["sample", f"{served}/notes", "-o", str(tmp_path / "inpainted-there.wav")])
    assert "overwritten" in str(again.exception)


# What it refuses


@pytest.mark.parametrize("given", [None, "Bearer wrong", "Basic " + TOKEN, "Bearer", f"Bearer {TOKEN}x"])
def test_without_its_token_nothing_is_told(served, given):
    for method, path in [
        ("GET", "/v1/runs"),
        ("POST", "/v1/generations"),
        ("GET", "/metrics"),
        ("GET", "/openapi.json"),
    ]:
        status, answer = ask(served, method, path, "{}", {"Authorization": given})
        assert status == 401
        assert "token" in answer["error"]


BAD = [
    ({"run": "../notes"}, "unknown run"),
    ({"run": "notes", "steps": 3}, "steps"),
    ({"run": "notes", "way": "dance"}, "way"),
    ({"run": "notes", "conditions": {"pitch": "H9"}}, "H9"),
    ({"run": "notes", "conditions": {"smell": 1}}, "smell"),
    ({"run": "notes", "conditions": {"pitch": ["C4"]}}, "pitch"),
    ({"run": "notes", "count": 10**9}, "count"),
    ({"run": "notes", "count": 0}, "count"),
    ({"run": "notes", "seed": 2**80}, "seed"),
    ({"run": "notes", "seconds": 1e300}, "seconds"),
    ({"run": "notes", "seconds": -1}, "seconds"),
    ({"run": "notes", "settings": {"steps": "many"}}, "settings.steps"),
    ({"run": "notes", "settings": {"batch_size": 10**9}}, "batch_size"),
    ({"run": "notes", "settings": {"solver": "os:system"}}, "solver"),
    ({"run": "notes", "settings": {"guidance": {"type": "os:system"}}}, "guidance"),
    ({"run": "notes", "settings": {"guidance": {"type": "autoguidance", "run": "/etc"}}}, "guidance"),
    ({"run": "notes", "settings": {"path": "linear"}}, "path"),
    ({"run": "notes", "settings": {"solver": [["euler"]]}}, "solver"),
    ({"run": "notes", "format": "../../x"}, "format"),
    ({"run": "notes", "format": "exe"}, "format"),
    ({"run": "notes", "way": "vary", "clip": "../../../etc/passwd"}, "clip"),
    ({"run": "notes", "way": "vary", "clip": "missing"}, "missing"),
    ({"run": "notes", "way": "vary", "clip": "/etc/passwd"}, "clip"),
    ({"run": "notes", "way": "vary"}, "clip"),
    ([1, 2], "request"),
    ("text", "request"),
]


@pytest.mark.parametrize(("asked", "word"), BAD, ids=[str(i) for i in range(len(BAD))])
def test_a_bad_request_is_one_sentence_that_names_the_field(served, asked, word):
    status, answer = ask(served, "POST", "/v1/generations", json.dumps(asked))
    assert status == 422, answer
    assert word in answer["error"]
    assert "Traceback" not in str(answer)
    assert "\n" not in answer["error"]


@pytest.mark.parametrize("body", ["", "{", "[" * 100_000, "\x00\xff", "NaN"])
def test_what_is_no_json_is_refused(served, body):
    status, answer = ask(served, "POST", "/v1/generations", body.encode("latin-1"))
    assert status == 422
    assert answer["error"]


def test_paths_of_clients_lead_nowhere(served, client):
    made = client.wait(client.submit({"run": "notes"})["id"])
    for path in ("../job.json", "..%2fjob.json", "-1", "99", "job.json", "%2e%2e/%2e%2e/token"):
        status, _ = ask(served, "GET", f"/v1/generations/{made['id']}/files/{path}")
        assert status in (404, 422), path
    for id in ("..", "%2e%2e", "../jobs", "x" * 3000, made["id"] + "/../" + made["id"]):
        assert ask(served, "GET", f"/v1/generations/{id}")[0] in (200, 404, 307, 422)
    assert str(made).count("/tmp") == 0


def multipart(request, files):
    """(name, file name, content) as a body."""
    parts = [b'--B\r\nContent-Disposition: form-data; name="request"\r\n\r\n' + json.dumps(request).encode() + b"\r\n"]
    for name, file, content in files:
        head = f'--B\r\nContent-Disposition: form-data; name="{name}"; filename="{file}"\r\n\r\n'
        parts.append(head.encode() + content + b"\r\n")
    return b"".join([*parts, b"--B--\r\n"]), {"Content-Type": "multipart/form-data; boundary=B"}


def test_uploads_stay_in_the_folder_of_their_job(served, untrained_runs, tone):
    before = {p for p in untrained_runs.rglob("*") if "jobs" not in p.parts}
    for name in (
        "../../evil.wav",
        "/tmp/evil.wav",
        "a/../../evil.wav",
        "evil.wav\x00.png",
        "..",
        ".wav",
        "x" * 300 + ".wav",
    ):
        asked = {"run": "notes", "way": "vary", "clip": "a"}
        status, _ = ask(served, "POST", "/v1/generations", *multipart(asked, [("a", name, tone.read_bytes())]))
        assert status in (202, 400, 422)
    assert {p for p in untrained_runs.rglob("*") if "jobs" not in p.parts} == before


def test_files_that_nobody_reads_are_refused(served, tone):
    asked = {"run": "notes", "way": "vary", "clip": "a"}
    content = tone.read_bytes()
    for files, word in [
        ([("a", "a.wav", content), ("b", "b.wav", content)], "'b'"),
        ([("a", "a.wav", content), ("a", "b.wav", content)], "two files"),
    ]:
        status, answer = ask(served, "POST", "/v1/generations", *multipart(asked, files))
        assert status == 422
        assert word in answer["error"]


def test_a_file_that_is_no_sound_fails_its_job_alone(served, client):
    asked = {"run": "notes", "way": "vary", "clip": "a"}
    status, job = ask(
        served, "POST", "/v1/generations", *multipart(asked, [("a", "a.wav", b"<script>alert(1)</script>")])
    )
    assert status == 202
    with pytest.raises(FlowgenError):
        client.wait(job["id"])
    error = client.state(job["id"])["error"]
    assert "\n" not in error
    assert "/jobs/" not in error
    assert client.wait(client.submit({"run": "notes"})["id"])["state"] == "done"


def test_what_is_too_large_is_refused_before_it_is_read(served):
    status, answer = ask(served, "POST", "/v1/generations", headers={"Content-Length": str(10**9)})
    assert status == 413
    assert "1 MB" in answer["error"]
    host, port = served.removeprefix("http://").split(":")
    head = f"POST /v1/generations HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {TOKEN}\r\n"
    with socket.create_connection((host, int(port)), timeout=30) as raw:  # no length told: chunks without an end
        raw.sendall((head + "Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n").encode())
        chunk = b"10000\r\n" + b"x" * 65536 + b"\r\n"
        answer = b""
        try:
            for _ in range(64):
                raw.sendall(chunk)
            answer = raw.recv(4096)
        except (BrokenPipeError, ConnectionResetError):
            answer = b"HTTP/1.1 413"
    assert b"413" in answer


def test_a_client_that_says_nothing_does_not_stop_others(served, client):
    host, port = served.removeprefix("http://").split(":")
    silent = [socket.create_connection((host, int(port))) for _ in range(50)]
    for raw in silent:
        raw.sendall(b"POST /v1/gen")
    began = time.monotonic()
    assert client.wait(client.submit({"run": "notes"})["id"])["state"] == "done"
    assert time.monotonic() - began < 10
    silent[0].settimeout(30)
    assert silent[0].recv(100) == b""  # closed by the server, within its patience
    for raw in silent:
        raw.close()


def test_a_full_queue_says_when_to_come_back(served, client):
    first = client.submit({"run": "notes", "settings": {"steps": 50000}})
    ids, refused = [], None
    for i in range(60):
        status, answer = ask(
            served, "POST", "/v1/generations", json.dumps({"run": "notes", "settings": {"steps": 40000 + i}})
        )
        if status == 429:
            refused = answer
            break
        ids.append(answer["id"])
    for id in [*ids, first["id"]]:
        client.cancel(id)
    assert refused is not None
    assert 39 <= len(ids) <= 41
    assert refused["wait_s"] >= 1
    assert "full" in refused["error"]
    assert client.wait(client.submit({"run": "notes"})["id"])["state"] == "done"


def test_captions_are_data_and_never_a_page(served):
    asked = {"run": "notes", "conditions": {"pitch": "<script>"}}
    assert ask(served, "POST", "/v1/generations", json.dumps(asked))[0] == 422
    host, port = served.removeprefix("http://").split(":")
    connection = http.client.HTTPConnection(host, int(port))
    connection.request("GET", "/v1/generations/<script>", headers={"Authorization": f"Bearer {TOKEN}"})
    got = connection.getresponse()
    assert got.headers["content-type"] == "application/json"


# Where it listens, and restarts


def test_without_a_token_it_answers_this_machine_alone(untrained_runs, tmp_path):
    done = CliRunner().invoke(cli, ["serve", str(untrained_runs / "runs/notes"), "--host", "0.0.0.0", "--port", "0"])
    assert isinstance(done.exception, UsageError)
    assert "--token-file" in str(done.exception)
    with server(untrained_runs, "--jobs", str(tmp_path / "jobs"), token=False) as (url, _):
        assert ask(url, "GET", "/v1/runs")[0] == 200
        for headers in ({"Host": "evil.example"}, {"Origin": "https://evil.example"}, {"Origin": "null"}):
            status, answer = ask(url, "POST", "/v1/generations", '{"run": "notes"}', headers)
            assert status == 403
            assert "--token-file" in answer["error"]


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_jobs_survive_a_restart(untrained_runs, tmp_path, how):
    options = ("--jobs", str(tmp_path / "jobs"), "--patience", "0")
    asked = {"run": "notes", "seed": 3, "conditions": {"pitch": "E4"}, "settings": {"steps": 1500}}
    with server(untrained_runs, *options) as (url, process):
        first = Client(url, TOKEN)
        done = first.wait(first.submit({"run": "notes"})["id"])
        ids = [first.submit({**asked, "seed": seed})["id"] for seed in (3, 4)]
        while first.state(ids[0])["progress"]["done"] < 3:
            time.sleep(0.02)
        process.send_signal(how)
        process.wait(60)
    with server(untrained_runs, *options) as (url, _):
        again = Client(url, TOKEN)
        assert again.state(done["id"])["state"] == "done"
        files = [again.fetch(again.wait(id)["files"][0], tmp_path / f"{id}.wav") for id in ids]
        alone = again.sample(asked, into=tmp_path)[0]
        np.testing.assert_allclose(samples(files[0]), samples(alone), atol=STEP)


def test_the_token_of_a_server_is_a_strong_one(untrained_runs, tmp_path):
    (tmp_path / "weak").write_text("1234")
    done = CliRunner().invoke(
        cli, ["serve", str(untrained_runs / "runs/notes"), "--token-file", str(tmp_path / "weak")]
    )
    assert "16" in str(done.exception)

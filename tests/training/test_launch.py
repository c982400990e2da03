"""Ranks as they are started by hand, and as they end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from click.testing import CliRunner

from flowgen.cli import cli
from flowgen.config import Document, dumps, resolve
from flowgen.errors import FlowgenError, UsageError
from flowgen.runs.run import Run
from flowgen.training.engine import first_host, free_port, slurm_environment
from flowgen.training.launch import Launch
from flowgen.training.loggers import read_log


def write(values, path):
    path.write_text(dumps(resolve(Document(values)).config.model_dump(mode="json")))
    return str(path)


class Program:
    """`flowgen train ...` in a process of its own, its messages in a file."""

    def __init__(self, arguments, environment, log):
        self.log = log
        with log.open("w") as file:
            command = [sys.executable, "-m", "flowgen", "train", *arguments]
            self.process = subprocess.Popen(command, env=environment, stderr=file, stdout=file, start_new_session=True)

    def wait(self, seconds=240):
        return self.process.wait(seconds)

    def said(self):
        return self.log.read_text()

    def until(self, condition, seconds=240):
        end = time.monotonic() + seconds
        while not condition():
            assert self.process.poll() is None, self.said()
            assert time.monotonic() < end, self.said()
            time.sleep(0.1)

    def rank(self, number):
        for child in psutil.Process(self.process.pid).children(recursive=True):
            if child.environ().get("RANK") == str(number):
                return child
        raise AssertionError(self.said())


@pytest.fixture
def start(tiny_plugin, tmp_path):
    started = []

    def run(*arguments, **environment):
        program = Program(arguments, {**tiny_plugin, **environment}, tmp_path / f"{len(started)}.log")
        started.append(program.process)
        return program

    yield run
    for process in started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)


@pytest.mark.slow
def test_a_rank_that_hangs_is_named_and_one_that_is_killed_ends_the_others(start, tiny, tmp_path):
    config = write(tiny(tmp_path / "run", steps=10**6, watchdog_s=1.0, max_skipped=0), tmp_path / "c.yaml")
    program = start(config, "--gpus", "2")
    program.until(lambda: len(read_log(tmp_path / "run")) > 12)
    lost = program.rank(1)
    lost.send_signal(signal.SIGSTOP)
    program.until(lambda: "rank 1 (process" in program.said())
    assert "flowgen: rank 0 of 2" in program.said()
    assert "gave its last sign" in program.said()
    lost.send_signal(signal.SIGKILL)
    assert program.wait() == 1
    assert f"rank 1 (process {lost.pid} on " in program.said()
    assert "was ended by SIGKILL; the other ranks of this node were ended" in program.said()
    assert Run(tmp_path / "run").checkpoints()


@pytest.mark.slow
def test_a_stop_reaches_the_ranks_which_save_and_the_program_ends_well(start, tiny, tmp_path):
    config = write(tiny(tmp_path / "run", steps=10**6, checkpoint={"every": 10**6}), tmp_path / "c.yaml")
    program = start(config, "--gpus", "2")
    program.until(lambda: len(read_log(tmp_path / "run")) > 3)
    program.process.send_signal(signal.SIGTERM)
    assert program.wait() == 0, program.said()
    assert "stopped at step" in program.said()
    (saved,) = Run(tmp_path / "run").checkpoints()
    saved.verify()
    assert saved.manifest["ranks"] == 2


@pytest.mark.slow
def test_a_run_has_one_trainer_and_its_ranks_end_with_their_launcher(start, fit, tiny, tmp_path):
    values = tiny(tmp_path / "run", steps=10**6, workers=1)
    program = start(write(values, tmp_path / "c.yaml"), "--gpus", "2")
    program.until(lambda: len(read_log(tmp_path / "run")) > 12)
    holder = program.rank(0).pid
    with pytest.raises(FlowgenError, match=rf"is being trained by process {holder} on .*train .*c\.yaml.*run=.*run-2"):
        fit(values, resume=True)
    left = psutil.Process(program.process.pid).children(recursive=True)
    assert len(left) >= 4  # two ranks and the loader of each
    program.process.kill()
    _, alive = psutil.wait_procs(left, timeout=5)
    assert not alive
    log = [json.loads(line)["step"] for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()[:-1]]
    assert log == list(range(1, len(log) + 1))
    saved = Run(tmp_path / "run").newest_checkpoint().step
    assert fit({**values, "train": {**values["train"], "steps": saved + 2}}, resume=True).finished  # the lock is free
    assert not (tmp_path / "run" / ".lock").exists()


@pytest.mark.slow
def test_ranks_that_train_different_things_are_named(start, tiny, tmp_path):
    program = start(write(tiny(tmp_path / "run", network="tiny-branches"), tmp_path / "c.yaml"), "--gpus", "2")
    assert program.wait() == 1
    assert "in step 0 rank 1 ran network.heads.1 and rank 0 network.heads.0, which the other did not" in program.said()


@pytest.mark.slow
def test_two_nodes_meet_at_an_address(start, tiny, tmp_path):
    config = write(tiny(tmp_path / "run", steps=4), tmp_path / "c.yaml")
    where = ("--gpus", "1", "--nodes", "2", "--master", f"127.0.0.2:{free_port()}")
    nodes = [start(config, *where, "--node-rank", str(i)) for i in range(2)]
    for node in nodes:
        assert node.wait() == 0, node.said()
    assert Run(tmp_path / "run").newest_checkpoint().manifest["ranks"] == 2
    assert "done" in nodes[0].said()
    assert "done" not in nodes[1].said()


@pytest.mark.slow
def test_a_node_that_is_cut_off_ends_the_other_with_a_sentence(start, tiny, tmp_path):
    """It is stopped, as a cable that is pulled: no connection is closed, and nothing comes any more."""
    config = write(tiny(tmp_path / "run", steps=10**6, timeout_s=10.0), tmp_path / "c.yaml")
    where = ("--gpus", "1", "--nodes", "2", "--master", f"127.0.0.2:{free_port()}")
    nodes = [start(config, *where, "--node-rank", str(i)) for i in range(2)]
    nodes[0].until(lambda: len(read_log(tmp_path / "run")) > 12)
    lost = nodes[1].rank(1)
    lost.send_signal(signal.SIGSTOP)
    assert nodes[0].wait(60) == 1, nodes[0].said()
    assert "flowgen: rank 0 of 2 (process" in nodes[0].said()
    assert "has lost another rank" in nodes[0].said()
    assert "Go on from the newest checkpoint with --resume" in nodes[0].said()
    assert "Traceback" not in nodes[0].said()
    Run(tmp_path / "run").newest_checkpoint().verify()
    lost.send_signal(signal.SIGKILL)
    assert nodes[1].wait(60) != 0


@pytest.mark.slow
def test_tasks_of_srun_find_each_other(start, tiny, tmp_path):
    config = write(tiny(tmp_path / "run", steps=4), tmp_path / "c.yaml")
    step = {"SLURM_STEP_NUM_TASKS": "2", "SLURM_STEP_NODELIST": "localhost", "SLURM_JOB_ID": str(free_port())}
    tasks = [start(config, **step, SLURM_PROCID=str(i), SLURM_LOCALID=str(i)) for i in range(2)]
    for task in tasks:
        assert task.wait() == 0, task.said()
    assert Run(tmp_path / "run").newest_checkpoint().manifest["ranks"] == 2


@pytest.mark.slow
@pytest.mark.parametrize("hostfile", [False, True])
def test_the_deepspeed_launcher_runs_it_unchanged(tiny_plugin, tiny, tmp_path, hostfile):
    config = write(tiny(tmp_path / "run", steps=4), tmp_path / "c.yaml")
    where = ["--num_gpus", "2", "--master_port", str(free_port())]
    if hostfile:  # of one node, as it is started on each without ssh
        (tmp_path / "hosts").write_text("localhost slots=2\n")
        where = ["--hostfile", str(tmp_path / "hosts"), "--no_ssh", "--node_rank", "0"]
        where += ["--master_addr", "127.0.0.1", "--master_port", str(free_port())]
    program = [sys.executable, "-m", "deepspeed.launcher.runner", *where, "--module", "flowgen", "train", config]
    done = subprocess.run(program, env=tiny_plugin, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    assert Run(tmp_path / "run").newest_checkpoint().manifest["ranks"] == 2
    assert len(read_log(tmp_path / "run")) == 4


def test_what_srun_says_is_translated():
    step = {"SLURM_STEP_NUM_TASKS": "4", "SLURM_PROCID": "3", "SLURM_LOCALID": "1", "SLURM_STEP_NODELIST": "gpu[03-04]"}
    found = slurm_environment(step)
    assert {k: found[k] for k in ("RANK", "LOCAL_RANK", "WORLD_SIZE")} == {
        "RANK": "3",
        "LOCAL_RANK": "1",
        "WORLD_SIZE": "4",
    }
    assert found["MASTER_ADDR"] == "gpu03"
    assert slurm_environment({"SLURM_JOB_ID": "7", "SLURM_PROCID": "0"}) == {}


@pytest.mark.parametrize(
    ("nodes", "first"),
    [
        ("gpu01", "gpu01"),
        ("gpu01,gpu07", "gpu01"),
        ("gpu[03-07,12],login", "gpu03"),
        ("a[9,11]", "a9"),
        ("n-1-[2-3]", "n-1-2"),
    ],
)
def test_the_first_host_of_a_node_list(nodes, first):
    assert first_host(nodes) == first


def test_a_dry_run_says_what_would_run_where(tiny, tmp_path, monkeypatch):
    config = write(tiny(tmp_path / "run"), tmp_path / "c.yaml")
    arguments = [
        "train",
        config,
        "train.steps=3",
        "--gpus",
        "2",
        "--nodes",
        "2",
        "--master",
        "gpu01:29500",
        "--dry-run",
    ]
    monkeypatch.setattr(sys, "argv", ["flowgen", *arguments])
    done = CliRunner().invoke(cli, arguments)
    assert done.exit_code == 0, done.output
    where = "torchrun --nnodes 2 --nproc-per-node 2 --node-rank {} --master-addr gpu01 --master-port 29500"
    assert f"gpu01 (ranks 0 to 1): {where.format(0)} -m flowgen train {config} train.steps=3" in done.output
    assert f"node 1 (ranks 2 to 3): {where.format(1)} -m flowgen train {config} train.steps=3" in done.output
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"nodes": 2}, "several nodes need --master"),
        ({"nodes": 2, "master": "gpu01"}, "HOST:PORT"),
        ({"node_rank": 1}, "--node-rank must lie from 0 to 0"),
    ],
)
def test_a_launch_that_cannot_be_is_refused(given, sentence):
    with pytest.raises(UsageError, match=sentence):
        Launch(2, **given)


EXPECTED = {  # DeepSpeed 0.19; a change here is news: read docs/training.md, "Several modalities"
    "same": dict.fromkeys("0123", "exact"),
    "every head": dict.fromkeys("0123", "exact"),
    "alternate": {"0": "exact", "1": "exact", "2": "exact", "3": "wrong"},
    "alternate, cured": dict.fromkeys("0123", "exact"),
    "differ": {"0": "exact", "1": "wrong", "2": "wrong"},
}


@pytest.mark.slow
def test_what_deepspeed_does_with_ranks_that_differ_is_what_we_know(tiny_plugin, tmp_path):
    found = {}
    for cases, stages in (("same;every head;alternate;alternate, cured", "0,1,2,3"), ("differ", "0,1,2")):
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
        worker = str(Path(__file__).with_name("canary.py"))
        out = tmp_path / "found.json"
        done = subprocess.run(
            [*command, worker, str(out), cases, stages], capture_output=True, text=True, env=tiny_plugin
        )
        assert done.returncode == 0, done.stderr[-3000:]
        found |= json.loads(out.read_text())
    assert found == EXPECTED

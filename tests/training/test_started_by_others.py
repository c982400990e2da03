"""A program that has made the process group itself, as Ray does, trains in it."""

import json
import os
import subprocess
import sys

PROGRAM = """
import sys
import torch
torch.distributed.init_process_group("gloo")
from flowgen.config import load
from flowgen.training.trainer import train
steps = ["train.steps=4", "network.width=8", "network.depth=1", "sample.steps=2", "train.preview.every=0"]
train(load("points/checkerboard", [f"run={sys.argv[1]}", *steps]), resume=sys.argv[2] == "resume")
assert torch.distributed.is_initialized()
"""


def test_ranks_of_another_s_process_group_train_and_go_on(tmp_path):
    (tmp_path / "program.py").write_text(PROGRAM)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    for how in ("start", "resume"):
        asked = [*command, str(tmp_path / "program.py"), str(tmp_path / "run"), how]
        done = subprocess.run(asked, capture_output=True, text=True, env=env, timeout=200)
        assert done.returncode == 0, done.stderr[-3000:]
    log = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert log[-1]["step"] == 4

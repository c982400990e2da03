"""Tokens of a clip over several ranks."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from flowgen.media.streams import Axis, StreamSpec
from flowgen.nn import Transformer
from flowgen.nn.parallel import SequenceGroup


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [2, 4])
def test_outputs_and_mean_gradients_are_those_of_one_rank(tmp_path, ranks):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
    worker, out = str(Path(__file__).with_name("sequence_worker.py")), tmp_path / "out.json"
    done = subprocess.run(
        [*command, worker, str(out)], capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stderr[-3000:]
    for case, (outputs, gradients) in json.loads(out.read_text()).items():
        bound = (2e-2, 5e-2) if case == "bfloat16" else (1e-5, 1e-4)
        assert outputs < bound[0], case
        assert gradients < bound[1], case


def test_what_does_not_divide_is_refused():
    network = Transformer(StreamSpec(2, (Axis("time", 6),)), {}, width=12, depth=1, heads=3)
    with pytest.raises(ValueError, match="3 heads do not divide among 2 ranks"):
        network.shard_sequence(SequenceGroup(0, 2))
    network = Transformer(StreamSpec(2, (Axis("time", 5),)), {}, width=8, depth=1, heads=2)
    with pytest.raises(ValueError, match="5 tokens of a clip do not divide among 2 ranks"):
        network.shard_sequence(SequenceGroup(0, 2))

"""The same run on any number of ranks, under any ZeRO stage, in any split into micro-batches.

With UPDATE_DOCS=1 in the environment, the table of docs/training.md is written from what is measured here.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from itertools import product
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from flowgen.training.loggers import read_log

pytestmark = [pytest.mark.slow, pytest.mark.exact]

STAGES = (0, 1, 2, 3)
PRECISIONS = ("float32", "bfloat16")
DOCS = Path(__file__).parents[2] / "docs" / "training.md"
NETWORK = {"type": "tiny-blocks", "width": 61, "dropout": 0.0}


def name(ranks, stage, precision="float32", micro="whole"):
    return f"{ranks}-{stage}-{precision}-{micro}"


@pytest.fixture(scope="module")
def runs(tiny, tiny_plugin, tmp_path_factory):
    """Every run of the matrix, by launches of 1, 2 and 4 ranks."""
    root = tmp_path_factory.mktemp("ranks")

    def config(folder, stage, precision="float32", micro=None):
        zero = {"stage": stage, "stage3_param_persistence_threshold": 0}
        values = tiny(
            root / folder, {"zero_optimization": zero}, network=NETWORK, precision=precision, micro_batch_size=micro
        )
        return {"train": values}

    def launch(ranks, jobs):
        (root / "jobs.json").write_text(json.dumps(jobs))
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
        worker = str(Path(__file__).with_name("worker.py"))
        done = subprocess.run(
            [*command, worker, str(root / "jobs.json")], capture_output=True, text=True, env=tiny_plugin
        )
        assert done.returncode == 0, done.stderr[-4000:]

    for ranks in (1, 2, 4):
        jobs = [config(name(ranks, s, p), s, p) for s, p in product(STAGES, PRECISIONS)]
        if ranks > 1:
            jobs += [config(name(ranks, s, micro="split"), s, micro=1) for s in STAGES]
        launch(ranks, jobs)
        # in new processes, as a run is resumed: with several engines before it in one process, ZeRO 2 on 4 ranks arranges its
        # sums in another order (1 ulp), resumed or not
        jobs = []
        for stage in STAGES:  # the same number of ranks: exactly
            folder = f"{name(ranks, stage)}-resumed"
            jobs += [{"rewind": str(root / name(ranks, stage)), "into": str(root / folder)}]
            jobs += [{**config(folder, stage), "resume": True}]
        for before in {2: (1,), 4: (2,)}.get(ranks, ()):  # more ranks than before
            for stage in STAGES:
                folder = f"{name(before, stage)}-on-{ranks}"
                jobs += [{"rewind": str(root / name(before, stage)), "into": str(root / folder)}]
                jobs += [{**config(folder, stage), "resume": True}]
        launch(ranks, jobs)
    jobs = []
    for before, stage in product((2, 4), STAGES):  # fewer
        folder = f"{name(before, stage)}-on-1"
        jobs += [{"rewind": str(root / name(before, stage)), "into": str(root / folder)}]
        jobs += [{**config(folder, stage), "resume": True}]
    launch(1, jobs)
    return root


def losses(folder):
    return torch.tensor([entry["loss"] for entry in read_log(folder)], dtype=torch.float64)


def deviation(one, other):
    """Largest relative difference of the losses of 20 steps."""
    one, other = losses(one), losses(other)
    assert len(one) == len(other) == 20
    return float(((one - other) / one).abs().max())


def tensors(folder):
    root = folder / "checkpoints" / "step-00000020"
    files = sorted(root.rglob("*.safetensors"))
    return {(str(p.relative_to(root)), k): v for p in files for k, v in load_file(p).items()}


@pytest.mark.parametrize(("ranks", "stage"), [*product((1, 2, 4), STAGES)])
def test_the_losses_are_the_same(runs, ranks, stage):
    assert deviation(runs / name(1, 0), runs / name(ranks, stage)) < 1e-5
    if ranks > 1:
        assert deviation(runs / name(1, 0), runs / name(ranks, stage, micro="split")) < 1e-5


@pytest.mark.parametrize(("ranks", "stage"), [*product((1, 2, 4), STAGES)])
def test_losses_in_bfloat16_differ_by_its_rounding(runs, ranks, stage):
    assert deviation(runs / name(1, 0, "bfloat16"), runs / name(ranks, stage, "bfloat16")) < 2e-2
    assert 0 < deviation(runs / name(1, 0), runs / name(ranks, stage, "bfloat16")) < 5e-2


@pytest.mark.parametrize(("ranks", "stage"), [*product((1, 2, 4), STAGES)])
def test_a_resumed_run_is_exact(runs, ranks, stage):
    one, other = tensors(runs / name(ranks, stage)), tensors(runs / f"{name(ranks, stage)}-resumed")
    assert one.keys() == other.keys()
    off = {key: float((one[key] - other[key]).abs().max()) for key in one if not torch.equal(one[key], other[key])}
    assert not off
    assert torch.equal(losses(runs / name(ranks, stage)), losses(runs / f"{name(ranks, stage)}-resumed"))


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize(("before", "after"), [(1, 2), (2, 4), (2, 1), (4, 1)])
def test_a_run_goes_on_with_another_number_of_ranks(runs, before, after, stage):
    whole, moved = runs / name(before, stage), runs / f"{name(before, stage)}-on-{after}"
    assert deviation(whole, moved) < 1e-5
    for which in ("network", "ema"):
        one, other = (load_file(f / f"checkpoints/step-00000020/{which}.safetensors") for f in (whole, moved))
        for key in one:
            torch.testing.assert_close(one[key], other[key], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("ranks", [2, 4])
def test_the_average_is_the_same_under_every_stage(runs, ranks):
    expected = load_file(runs / name(1, 0) / "checkpoints/step-00000020/ema.safetensors")
    for stage in STAGES:
        ours = load_file(runs / name(ranks, stage) / "checkpoints/step-00000020/ema.safetensors")
        for key in expected:
            torch.testing.assert_close(ours[key], expected[key], rtol=1e-4, atol=1e-5)


def held(runs, ranks, stage, what):
    return max(json.loads(p.read_text())[what] for p in (runs / name(ranks, stage)).glob("held-*.json"))


@pytest.mark.parametrize("ranks", [2, 4])
def test_each_rank_holds_its_share(runs, ranks):
    whole = {what: held(runs, ranks, 0, what) for what in ("optimizer", "parameters")}
    for stage in (1, 2, 3):
        assert held(runs, ranks, stage, "optimizer") == pytest.approx(whole["optimizer"] / ranks, rel=0.05)
    for stage in (1, 2):
        assert held(runs, ranks, stage, "parameters") == whole["parameters"]
    assert held(runs, ranks, 3, "parameters") == pytest.approx(whole["parameters"] / ranks, rel=0.05)


def test_the_table_of_the_docs_has_these_rows(runs):
    rows = [
        "| ranks | stage | float32: losses differ by | bfloat16: by | resumed | optimizer state a rank | parameters a rank |",
        "|---|---|---|---|---|---|---|",
    ]
    for ranks, stage in product((1, 2, 4), STAGES):
        figures = [
            f"{deviation(runs / name(1, 0), runs / name(ranks, stage)):.0e}",
            f"{deviation(runs / name(1, 0, 'bfloat16'), runs / name(ranks, stage, 'bfloat16')):.0e}",
            "bit for bit",
            f"{held(runs, ranks, stage, 'optimizer') / held(runs, 1, 0, 'optimizer'):.2f}",
            f"{held(runs, ranks, stage, 'parameters') / held(runs, 1, 0, 'parameters'):.2f}",
        ]
        rows.append(f"| {ranks} | {stage} | {' | '.join(figures)} |")
    before, _, rest = DOCS.read_text().partition("<!-- matrix -->\n")
    table, _, after = rest.partition("<!-- end of matrix -->")
    if os.environ.get("UPDATE_DOCS"):
        DOCS.write_text(before + "<!-- matrix -->\n" + "\n".join(rows) + "\n<!-- end of matrix -->" + after)
        return
    assert [row.split(" | ")[:2] for row in table.strip().splitlines()] == [row.split(" | ")[:2] for row in rows]

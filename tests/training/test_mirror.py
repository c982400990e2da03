"""A run whose checkpoints are kept elsewhere too, and that an empty machine goes on with."""

from __future__ import annotations

import shutil

import fsspec
import pytest
import torch
from fsspec.implementations.memory import MemoryFileSystem
from safetensors.torch import load_file

from flowgen.errors import FlowgenError, UsageError
from flowgen.runs.run import Run

FLAT = {"warmup": 0, "decay": "constant"}


@pytest.fixture
def url():
    name = "memory://bucket/mine"
    yield name
    store = fsspec.filesystem("memory")
    if store.exists("/bucket"):
        store.rm("/bucket", recursive=True)


def config(tiny, run, steps, url=None, **options):
    values = tiny(run, steps=steps, schedule=FLAT)
    saving = {"every": 2, "keep": 2, **options, **({} if url is None else {"mirror": url})}
    values["train"]["checkpoint"] = saving
    return values


def names(url):
    return sorted(name.split("/mine/")[1] for name in fsspec.filesystem("memory").find("/bucket/mine"))


def last(run):
    return {
        file: load_file(Run(run).newest_checkpoint().folder / file)
        for file in ("network.safetensors", "ema.safetensors")
    }


@pytest.mark.parametrize("background", [False, True])
def test_an_empty_machine_goes_on_bit_for_bit(fit, tiny, tmp_path, url, background):
    fit(config(tiny, tmp_path / "whole", 7))
    fit(config(tiny, tmp_path / "first", 5, url, background=background))
    here = sorted(str(p.relative_to(tmp_path / "first")) for p in (tmp_path / "first" / "checkpoints").rglob("*.*"))
    assert [
        n for n in names(url) if n.startswith("checkpoints/")
    ] == here  # those that were rotated away are gone there, too
    shutil.rmtree(tmp_path / "first")
    fit(config(tiny, tmp_path / "first", 7, url), resume=True)
    for file, tensors in last(tmp_path / "whole").items():
        found = last(tmp_path / "first")[file]
        assert tensors.keys() == found.keys()
        assert all(torch.equal(tensors[k], found[k]) for k in tensors)
    steps = [line for line in (tmp_path / "first" / "log.jsonl").read_text().splitlines() if '"step"' in line]
    assert steps, "the log came along"


def test_what_was_cut_off_is_passed_over_and_a_newer_one_here_stays(fit, tiny, tmp_path, url):
    fit(config(tiny, tmp_path / "run", 5, url))
    store = fsspec.filesystem("memory")
    store.rm_file("/bucket/mine/checkpoints/step-00000005/manifest.json")
    fit(config(tiny, tmp_path / "run", 6, url), resume=True)  # here step 5 is whole
    assert names(url).count("checkpoints/step-00000006/manifest.json") == 1
    assert not any("step-00000004" in name for name in names(url))
    store.rm_file("/bucket/mine/checkpoints/step-00000006/manifest.json")
    shutil.rmtree(tmp_path / "run")
    fit(config(tiny, tmp_path / "run", 6, url), resume=True)
    assert Run(tmp_path / "run").newest_checkpoint().step == 6


def test_a_store_that_does_not_answer_loses_nothing(fit, tiny, tmp_path, url, monkeypatch):
    put = MemoryFileSystem.put_file

    def away(self, *given, **named):
        raise ConnectionError("no route to host")

    monkeypatch.setattr(MemoryFileSystem, "put_file", away)
    with (
        pytest.warns(UserWarning, match="did not take the checkpoint"),
        pytest.raises(FlowgenError, match="is whole in"),
    ):
        fit(config(tiny, tmp_path / "run", 3, url))
    assert Run(tmp_path / "run").newest_checkpoint().step == 3
    monkeypatch.setattr(MemoryFileSystem, "put_file", put)
    fit(config(tiny, tmp_path / "run", 4, url), resume=True)
    assert {"checkpoints/step-00000003/manifest.json", "checkpoints/step-00000004/manifest.json"} <= set(names(url))


def test_a_store_that_holds_a_run_is_not_overwritten(fit, tiny, tmp_path, url):
    fit(config(tiny, tmp_path / "run", 2, url))
    with pytest.raises(UsageError, match=r"train\.checkpoint\.mirror: memory://bucket/mine holds a run already"):
        fit(config(tiny, tmp_path / "other", 2, url))
    with pytest.raises(FlowgenError, match=r"train\.checkpoint\.mirror|nosuch"):
        fit(config(tiny, tmp_path / "another", 2, "nosuch://bucket/mine"))


def test_a_store_of_another_run_changes_nothing_here(fit, tiny, tmp_path, url):
    fit(config(tiny, tmp_path / "theirs", 4, url))
    fit(config(tiny, tmp_path / "mine", 2))
    before = {path: path.read_bytes() for path in sorted((tmp_path / "mine").rglob("*")) if path.is_file()}
    changed = config(tiny, tmp_path / "mine", 4, url)
    changed["train"]["batch_size"] += 1
    with pytest.raises(UsageError, match=r"the run in memory://bucket/mine is another one: .*train\.batch_size"):
        fit(changed, resume=True)
    assert before == {
        p: p.read_bytes() for p in sorted((tmp_path / "mine").rglob("*")) if p.is_file() and p.name != ".lock"
    }


def test_a_damaged_one_is_put_aside_for_the_one_before_on_an_empty_machine_too(fit, tiny, tmp_path, url):
    fit(config(tiny, tmp_path / "run", 4, url))
    store, damaged = fsspec.filesystem("memory"), "/bucket/mine/checkpoints/step-00000004/ema.safetensors"
    store.pipe_file(damaged, store.cat_file(damaged)[:-1] + b"?")
    shutil.rmtree(tmp_path / "run")
    with pytest.raises(FlowgenError, match="on_damage=previous"):
        fit(config(tiny, tmp_path / "run", 4, url), resume=True)
    shutil.rmtree(tmp_path / "run")
    fit(config(tiny, tmp_path / "run", 4, url, on_damage="previous"), resume=True)
    assert [c.step for c in Run(tmp_path / "run").checkpoints()] == [2, 4]


def test_what_was_cut_off_and_is_older_is_removed(fit, tiny, tmp_path, url):
    fit(config(tiny, tmp_path / "run", 2, url))
    store = fsspec.filesystem("memory")
    store.pipe_file("/bucket/mine/checkpoints/step-00000001/network.safetensors", b"begun")
    fit(config(tiny, tmp_path / "run", 4, url), resume=True)
    assert not any("step-00000001" in name for name in names(url))


def test_a_place_that_takes_nothing_is_refused_before_the_first_step(fit, tiny, tmp_path, monkeypatch):
    with pytest.raises(UsageError, match="is the run folder itself"):
        fit(config(tiny, tmp_path / "run", 2, f"file://{tmp_path / 'run'}"))
    assert not Run(tmp_path / "run").checkpoints()

    def refused(self, *given, **named):
        raise PermissionError("read only")

    monkeypatch.setattr(MemoryFileSystem, "pipe_file", refused)
    with pytest.raises(FlowgenError, match=r"train\.checkpoint\.mirror: cannot write in memory://bucket/mine"):
        fit(config(tiny, tmp_path / "other", 2, "memory://bucket/mine"))


def test_names_in_a_store_do_not_lead_out_of_the_run_folder(fit, tiny, tmp_path, url):
    fit(config(tiny, tmp_path / "run", 2, url))
    store = fsspec.filesystem("memory")
    store.store["/bucket/mine/checkpoints/step-00000002/../../../out"] = store.store["/bucket/mine/config.yaml"]
    shutil.rmtree(tmp_path / "run")
    with pytest.raises(FlowgenError, match="leads out of the run folder"):
        fit(config(tiny, tmp_path / "run", 2, url), resume=True)
    assert not (tmp_path / "out").exists()

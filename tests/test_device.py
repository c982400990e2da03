"""One file names kinds of accelerators; everything else takes what torch says is there, whatever its kind."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
import torch
from torch.utils.data._utils.pin_memory import pin_memory

from flowgen import device
from flowgen.data import loader
from flowgen.errors import UsageError
from flowgen.media.clip import Clip
from flowgen.training import engine

ROOT = Path(__file__).parents[1]
KIND = re.compile(r"(cuda|xpu|mps|hip|nccl|xccl)(:\d*)?")
PLACES = ("flowgen", "modalities", "plugins", "benchmarks", "examples")


def kinds_named(text: str) -> set[str]:
    """What in a module names a kind of accelerator: whole strings, parts of f-strings, and attributes such as torch.cuda."""
    found = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and KIND.fullmatch(node.value):
            found.add(node.value)
        elif isinstance(node, ast.Attribute) and (node.attr == "is_cuda" or ast.unparse(node) in _MODULES):
            found.add(ast.unparse(node))
    return found


_MODULES = {f"torch.{kind}" for kind in ("cuda", "xpu", "mps")}


@pytest.mark.parametrize(
    "text",
    ['x.to("cuda")', 'x.to(f"cuda:{rank}")', "torch.cuda.manual_seed(0)", "x.is_cuda", 'init_process_group("nccl")'],
)
def test_the_search_finds_what_it_looks_for(text):
    assert kinds_named(text)


def test_kinds_of_accelerators_are_named_in_one_file():
    paths = [path for place in PLACES for path in sorted((ROOT / place).rglob("*.py"))]
    assert len(paths) > 150
    named = {str(path.relative_to(ROOT)): kinds_named(path.read_text()) for path in paths}
    assert {path for path, kinds in named.items() if kinds} == {"flowgen/device.py"}


@pytest.fixture(params=["cuda", "xpu", "mps"])
def stand_in(request, monkeypatch):
    """A machine with two accelerators of a kind that this one does not have; no tensor can be put on them."""
    current = [0]
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device(request.param))
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 2)
    monkeypatch.setattr(torch.accelerator, "current_device_index", lambda: current[0])
    monkeypatch.setattr(torch.accelerator, "set_device_index", lambda index: current.__setitem__(0, index))
    return request.param


@pytest.fixture
def no_accelerator(monkeypatch):
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)


def test_without_an_accelerator_everything_is_on_the_cpu(no_accelerator):
    assert device.accelerator() is None
    assert device.device_count() == 0
    cpu = torch.device("cpu")
    assert device.default_device() == device.device_of_process(3) == device.claim_device(3) == cpu
    assert device.device_name(cpu) == "cpu"
    assert device.peak_memory(cpu) is None
    assert device.collective_backend(cpu) == "gloo"


def test_the_accelerator_that_is_there_is_chosen(stand_in):
    assert device.default_device() == torch.device(stand_in, 0)
    assert [device.device_of_process(i).index for i in range(4)] == [0, 1, 0, 1]
    assert (
        device.collective_backend(torch.device(stand_in, 0)) == {"cuda": "nccl", "xpu": "xccl", "mps": "gloo"}[stand_in]
    )


def test_a_rank_has_an_accelerator_of_its_own_and_what_follows_is_put_on_it(stand_in):
    assert engine._own_device(1) == torch.device(stand_in, 1)
    assert device.default_device() == torch.device(stand_in, 1)


def test_more_ranks_than_accelerators_are_refused(stand_in):
    with pytest.raises(
        UsageError, match="process 2 of this machine has no accelerator of its own: torch sees 2; start fewer"
    ):
        engine._own_device(2)


class _Module:
    """What torch's module of a kind of device offers."""

    def __init__(self) -> None:
        self.seeds: list[int] = []

    def manual_seed(self, seed: int) -> None:
        self.seeds.append(seed)

    def get_device_name(self, where: torch.device) -> str:
        return f"Card {where.index}"

    def max_memory_allocated(self, where: torch.device) -> int:
        return 7


def test_names_memory_and_seeds_are_asked_of_the_module_of_the_kind(stand_in, monkeypatch):
    module = _Module()
    monkeypatch.setattr(torch, "get_device_module", lambda where: module if where.type == stand_in else None)
    where = torch.device(stand_in, 1)
    counts = stand_in != "mps"
    assert device.device_name(where) == ("Card 1" if counts else "mps")
    assert device.peak_memory(where) == (7 if counts else None)
    device.seed_device(where, 11)
    assert module.seeds == [11]


@pytest.fixture
def copies(monkeypatch):
    """What is asked of tensors; none is page-locked or copied here."""
    asked: list[object] = []
    monkeypatch.setattr(torch.Tensor, "is_pinned", lambda self: False)
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self: asked.append("pin") or self)
    monkeypatch.setattr(torch.Tensor, "to", lambda self, where, **how: asked.append((where, how)) or self)
    return asked


def test_what_is_sent_to_an_accelerator_is_page_locked_and_not_waited_for(stand_in, copies):
    where = torch.device(stand_in, 1)
    device.send(torch.ones(2), where)
    assert copies == ([(where, {})] if stand_in == "mps" else ["pin", (where, {"non_blocking": True})])


def test_what_is_on_the_device_or_goes_to_the_cpu_is_not_page_locked(copies):
    device.send(torch.ones(2), torch.device("cpu"))
    device.send(torch.ones(2, device="meta"), torch.device("cuda"))
    assert copies == [(torch.device("cpu"), {}), (torch.device("cuda"), {})]


def test_the_loader_page_locks_the_tensors_of_clips(copies):
    both = Clip({"sound": torch.ones(2), "picture": torch.ones(3)}, start=Clip(torch.ones(4)), conditions={"kind": "a"})
    (pinned,) = pin_memory([both])  # what the thread of torch's loader does
    assert copies == ["pin"] * 3
    assert pinned.conditions == both.conditions
    assert torch.equal(pinned.data["picture"], both.data["picture"])


@pytest.mark.parametrize(("kind", "locks"), [("cuda", True), ("xpu", True), ("mps", False), ("cpu", False)])
def test_workers_load_into_page_locked_memory_for_kinds_that_copy_from_it(monkeypatch, kind, locks):
    given = {}
    monkeypatch.setattr(loader, "DataLoader", lambda *_, **options: given.update(options) or [])
    split = loader.Split(2, 2)
    loader.batches([], 0, split, workers=1, schedule=object(), clips=object(), device=torch.device(kind))
    assert given["pin_memory"] is locks


def test_seeding_the_cpu_seeds_its_own_generator():
    with torch.random.fork_rng(devices=[]):
        device.seed_device(torch.device("cpu"), 5)
        first = torch.rand(3)
        torch.manual_seed(5)
        assert torch.equal(first, torch.rand(3))

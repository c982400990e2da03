"""Blocks whose frozen weights come and go: the same bits, two at a time, in the order of the pass."""

import pytest
import torch
from torch import nn

from flowgen.core.flow_map import forward_differentiable
from flowgen.errors import UsageError
from flowgen.nn.quantised import quantise
from flowgen.nn.swapping import BlockSwap
from flowgen.training.blocks import prepare_blocks

DEPTH, WIDTH = 5, 16
CPU = torch.device("cpu")


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm, self.deep = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, WIDTH)
        self.trained = nn.Parameter(torch.randn(WIDTH))

    def forward(self, x, scale):
        return x + torch.sin(self.deep(self.norm(x))) * self.trained * scale


class Network(nn.Module):
    repeated_blocks = ("blocks",)

    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList(Block() for _ in range(DEPTH))

    def forward(self, x):
        for block in self.blocks:
            x = block(x, scale=torch.tensor(0.5))
        return x


def network(precision="float32"):
    torch.manual_seed(0)
    made = Network()
    for name, p in made.named_parameters():
        p.requires_grad_("trained" in name)
    quantise(made, precision)
    return made


def passes(made, x):
    """Output and gradients of a training step, twice, with a pass without gradients between them."""
    found = []
    for _ in range(2):
        made.zero_grad()
        out = made(x)
        out.square().sum().backward()
        found += [out.detach(), *(p.grad.clone() for p in made.parameters() if p.requires_grad)]
        with torch.no_grad():
            found.append(made(x + 1))
    return found


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("precision", ["float32", "bfloat16", "int8", "int4"])
def test_results_are_the_same_bits(precision, recompute):
    x = torch.randn(3, WIDTH)
    plain, swapped = network(precision), network(precision)
    for made in (plain, swapped):
        prepare_blocks(made, recompute=recompute, backend=None)
    swap = BlockSwap(list(swapped.blocks))
    for one, other in zip(passes(plain, x), passes(swapped, x), strict=True):
        assert torch.equal(one, other)
    assert len(swap.resident) <= 2


def watched(made, swap):
    """Which block was filled when, and the most bytes on the device at any entry or copy."""
    filled, most = [], [0]

    def held():
        there = [t.untyped_storage().nbytes() for part in swap._parts for t in part._there]
        most[0] = max(most[0], sum(there))
        assert sum(there) == sum(swap.sizes[k] for k in swap.resident)

    for k, part in enumerate(swap._parts):

        def fetch(device, k=k, part=part, inner=part.fetch):
            new = not part.filled
            inner(device)
            filled.extend([k] if new else [])
            held()

        part.fetch = fetch
    for block in made.blocks:
        block.deep.register_forward_hook(lambda *_: held())
    return filled, most


@pytest.mark.parametrize("recompute", [False, True])
def test_at_most_two_blocks_are_there_and_the_next_is_fetched_before_it_runs(recompute):
    made = network()
    prepare_blocks(made, recompute=recompute, backend=None)
    swap = BlockSwap(list(made.blocks))
    assert swap.resident == []
    filled, most = watched(made, swap)
    out = made(torch.randn(3, WIDTH))
    assert filled == [0, 1, 2, 3, 4]
    assert swap.resident == [4]
    seen = []
    for k, block in enumerate(made.blocks):
        block.trained.register_hook(lambda _, k=k: seen.append((k, swap.resident)))
    out.sum().backward()
    assert filled == [0, 1, 2, 3, 4, 3, 2, 1, 0]
    assert seen == [(4, [3, 4]), (3, [2, 3]), (2, [1, 2]), (1, [0, 1]), (0, [0])]
    filled.clear()
    with torch.no_grad():
        made(torch.randn(3, WIDTH))
        made(torch.randn(3, WIDTH))
    assert filled == [1, 2, 3, 4, 0, 1, 2, 3, 4, 0]  # the first was there, and is fetched for the next pass
    assert most[0] == swap.most_resident == 2 * swap.sizes[0] < sum(swap.sizes) / 2


def test_swapped_weights_are_no_parameters_and_moving_the_network_releases_them():
    made = network("int8")
    swap = BlockSwap(list(made.blocks))
    made.add_module("swap", swap)
    assert {name.rpartition(".")[2] for name, _ in made.named_parameters()} == {"trained"}
    assert not list(made.buffers())
    assert swap.numbers == DEPTH * 3 * WIDTH
    made(torch.randn(3, WIDTH))
    assert swap.resident
    made.to("cpu")
    assert swap.resident == []
    assert made(torch.randn(3, WIDTH)).isfinite().all()


def test_weights_that_blocks_share_stay():
    made = network()
    made.blocks[1].deep.weight = made.blocks[0].deep.weight
    swap = BlockSwap(list(made.blocks))
    assert {name for name, _ in made.named_parameters() if "deep" in name} == {"blocks.0.deep.weight"}
    assert swap.sizes[0] == swap.sizes[1] == swap.sizes[2] - 4 * WIDTH * WIDTH


def test_another_order_of_calls_changes_no_result():
    plain, swapped = network(), network()
    BlockSwap(list(swapped.blocks))
    x = torch.randn(3, WIDTH)
    found = []
    for made in (plain, swapped):
        out = x
        for k in (3, 0, 0, 4, 2):
            out = made.blocks[k](out, torch.tensor(1.0))
        out.sum().backward()
        found.append([out, *(b.trained.grad for b in made.blocks if b.trained.grad is not None)])
    for one, other in zip(*found, strict=True):
        assert torch.equal(one, other)


def test_what_cannot_be_swapped_is_refused_in_a_sentence():
    made = network()
    BlockSwap(list(made.blocks))
    with forward_differentiable(), pytest.raises(UsageError, match="differentiates the network forward"):
        made(torch.randn(3, WIDTH))

    class Odd(Block):
        def forward(self, x, scale):
            return x, "odd"

    block = Odd().requires_grad_(False)
    BlockSwap([block])
    with pytest.raises(UsageError, match="Odd gives a str, so it is not seen"):
        block(torch.randn(3, WIDTH), torch.tensor(1.0))


def test_blocks_may_take_and_give_several_tensors():
    class Two(Block):
        def forward(self, streams):
            x = super().forward(streams["x"], torch.tensor(1.0))
            return {"x": x, "rest": (streams["rest"][0] + x, None)}

    found = []
    for swapped in (False, True):
        torch.manual_seed(0)
        blocks = [Two() for _ in range(3)]
        for block in blocks:
            for name, p in block.named_parameters():
                p.requires_grad_("trained" in name)
        if swapped:
            BlockSwap(blocks)
        streams = {"x": torch.randn(3, WIDTH), "rest": (torch.zeros(3, WIDTH), None)}
        for block in blocks:
            streams = block(streams)
        (streams["x"].sum() + streams["rest"][0].square().sum()).backward()
        found.append([streams["x"], *(block.trained.grad for block in blocks)])
    for one, other in zip(*found, strict=True):
        assert torch.equal(one, other)


def test_nothing_is_computed_of_a_copy_that_has_not_ended(monkeypatch):
    """Copies that end only when they are waited for, as late as a side stream could."""
    pending = []

    class Late:
        def __init__(self, device):
            self.device = device

        def start(self, pairs):
            for there, _ in pairs:
                there.fill_(torch.nan if there.is_floating_point() else 99)
            pending.append(pairs)

            def wait():
                pending.remove(pairs)
                for there, host in pairs:
                    assert there.untyped_storage().nbytes() == host.nbytes
                    there.copy_(host)

            return wait

    monkeypatch.setattr("flowgen.nn.swapping.Copies", Late)
    plain, swapped = network("int8"), network("int8")
    swap = BlockSwap(list(swapped.blocks))
    x = torch.randn(3, WIDTH)
    for one, other in zip(passes(plain, x), passes(swapped, x), strict=True):
        assert torch.equal(one, other)
    assert len(pending) == 1  # the first block of the next pass
    swapped.add_module("swap", swap)
    swapped.to("cpu")
    assert pending == []


def test_a_side_stream_waits_for_the_device_and_the_device_for_its_copies(monkeypatch):
    """On a stand-in for an accelerator's streams."""
    import contextlib
    import types

    from flowgen import device

    log = []

    class Stream:
        def __init__(self, name="side"):
            self.name = name

        def wait_stream(self, other):
            log.append(f"{self.name} waits for {other.name}")

        def wait_event(self, event):
            log.append(f"{self.name} waits for {event}")

        def record_event(self):
            log.append("copies are queued")
            return "the copies"

    @contextlib.contextmanager
    def on(stream):
        log.append(f"on {stream.name}")
        yield
        log.append(f"off {stream.name}")

    main = Stream("main")
    module = types.SimpleNamespace(Stream=lambda device: Stream(), current_stream=lambda device: main, stream=on)
    monkeypatch.setattr(device, "pins", lambda device: True)
    monkeypatch.setattr(torch, "get_device_module", lambda device: module)
    there, host = torch.zeros(3), torch.ones(3)
    wait = device.Copies(CPU).start([(there, host)])
    assert log == ["side waits for main", "on side", "off side", "copies are queued"]
    wait()
    assert log[-1] == "main waits for the copies"
    assert torch.equal(there, host)

"""What a card does, in one table a question: training speed beside diffusers' LTX and Wan, sampling, and loading.

    python benchmarks/gpu.py [--sizes 100M 1B 5B] [--device xpu] [--workers 8]
    python benchmarks/gpu.py --device cpu --tiny        # the same code in a minute

Needs the `benchmark` extra. The matrix rate of the card is measured, by the product of two large matrices in bfloat16;
shares are of that. Operations are counted by torch (`FlopCounterMode`), forward and backward. Weights are in bfloat16, under
autocast, all networks alike; text of 16 tokens is attended to by all. What does not fit into memory is said so.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from network import CHANNELS, Call, flowgen, ltx, wan
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import flowgen as core
from flowgen.config import load
from flowgen.core.random import Randomness
from flowgen.data.loader import Split, batches
from flowgen.device import default_device, device_name, synchronize
from flowgen.runs.experiment import Experiment
from flowgen.runs.generator import Generator
from flowgen.training.forecast import measured_rates
from flowgen.training.prepare import sample_clips
from flowgen.training.watch import batch_tensors


@dataclass(frozen=True)
class Size:
    """A network and its batch."""

    width: int
    depth: int
    heads: int
    batch: int
    grid: tuple[int, int, int]


SIZES = {
    "100M": Size(768, 10, 12, 8, (8, 16, 16)),
    "1B": Size(2048, 15, 16, 2, (8, 32, 32)),
    "5B": Size(3072, 33, 24, 1, (8, 32, 32)),
}
TINY = {"tiny": Size(64, 2, 2, 2, (2, 4, 4))}
NETWORKS = {"flowgen": flowgen, "ltx": ltx, "wan": wan}


@dataclass(frozen=True)
class Bench:
    """Where it is measured, and how often."""

    device: torch.device
    repeats: int

    def seconds(self, work: Callable[[], object]) -> float:
        """The best time of a call, all that it asked of the device included; the first one warms up."""
        best = float("inf")
        for repeat in range(self.repeats + 1):
            self.wait()
            start = time.perf_counter()
            work()
            self.wait()
            if repeat:
                best = min(best, time.perf_counter() - start)
        return best

    def wait(self) -> None:
        synchronize(self.device)

    @contextmanager
    def autocast(self) -> Iterator[None]:
        with torch.autocast(self.device.type, torch.bfloat16):
            yield


def passes(bench: Bench, net: nn.Module, call: Call) -> tuple[Callable[[], object], Callable[[], None]]:
    """A forward pass without gradients, and one with its backward pass."""

    def forward() -> object:
        with torch.no_grad(), bench.autocast():
            return call()

    def both() -> None:
        with bench.autocast():
            out = call()
        out.float().square().mean().backward()
        net.zero_grad(set_to_none=True)

    return forward, both


def built(bench: Bench, name: str, size: Size) -> tuple[nn.Module, Call]:
    with torch.device(bench.device):
        net, call = NETWORKS[name](size.grid, size.width, size.depth, size.heads, size.batch)
    return in_bfloat16(net), call


def in_bfloat16(net: nn.Module) -> nn.Module:
    """Weights alone: tables of positions stay as their network made them."""
    for parameter in net.parameters():
        parameter.data = parameter.data.to(torch.bfloat16)
    return net


def training(bench: Bench, sizes: dict[str, Size], rate: float, backend: str) -> None:
    print(
        "\nsize   network  compiled  parameters  forward, ms  forward+backward, ms  TFLOP/s  of the rate  time / flowgen"
    )
    for label, size in sizes.items():
        ours: dict[bool, float] = {}
        for name in NETWORKS:
            for compiled in (False, True):
                head = f"{label:<6} {name:<8} {'yes' if compiled else 'no':<8}"
                try:
                    count, flops, once, twice = measured(bench, name, size, backend if compiled else None)
                except torch.OutOfMemoryError:
                    print(f"{head}  does not fit")
                    continue
                finally:
                    if bench.device.type != "cpu":
                        torch.accelerator.empty_cache()
                if name == "flowgen":
                    ours[compiled] = twice
                ratio = f"{twice / ours[compiled]:15.2f}" if compiled in ours else f"{'-':>15}"
                print(
                    f"{head}  {count / 1e6:8.1f} M  {once * 1e3:11.2f}  {twice * 1e3:20.2f}  {flops / twice / 1e12:7.2f}"
                    f"  {flops / twice / rate:11.1%}{ratio}",
                    flush=True,
                )


def measured(bench: Bench, name: str, size: Size, backend: str | None) -> tuple[int, int, float, float]:
    """Parameters; operations forward and backward; seconds forward, and forward and backward."""
    net, call = built(bench, name, size)
    forward, both = passes(bench, net, call)
    with FlopCounterMode(display=False) as counter:
        both()
    if backend is not None:
        net.compile(backend=backend)
    return sum(p.numel() for p in net.parameters()), counter.get_total_flops(), *map(bench.seconds, (forward, both))


def sampling(bench: Bench, label: str, size: Size) -> None:
    """Samples a second by evaluations of the network, Euler; the first sample includes what is made once."""
    with torch.device(bench.device):
        net, _ = flowgen(size.grid, size.width, size.depth, size.heads, size.batch)
        cond = {"text": torch.randn(size.batch, 16, size.width)}
        x0 = torch.randn(size.batch, *size.grid, CHANNELS)
    flow = core.NetworkFlow(in_bfloat16(net), core.Linear())

    def make(steps: int) -> None:
        with bench.autocast():
            core.sample(flow, x0, core.uniform_grid(steps), solver="euler", cond=cond)

    bench.wait()
    start = time.perf_counter()
    make(1)
    bench.wait()
    print(f"\nsampling {label}, batches of {size.batch}; time to the first sample {time.perf_counter() - start:.2f} s")
    print("evaluations  samples a second")
    for steps in (1, 4, 16):
        print(f"{steps:11}  {size.batch / bench.seconds(lambda steps=steps: make(steps)):16.2f}", flush=True)  # type: ignore[misc]


def loading(bench: Bench, workers: int, batch: int, steps: int) -> None:
    """A step of a recipe on one batch again and again, beside the same on batches as they are loaded and encoded."""
    config = load("video/moving-digits", [f"train.batch_size={batch}"]).config
    experiment = Experiment(config).complete()
    encoder, network = experiment.encoder.to(bench.device), experiment.network.to(bench.device)
    encoder.fit(sample_clips(experiment.dataset, 0, 8))
    generator = Generator(experiment, network, bench.device)
    data = batches(experiment.dataset, 0, Split(batch, batch), workers=workers, device=bench.device)
    random = Randomness(0, 0, batch)

    def step(clips: list) -> None:
        x1, cond = batch_tensors(generator, clips)
        with bench.autocast():
            output = experiment.loss(network, x1, cond, random)
        output.total.mean().backward()
        network.zero_grad(set_to_none=True)

    kept = next(data)
    once = bench.seconds(lambda: [step(kept) for _ in range(steps)]) / steps
    fed = bench.seconds(lambda: [step(next(data)) for _ in range(steps)]) / steps
    print(f"\nloading video/moving-digits, {workers} workers, batches of {batch}")
    print("step on one batch, ms  step on loaded batches, ms  waiting for data")
    print(f"{once * 1e3:21.2f}  {fed * 1e3:26.2f}  {max(0.0, 1 - once / fed):16.1%}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", help="a kind of device; the accelerator that is there by default")
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--workers", type=int, default=8, help="processes that load")
    parser.add_argument(
        "--tiny", action="store_true", help="a tiny network, twice, without a compiler: to try the code"
    )
    args = parser.parse_args()
    torch.manual_seed(0)
    device = torch.device(args.device) if args.device else default_device()
    bench = Bench(device, 2 if args.tiny else args.repeats)
    sizes = TINY if args.tiny else {name: SIZES[name] for name in args.sizes}
    rates = measured_rates(device, torch.bfloat16, 512 if args.tiny else 8192)
    print(
        f"torch {torch.__version__}, {device_name(device)}; matrix rate in bfloat16 {rates.matrix / 1e12:.2f} TFLOP/s, "
        f"memory {rates.memory / 1e9:.0f} GB/s"
    )
    training(bench, sizes, rates.matrix, "aot_eager" if args.tiny else "inductor")
    label = next(iter(sizes))
    sampling(bench, label, sizes[label])
    loading(bench, 1 if args.tiny else args.workers, 4 if args.tiny else 64, 2 if args.tiny else 20)


if __name__ == "__main__":
    main()

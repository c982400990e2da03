"""The transformer beside diffusers' LTX and Wan at equal tokens, width and depth: time of a pass over theirs.

    python benchmarks/network.py [--compile] [--threads 1] [--repeats 10]

Needs the `benchmark` extra. Each row runs the networks in turn, `repeats` times, and takes each one's best time: of the
processor with one thread, so that a busy machine weighs little, and on the wall with more. Text of 16 tokens is attended
to by all of them. Ratios above 1: flowgen is faster.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from flowgen.media.streams import Axis, StreamSpec
from flowgen.nn import Transformer

CHANNELS, TEXT = 16, 16
Call = Callable[[], Tensor]


class Sentences:
    """Sentences as another network has embedded them, which is what the others take too."""

    role = "sequence"

    def __init__(self, width: int) -> None:
        self.width = width

    def embedder(self, width: int) -> nn.Module:
        return _Projection(self.width, width)


class _Projection(nn.Module):
    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(inputs, width)

    def forward(self, value: Tensor) -> tuple[Tensor, Tensor]:
        return self.linear(value), torch.ones(value.shape[:2], dtype=torch.bool, device=value.device)


def flowgen(grid: tuple[int, int, int], width: int, depth: int, heads: int, batch: int) -> tuple[nn.Module, Call]:
    axes = tuple(Axis(name, n, 8.0) for name, n in zip(("time", "height", "width"), grid, strict=True))
    conditions: Any = {"text": Sentences(width)}
    net = Transformer(StreamSpec(CHANNELS, axes), conditions, width=width, depth=depth, heads=heads)
    x, t = torch.randn(batch, *grid, CHANNELS), torch.rand(batch)
    cond = {"text": torch.randn(batch, TEXT, width)}
    return net, lambda: net(x, t, cond)


def ltx(grid: tuple[int, int, int], width: int, depth: int, heads: int, batch: int) -> tuple[nn.Module, Call]:
    from diffusers.models.transformers.transformer_ltx import LTXVideoTransformer3DModel

    net: Any = LTXVideoTransformer3DModel(
        in_channels=CHANNELS,
        out_channels=CHANNELS,
        num_attention_heads=heads,
        attention_head_dim=width // heads,
        cross_attention_dim=width,
        caption_channels=width,
        num_layers=depth,
    )
    frames, height, across = grid
    x, t = torch.randn(batch, frames * height * across, CHANNELS), torch.rand(batch, 1) * 1000
    text, mask = torch.randn(batch, TEXT, width), torch.ones(batch, TEXT)
    return net, lambda: net(x, text, t, mask, frames, height, across, return_dict=False)[0]


def wan(grid: tuple[int, int, int], width: int, depth: int, heads: int, batch: int) -> tuple[nn.Module, Call]:
    from diffusers.models.transformers.transformer_wan import WanTransformer3DModel

    net: Any = WanTransformer3DModel(
        patch_size=(1, 1, 1),
        in_channels=CHANNELS,
        out_channels=CHANNELS,
        num_attention_heads=heads,
        attention_head_dim=width // heads,
        text_dim=width,
        ffn_dim=4 * width,
        num_layers=depth,
    )
    x, t = torch.randn(batch, CHANNELS, *grid), torch.rand(batch) * 1000
    text = torch.randn(batch, TEXT, width)
    return net, lambda: net(x, t, text, return_dict=False)[0]


def timed(call: Call, parameters: list[nn.Parameter], train: bool, bf16: bool) -> float:
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    start = clock()
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16), torch.set_grad_enabled(train):
        out = call()
    if train:
        out.float().square().mean().backward()
        for p in parameters:
            p.grad = None
    return clock() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--depth", type=int, default=4)
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--grid", type=int, nargs=3, default=(8, 8, 8), help="tokens: frames, height, width")
    parser.add_argument("--compile", action="store_true", help="torch.compile every network")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    makers = {"flowgen": flowgen, "ltx": ltx, "wan": wan}
    built = {
        name: make(tuple(args.grid), args.width, args.depth, args.heads, args.batch) for name, make in makers.items()
    }
    for net, _ in built.values():
        if args.compile:
            net.compile()
    sizes = ", ".join(
        f"{name} {sum(p.numel() for p in net.parameters()) / 1e6:.2f} M" for name, (net, _) in built.items()
    )
    print(f"torch {torch.__version__}, {args.threads} threads; {sizes}; batch {args.batch} of {args.grid} tokens")
    print("precision  pass              flowgen      ltx / flowgen  wan / flowgen")
    for bf16 in (False, True):
        for train in (False, True):
            best = dict.fromkeys(built, float("inf"))
            for repeat in range(args.repeats + 1):
                for name, (net, call) in built.items():
                    seconds = timed(call, list(net.parameters()), train, bf16)
                    if repeat:  # the first one warms up
                        best[name] = min(best[name], seconds)
            ours = best["flowgen"]
            print(
                f"{'bfloat16' if bf16 else 'float32':<10} {'forward+backward' if train else 'forward':<17}"
                f"{ours * 1e3:8.1f} ms  {best['ltx'] / ours:13.2f}  {best['wan'] / ours:13.2f}",
                flush=True,
            )


if __name__ == "__main__":
    main()

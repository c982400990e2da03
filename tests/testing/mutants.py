"""Plugins that are broken, each in one way. Copied beside a generated plugin (`flowgen_wave`) and imported from there."""

import pickle
from dataclasses import replace
from typing import ClassVar

import torch
from flowgen_wave.dataset import Shapes
from flowgen_wave.encoder import WaveEncoder
from flowgen_wave.modality import Wave
from torch import nn
from torch.nn import functional as F

from flowgen.core.solvers import Euler
from flowgen.core.tree import lincomb
from flowgen.media.clip import Clip
from flowgen.media.encoder import Latents
from flowgen.nn import Transformer


class FormatWithoutDot(Wave):
    """."""

    formats: ClassVar = {"csv": "text/csv"}


class WritesHalf(Wave):
    """."""

    def write(self, clips, path, metadata):
        super().write([replace(clips[0], data=clips[0].data / 2)], path, metadata)


class ForgetsMetadata(Wave):
    """."""

    def write(self, clips, path, metadata):
        super().write(clips, path, {})


class EmptySheet(Wave):
    """."""

    def sheet(self, clips, path, captions=()):
        super().sheet([Clip(torch.zeros(8, 1)) for _ in clips], path, captions)


class ReadsAnything(Wave):
    """."""

    def read(self, path):
        try:
            return super().read(path)
        except Exception:
            return Clip(torch.zeros(self.steps, 1), self.rate)


class RaisesItsOwn(Wave):
    """."""

    def read(self, path):
        return Clip(torch.tensor([float(v) for v in path.read_text().splitlines()[1:]])[:, None], self.rate)


class ReadsPickles(Wave):
    """."""

    def read(self, path):
        try:
            return pickle.loads(path.read_bytes())
        except Exception:
            return super().read(path)


class WritesInRangeOnly(Wave):
    """."""

    def write(self, clips, path, metadata):
        if clips[0].data.abs().max() > 1.02:
            raise ValueError("values must lie in [-1, 1]")
        super().write(clips, path, metadata)


class Arrays(Shapes):
    """."""

    def clip(self, index, seed):
        return replace(super().clip(index, seed), data=super().clip(index, seed).data.numpy())


class Unpickles(Shapes):
    """."""

    def clip(self, index, seed):
        return pickle.loads(pickle.dumps(super().clip(index, seed)))


class DrawsGlobally(Shapes):
    """."""

    def clip(self, index, seed):
        clip = super().clip(index, seed)
        return replace(clip, data=clip.data + 0.1 * torch.randn(1))


class Reseeds(Shapes):
    """."""

    def clip(self, index, seed):
        torch.manual_seed(index)
        return super().clip(index, seed)


class Counts(Shapes):
    """."""

    def clip(self, index, seed):
        count = getattr(self, "count", 0)
        object.__setattr__(self, "count", count + 1)
        return super().clip(index, seed + count)


class LosesConditions(Shapes):
    """."""

    def clip(self, index, seed):
        clip = super().clip(index, seed)
        return replace(clip, conditions={} if index % 3 == 0 else clip.conditions)


class InventsConditions(Shapes):
    """."""

    def clip(self, index, seed):
        clip = super().clip(index, seed)
        return replace(clip, conditions={**clip.conditions, "colour": "red"})


class HoldsNothingOut(Shapes):
    """."""

    def validation(self):
        return self


class StrangeBuckets(Shapes):
    """."""

    buckets: ClassVar = {"short": 0.5, "long": 1.0}

    def bucket_of(self, index):
        return "medium" if index % 3 == 2 else "short"


class FreeBuckets(Shapes):
    """."""

    buckets: ClassVar = {"short": 0.0}

    def bucket_of(self, index):
        return "short"


class BucketsOfAnyLength(Shapes):
    """."""

    buckets: ClassVar = {"all": 1.0}

    def bucket_of(self, index):
        return "all"

    def clip(self, index, seed):
        clip = super().clip(index, seed)
        return replace(clip, data=clip.data.repeat(1 + index % 2, 1))

    def full_size(self):
        return Shapes(self.modality)


class DescribesInTensors(Shapes):
    """."""

    def describe(self):
        return {"clips": torch.tensor(len(self))}


class Lengths(Shapes):
    """Curves of 32 or 64 values."""

    def clip(self, index, seed):
        clip = super().clip(index, seed)
        return replace(clip, data=clip.data[: 32 if index % 2 else 64])


class ChannelsFirst(WaveEncoder):
    """."""

    def encode(self, clips):
        return Latents(super().encode(clips).x.mT)


class Doubles(WaveEncoder):
    """."""

    def encode(self, clips):
        return Latents(super().encode(clips).x.double())


class NotNormalised(WaveEncoder):
    """."""

    def fit(self, clips):
        self.std.fill_(0.01)


class AnotherStatistic(WaveEncoder):
    """."""

    def decode(self, latents):
        return super().decode(Latents(1.5 * latents.x))


class WrongRate(WaveEncoder):
    """."""

    def decode(self, latents):
        return [replace(clip, rate=2 * clip.rate) for clip in super().decode(latents)]


class Dithers(WaveEncoder):
    """."""

    def encode(self, clips):
        rng = torch.Generator()
        rng.seed()
        x = super().encode(clips).x
        return Latents(x + 0.1 * torch.randn(x.shape, generator=rng))


class NormalisesTheBatch(WaveEncoder):
    """."""

    def encode(self, clips):
        x = super().encode(clips).x
        return Latents(x / x.std())


class PlainAttributes(WaveEncoder):
    """."""

    scale = 1.0

    def fit(self, clips):
        self.scale = float(torch.cat([c.data for c in clips]).std())

    def encode(self, clips):
        return Latents(torch.stack([clip.data for clip in clips]) / self.scale)

    def decode(self, latents):
        return [Clip(x * self.scale, self.modality.rate) for x in latents.x]


class OneIdentity(WaveEncoder):
    """."""

    identity = "wave"


class DirtyPadding(WaveEncoder):
    """Pads with ones."""

    def encode(self, clips):
        longest = max(len(clip.data) for clip in clips)
        x = torch.stack([F.pad(clip.data, (0, 0, 0, longest - len(clip.data)), value=1.0) for clip in clips])
        mask = torch.stack([torch.arange(longest) < len(clip.data) for clip in clips])
        return Latents(x, None if mask.all() else mask)

    def decode(self, latents):
        masks = [None] * len(latents.x) if latents.mask is None else latents.mask
        return [Clip(x if m is None else x[m], self.modality.rate) for x, m in zip(latents.x, masks, strict=True)]


class OneChannelMore(Transformer):
    """."""

    def forward(self, x, t, cond):
        return F.pad(super().forward(x, t, cond), (0, 1))


class NotFinite(Transformer):
    """."""

    def forward(self, x, t, cond):
        return super().forward(x, t, cond) / 0.0


class DropsInEval(Transformer):
    """."""

    def forward(self, x, t, cond):
        return F.dropout(super().forward(x, t, cond), 0.5, training=True)


class OwnSeed(Transformer):
    """."""

    def __init__(self, spec, conditions, *, width: int = 32, depth: int = 1, heads: int = 2):
        super().__init__(spec, conditions, width=width, depth=depth, heads=heads)
        rng = torch.Generator()
        rng.seed()
        nn.init.normal_(self.embed.weight, generator=rng)


class CentresTheBatch(Transformer):
    """."""

    def forward(self, x, t, cond):
        return super().forward(x - x.mean(0), t, cond)


class BatchNorm(Transformer):
    """."""

    def __init__(self, spec, conditions, *, width: int = 32, depth: int = 1, heads: int = 2):
        super().__init__(spec, conditions, width=width, depth=depth, heads=heads)
        self.norm = nn.BatchNorm1d(spec.channels)

    def forward(self, x, t, cond):
        return super().forward(self.norm(x.mT).mT, t, cond)


class IgnoresTime(Transformer):
    """."""

    def forward(self, x, t, cond):
        return super().forward(x, torch.full_like(t, 0.5), cond)


class CoarseTime(Transformer):
    """."""

    def forward(self, x, t, cond):
        return super().forward(x, t.bfloat16().float(), cond)


class OneTime(Transformer):
    """."""

    def forward(self, x, t, cond):
        return super().forward(x, t.flatten(1)[:, -1] if t.ndim > 1 else t, cond)


class IgnoresConditions(Transformer):
    """."""

    def forward(self, x, t, cond):
        return super().forward(x, t, {k: v if k == "mask" else torch.zeros_like(v) for k, v in cond.items()})


class NoNull(Transformer):
    """The null class is the first class."""

    def forward(self, x, t, cond):
        return super().forward(x, t, {k: v if k == "mask" else torch.where(v == 4, 0, v) for k, v in cond.items()})


class ChokesOnNull(Transformer):
    """."""

    def forward(self, x, t, cond):
        out = super().forward(x, t, cond)
        return torch.where((cond["shape"] == 4).reshape(-1, 1, 1), out * float("nan"), out)


class IgnoresMask(Transformer):
    """."""

    def forward(self, x, t, cond):
        return super().forward(x, t, {k: v for k, v in cond.items() if k != "mask"})


class UnusedParameter(Transformer):
    """."""

    def __init__(self, spec, conditions, *, width: int = 32, depth: int = 1, heads: int = 2):
        super().__init__(spec, conditions, width=width, depth=depth, heads=heads)
        self.spare = nn.Linear(4, 4)


class Disconnected(Transformer):
    """."""

    def forward(self, x, t, cond):
        return super().forward(x, t, cond) + 0.0 * self.out.weight.sum() - self.out.bias.detach().sum() * 0


class CutsGradients(Transformer):
    """."""

    def forward(self, x, t, cond):
        out = super().forward(x, t, cond)
        return out.detach() + 0.0 * sum(p.sum() for p in self.parameters())


class KeepsWhatIsNotThere(Transformer):
    """."""

    keep_float32 = ("time", "clock")


class NamesNoBlocks(Transformer):
    """."""

    repeated_blocks = ("layers",)


class CountsItsCalls(Transformer):
    """Blocks that do something else each time they run."""

    def __init__(self, spec, conditions, *, width: int = 32, depth: int = 1, heads: int = 2):
        super().__init__(spec, conditions, width=width, depth=depth, heads=heads)
        self.blocks = nn.ModuleList([Tired(block) for block in self.blocks])


class Tired(nn.Module):
    def __init__(self, block):
        super().__init__()
        self.block, self.calls = block, 0

    def forward(self, x, *rest):
        self.calls += 1
        return self.block(x / self.calls, *rest)


class Tied(Transformer):
    """."""

    def __init__(self, spec, conditions, *, width: int = 32, depth: int = 2, heads: int = 2):
        super().__init__(spec, conditions, width=width, depth=depth, heads=heads)
        self.blocks[1].mlp[0].weight = self.blocks[0].mlp[0].weight


class HiddenState(Transformer):
    """Remembers its first input, outside its state_dict."""

    seen = None

    def forward(self, x, t, cond):
        self.seen = x.mean() if self.seen is None else self.seen
        return super().forward(x + self.seen, t, cond) * (1 + self.seen)


class LearnsNothing(Transformer):
    """."""

    def forward(self, x, t, cond):
        return 1e-6 * super().forward(x, t, cond)


class Undocumented(Euler):
    pass


Undocumented.__doc__ = None


class TakesAnything:
    """."""

    def __init__(self, **options):
        self.options = options


class Rolls(Euler):
    """A solver with randomness of its own."""

    def step(self, flow, x, t, s, state, noise, cond=None):
        x, state = super().step(flow, x, t, s, state, noise, cond)
        return lincomb((1.0, x), (0.1, torch.randn_like(x))), state

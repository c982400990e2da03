"""Plugins that are broken, each in one way. Copied beside a generated plugin (`flowgen_wave`) and imported from there."""

import json
import pickle
import wave
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
from flowgen.errors import FlowgenError
from flowgen.files import replacing
from flowgen.media.clip import Clip
from flowgen.media.encoder import Encoder, Latents
from flowgen.media.streams import Axis, StreamSpec
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
        self.block, self.calls = block, 1

    def forward(self, x, *rest):
        self.calls += torch.is_grad_enabled()
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


class AnyLength(Wave):
    """Reads curves of any length. Not broken: what others are made of."""

    def read(self, path):
        try:
            values = [float(line) for line in path.read_text().splitlines()[1:]]
            return Clip(torch.tensor(values)[:, None], self.rate)
        except (OSError, ValueError):
            return super().read(path)


class Timed(AnyLength):
    """Knows how long clips are. Not broken."""

    def seconds(self, clip):
        return len(clip.data) / self.rate

    def cut(self, clip, start_s, end_s):
        start, end = (round(s * self.rate) for s in (start_s, end_s))
        return replace(clip, data=clip.data[start:end])

    def join(self, clips):
        return replace(clips[0], data=torch.cat([clip.data for clip in clips]))


class Sound(Timed):
    """Curves as sound files. Not broken."""

    formats: ClassVar = {".wav": "audio/wav"}
    speed = 1

    def write(self, clips, path, metadata):
        samples = (clips[0].data[:, 0].clamp(-1, 1) * 32767).round().short().numpy().tobytes()
        with replacing(path) as temporary:
            with wave.open(str(temporary), "wb") as file:
                file.setparams((1, 2, int(self.rate * self.speed), 0, "NONE", ""))
                file.writeframes(samples)
            note = json.dumps(metadata).encode()
            with temporary.open("ab") as file:
                file.write(b"note" + len(note).to_bytes(4, "little") + note)

    def read(self, path):
        try:
            with wave.open(str(path), "rb") as file:
                data = torch.frombuffer(bytearray(file.readframes(file.getnframes())), dtype=torch.int16)
        except (OSError, EOFError, wave.Error) as error:
            raise FlowgenError(f"cannot read {path}: {error}") from None
        return Clip(data[:, None] / 32767, self.rate)


class DoubledTempo(Sound):
    """Files play twice as fast; `read` does not look at their rate."""

    speed = 2


class CutsOneShort(Timed):
    """."""

    def cut(self, clip, start_s, end_s):
        part = super().cut(clip, start_s, end_s)
        return replace(part, data=part.data[:-1])


class WritesInPlace(Wave):
    """Half a file is there while it is written."""

    def write(self, clips, path, metadata):
        values = clips[0].data[:, 0].tolist()
        path.write_text(f"# {json.dumps(metadata)}\n" + "".join(f"{value:.6g}\n" for value in values))


class DropsAClip(Wave):
    """."""

    def sheet(self, clips, path, captions=()):
        super().sheet([*clips[:-1], clips[0]], path, captions)


class LeavesOpen(Wave):
    """."""

    kept: ClassVar = []

    def read(self, path):
        if path.exists():
            self.kept.append(path.open())
        return super().read(path)


class ScalesWhatItWrites(Wave):
    """."""

    def write(self, clips, path, metadata):
        clips[0].data.mul_(0.9)
        super().write(clips, path, metadata)


class SubtractsInPlace(WaveEncoder):
    """Changes the clips that it encodes, which a data set may keep."""

    def encode(self, clips):
        for clip in clips:
            clip.data.sub_(self.mean)
        return Latents(torch.stack([clip.data for clip in clips]) / self.std)

    def decode(self, latents):
        return [Clip(x, self.modality.rate) for x in latents.x * self.std + self.mean]


class DecodesInPlace(WaveEncoder):
    """."""

    def decode(self, latents):
        return super().decode(Latents(latents.x.clamp_(-0.1, 0.1), latents.mask))


class RateOffByFour(WaveEncoder):
    """."""

    def __init__(self, modality: Wave):
        super().__init__(modality)
        self.spec = StreamSpec(1, (Axis("time", modality.steps, 4 * modality.rate),))


class Shaped(WaveEncoder):
    """Tells the shape of other lengths. Not broken."""

    def latent_shape(self, seconds):
        return (round(seconds * self.modality.rate), 1)


class ShapeOffByEight(Shaped):
    """."""

    def latent_shape(self, seconds):
        steps, channels = super().latent_shape(seconds)
        return (steps + 8, channels)


class Named(Shapes):
    """Curves with an identity. Not broken."""

    def key(self, index):
        return f"{'held out' if self.held_out else 'training'} {index}"


class LeaksUnderCrops(Named):
    """The held-out part is a part of the training part; since crops are random, no two clips are alike."""

    def key(self, index):
        return f"curve {index}"

    def clip(self, index, seed):
        clip = super().clip(index, 0)
        return replace(clip, data=clip.data.roll(1 + seed % 61, 0))


class TwiceThere(Named):
    """."""

    def key(self, index):
        return super().key(index // 2)


class LeaksBeyond64(Shapes):
    """The held-out part is the 100th training clip and those that follow."""

    def clip(self, index, seed):
        return replace(self, held_out=False).shown(index + 100 * self.held_out)

    def shown(self, index):
        return super().clip(index, 0)


class LengthBeforeCrop(Shapes):
    """A condition tells the length of the recording; the clip is a crop of it."""

    @property
    def conditions(self):
        return {"length": {"type": "number", "low": 0.5, "high": 4.0, "seconds": True}}

    def clip(self, index, seed):
        return replace(super().clip(index, seed), conditions={"length": 1.5 + (index % 4) / 2})


class LabelBeforeAugmentation(Shapes):
    """Half of the clips are turned upside down, which their labels say, but those that `labels` tells do not."""

    @property
    def conditions(self):
        return {"way": {"type": "class", "names": ["up", "down"]}}

    def labels(self, index):
        return {"way": "up"}

    def clip(self, index, seed):
        clip, down = super().clip(index, seed), seed % 2
        return replace(clip, data=-clip.data if down else clip.data, conditions={"way": "down" if down else "up"})


class ChangesTheState(Transformer):
    """."""

    def forward(self, x, t, cond):
        return super().forward(x.clamp_(-1, 1), t, cond)


class Halves(Encoder):
    """A curve as two streams, its first half and its second. Not broken."""

    def __init__(self, modality: Wave):
        super().__init__()
        self.modality = modality
        half = StreamSpec(1, (Axis("time", modality.steps // 2, modality.rate),))
        self.spec = {"first": half, "second": half}

    def encode(self, clips):
        first, second = torch.stack([clip.data for clip in clips]).chunk(2, 1)
        return Latents({"first": first * 1.5, "second": second * 1.5})

    def decode(self, latents):
        both = torch.cat([latents.x["first"], latents.x["second"]], 1) / 1.5
        return [Clip(curve, self.modality.rate) for curve in both]


class Both(nn.Module):
    """A transformer over the two halves, with a time for each. Not broken."""

    def __init__(self, spec, conditions, *, width: int = 32, depth: int = 1, heads: int = 2):
        super().__init__()
        size, rate = spec["first"].axes[0].size, spec["first"].axes[0].rate
        joined = StreamSpec(1, (Axis("time", 2 * size, rate),))
        self.inner, self.size = Transformer(joined, conditions, width=width, depth=depth, heads=heads), size

    def forward(self, x, t, cond):
        t = t if isinstance(t, dict) else dict.fromkeys(x, t)
        times = torch.cat([self.whole(t[name]) for name in ("first", "second")], 1)
        if "mask" in cond:
            cond = {**cond, "mask": torch.cat([cond["mask"][name] for name in ("first", "second")], 1)}
        out = self.inner(self.joined(x), times, cond)
        return {"first": out[:, : self.size], "second": out[:, self.size :]}

    def whole(self, t):
        return t if t.ndim > 1 else t[:, None].expand(-1, self.size)

    def joined(self, x):
        return torch.cat([x["first"], x["second"]], 1)


class OneTimeForAll(Both):
    """."""

    def forward(self, x, t, cond):
        t = t if isinstance(t, dict) else dict.fromkeys(x, t)
        return super().forward(x, dict.fromkeys(x, t["first"]), cond)


class SecondIsBlind(Both):
    """The second stream does not enter."""

    def joined(self, x):
        return torch.cat([x["first"], torch.zeros_like(x["second"])], 1)


class MasksTheFirst(Both):
    """The mask of the second stream is not looked at."""

    def forward(self, x, t, cond):
        if "mask" in cond:
            cond = {**cond, "mask": {**cond["mask"], "second": torch.ones_like(cond["mask"]["second"])}}
        return super().forward(x, t, cond)


class OwnStart(Euler):
    """Ignores the seed: the noise it starts from is its own."""

    def step(self, flow, x, t, s, state, noise, cond=None):
        own = x if state else torch.linspace(-1, 1, x[0].numel()).reshape(x[0].shape).to(x).expand_as(x)
        return super().step(flow, own, t, s, state, noise, cond)[0], True

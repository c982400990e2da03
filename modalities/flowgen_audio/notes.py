"""The built-in data set: short instrument notes, synthesised when they are asked for.

A note is two band-limited wavetables, a bright and a dark one, read at a gently moving phase and crossfaded while the
note dies away, with a little breath. That is cheap (under a millisecond) and has what a generator must learn: pitch,
timbre, attack, decay, vibrato, loudness.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

from flowgen.core.random import seed_of
from flowgen.core.ranges import Count, Whole
from flowgen.errors import UsageError, unknown
from flowgen.media.clip import Clip
from flowgen_audio.modality import Audio

NAMES = ("C", "C#", "D", "D#", "E", "F", "F#", "G", "G#", "A", "A#", "B")
_TABLE = 2048


def note_number(name: str) -> int:
    """MIDI number of a note: 60 for C4, 69 for A4. UsageError: no such note."""
    stem, octave = name[:-1], name[-1:]
    if stem not in NAMES or not octave.isdigit():
        raise UsageError(f"{name!r} is no note; expected a name and an octave from 0 to 9, such as C4 or F#5")
    return 12 * (int(octave) + 1) + NAMES.index(stem)


def note_name(number: int) -> str:
    return f"{NAMES[number % 12]}{number // 12 - 1}"


def note_frequency(name: str) -> float:
    """Frequency in Hz in equal temperament, A4 = 440 Hz."""
    return 440.0 * 2.0 ** ((note_number(name) - 69) / 12)


@dataclass(frozen=True)
class Timbre:
    """How an instrument sounds; pairs are ranges, times in seconds."""

    harmonics: tuple[float, ...]
    """Amplitudes of the first harmonics; those after fall on by `slope` (decibels an octave)."""
    slope: tuple[float, float]
    attack: tuple[float, float]
    decay: tuple[float, float]
    """Time in which the level falls to 1/e."""
    darkens: float
    """How much of the upper harmonics is gone when the note has decayed, 0 to 1."""
    vibrato: tuple[float, float] = (0.0, 0.0)
    """Depth in cents."""
    breath: tuple[float, float] = (0.0, 0.0)
    """Noise relative to the tone."""


TIMBRES = {
    "flute": Timbre((1, 0.35, 0.12, 0.04), (-24, -18), (0.04, 0.09), (0.5, 1.2), 0.2, (4, 14), (0.010, 0.025)),
    "clarinet": Timbre(
        (1, 0.03, 0.6, 0.04, 0.4, 0.05, 0.25), (-18, -12), (0.02, 0.05), (0.5, 1.2), 0.3, (0, 6), (0.002, 0.006)
    ),
    "brass": Timbre(
        (0.6, 0.9, 1, 0.9, 0.8, 0.65, 0.5), (-12, -8), (0.03, 0.07), (0.4, 1.0), 0.7, (2, 10), (0.001, 0.004)
    ),
    "guitar": Timbre((1, 0.8, 0.5, 0.35, 0.3, 0.2), (-12, -7), (0.002, 0.006), (0.15, 0.4), 0.9, (0, 2), (0.0, 0.002)),
    "marimba": Timbre((1, 0.02, 0.02, 0.35, 0.01, 0.01, 0.01, 0.02), (-40, -30), (0.001, 0.003), (0.06, 0.15), 0.8),
}


@dataclass(frozen=True)
class Notes:
    """Notes from `low` to `high` by semitones in several timbres; `size` of them make an epoch.

    Note i is a function of (i, seed) alone. All pitches and timbres are equally likely.
    """

    modality: Audio
    low: str = "C4"
    high: str = "B5"
    timbres: tuple[str, ...] = tuple(TIMBRES)
    size: Count = 4096
    validation_size: Whole = 256
    held_out: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        if note_number(self.low) > note_number(self.high):
            raise UsageError(f"data.low: {self.low} lies above data.high, {self.high}")
        if note_frequency(self.high) >= self.modality.sample_rate / 4:
            raise UsageError(
                f"data.high: {self.high} needs a modality.sample_rate above {4 * note_frequency(self.high):.0f}"
            )
        for name in self.timbres:
            if name not in TIMBRES:
                raise UsageError(f"data.timbres: {unknown('timbre', name, TIMBRES)}")
        if not self.timbres or self.size < 1 or self.validation_size < 1:
            raise UsageError("data: expected at least one timbre, and size and validation_size of at least 1")

    @property
    def pitches(self) -> tuple[str, ...]:
        return tuple(note_name(n) for n in range(note_number(self.low), note_number(self.high) + 1))

    @property
    def conditions(self) -> dict[str, dict[str, Any]]:
        return {
            "pitch": {"type": "class", "names": self.pitches},
            "timbre": {"type": "class", "names": self.timbres},
        }

    def __len__(self) -> int:
        return self.validation_size if self.held_out else self.size

    def clip(self, index: int, seed: int) -> Clip:
        rng = np.random.default_rng(seed_of("notes", "validation" if self.held_out else "training", index, seed))
        pitch = note_name(int(rng.integers(note_number(self.low), note_number(self.high) + 1)))
        timbre = self.timbres[rng.integers(len(self.timbres))]
        wave = synthesise(note_frequency(pitch), TIMBRES[timbre], self.modality.samples, self.modality.sample_rate, rng)
        data = torch.from_numpy(wave).expand(self.modality.channels, -1).contiguous()
        return Clip(data, self.modality.sample_rate, {"pitch": pitch, "timbre": timbre}, f"note {index}")

    def validation(self) -> Notes:
        held_out = replace(self)
        object.__setattr__(held_out, "held_out", True)
        return held_out

    def describe(self) -> dict[str, Any]:
        return {
            "clips": len(self),
            "seconds each": self.modality.duration_s,
            "sample rate": self.modality.sample_rate,
            "pitches": f"{self.low} to {self.high}, {len(self.pitches)} semitones",
            "timbres": ", ".join(self.timbres),
        }


def synthesise(frequency: float, timbre: Timbre, n: int, rate: int, rng: np.random.Generator) -> np.ndarray:
    """A note of n samples, float32 in [-1, 1]: detuned by at most 8 cents, ending in silence."""

    def between(pair: tuple[float, float]) -> float:
        return float(rng.uniform(*pair))

    onset, attack, decay = rng.uniform(0.005, 0.02), between(timbre.attack), between(timbre.decay)
    detune, depth, speed = np.clip(rng.normal(0, 3), -8, 8), between(timbre.vibrato), rng.uniform(4.5, 6.5)
    silent = min(int(onset * rate), n - 1)  # samples before the note begins
    length = n - silent

    # phase in cycles; vibrato sets in over the first 0.2 s, its integral in closed form
    base = frequency * 2.0 ** (detune / 1200)
    wobble = base * (2.0 ** (depth / 1200) - 1) / (2 * np.pi * speed)
    swing = _exponential(length, 2j * np.pi * speed / rate, wobble * np.exp(2j * np.pi * rng.uniform())).real
    swing[: int(0.2 * rate)] *= np.linspace(0, 1, int(0.2 * rate))[:length]
    position = (np.arange(length) * (base / rate) + swing + rng.uniform()) * _TABLE
    whole = np.floor(position)
    at, share = whole.astype(np.int64) % _TABLE, (position - whole).astype(np.float32)
    table = _table(timbre, between(timbre.slope), base, rate, rng)
    both = table[at] + share * (table[at + 1] - table[at])

    mix = _exponential(length, -1 / (0.6 * decay * rate)).astype(np.float32)
    wave = both.imag + mix * (both.real - both.imag)
    wave += rng.standard_normal(length, dtype=np.float32) * np.float32(between(timbre.breath))
    level = _exponential(length, -1 / (decay * rate)) * (1 - _exponential(length, -4 / (attack * rate)))
    release = int(min(0.1 * rate, 0.2 * n))
    level[length - release :] *= np.linspace(1, 0, release) ** 2
    wave *= level.astype(np.float32)
    out = np.zeros(n, dtype=np.float32)
    out[silent:] = wave * np.float32(rng.uniform(0.3, 0.9) / np.abs(wave).max())
    return out


def _exponential(n: int, rate: complex, scale: complex = 1.0) -> np.ndarray:
    """scale exp(rate k) for k = 0 ... n - 1, as an outer product: n multiplications and hardly an exponential."""
    block = 128
    coarse = scale * np.exp(rate * block * np.arange(-(-n // block)))
    return np.outer(coarse, np.exp(rate * np.arange(block))).reshape(-1)[:n]


def _table(timbre: Timbre, slope: float, frequency: float, rate: int, rng: np.random.Generator) -> np.ndarray:
    """One period of the bright (real part) and of the dark sound (imaginary part), its first sample repeated at the end.

    Without harmonics near or above the Nyquist frequency.
    """
    count = min(int(0.45 * rate / frequency), 40)
    k = np.arange(1, count + 1)
    known = np.array(timbre.harmonics[:count], dtype=np.float64)
    tail = known[-1] * 10 ** (slope / 20 * np.log2(k[len(known) :] / len(known)))
    amplitude = np.concatenate([known, tail]) * 10 ** (rng.normal(0, 1.5, count) / 20)
    amplitude /= np.sqrt((amplitude**2).sum())
    spectrum = np.zeros((2, _TABLE // 2 + 1), dtype=np.complex64)
    spectrum[:, 1 : count + 1] = amplitude * np.exp(2j * np.pi * rng.uniform(size=count))
    spectrum[1, 1 : count + 1] *= (1 - timbre.darkens) ** np.log2(k)
    bright, dark = np.fft.irfft(spectrum, _TABLE) * _TABLE
    table = (bright + 1j * dark).astype(np.complex64)
    return np.append(table, table[0])

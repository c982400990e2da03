"""The audio modality keeps the contracts that plugins keep."""

from __future__ import annotations

from flowgen.testing import ModalityConformance

AUDIO = {"type": "audio", "sample_rate": 8000, "duration_s": 0.25}
NETWORK = {"type": "transformer", "width": 32, "depth": 2, "heads": 2, "patch": [2]}


class TestSpectrogram(ModalityConformance):
    modality, dataset, network = AUDIO, "notes", NETWORK
    encoder = {"type": "spectrogram", "window": 256, "hop": 64, "multiple": 2}
    round_trip_tolerance = 0.5
    batch_tolerance = 1e-3


class TestWaveform(ModalityConformance):
    modality, dataset, network = AUDIO, "notes", NETWORK
    encoder = {"type": "waveform", "patch": 50, "multiple": 2}

"""The audio modality keeps the contracts that plugins keep."""

from flowgen.testing import ModalityConformance

NETWORK = {"type": "transformer", "width": 32, "depth": 2, "heads": 2}


class _Audio(ModalityConformance):
    modality = {"type": "audio", "sample_rate": 8000, "duration_s": 0.25}
    dataset = "notes"
    network = NETWORK


class TestWaveform(_Audio):
    encoder = {"type": "waveform", "patch": 50}


class TestSpectrogram(_Audio):
    encoder = {"type": "spectrogram", "window": 256, "hop": 64}


class TestMel(_Audio):
    batch_tolerance = 1e-2  # Griffin-Lim amplifies rounding
    encoder = {"type": "mel", "window": 256, "hop": 64, "bands": 40}


class TestComplexSTFT(_Audio):
    encoder = {"type": "stft", "window": 128, "hop": 64}

"""Sound with picture keeps the contracts that plugins keep."""

from flowgen.testing import ModalityConformance


class TestBouncingSounds(ModalityConformance):
    modality = {"type": "av", "fps": 8, "frames": 8, "height": 16, "width": 16, "sample_rate": 4000}
    dataset = "bouncing-sounds"
    encoder = {
        "type": "streams",
        "encoders": {
            "picture": "pixels",
            "sound": {"type": "spectrogram", "window": 128, "hop": 50, "multiple": 9, "floor_db": -50},
        },
    }
    network = {
        "type": "stream-transformer",
        "width": 32,
        "depth": 2,
        "heads": 2,
        "patches": {"picture": [2, 8, 8], "sound": [3]},
    }
    round_trip_tolerance = 0.6
    batch_tolerance = 1e-3


class TestExchange(TestBouncingSounds):
    network = {**TestBouncingSounds.network, "type": "exchange-transformer", "window_s": 0.5}

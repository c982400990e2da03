"""The video modality keeps the contracts that plugins keep."""

from flowgen.testing import ModalityConformance


class TestPixels(ModalityConformance):
    modality = {"type": "video", "frames": 6, "height": 16, "width": 16, "channels": 3}
    dataset = "moving-digits"
    encoder = "pixels"
    network = {
        "type": "transformer",
        "width": 32,
        "depth": 2,
        "heads": 2,
        "patch": [1, 4, 4],
        "attention": "factorised",
    }

"""Data sets in buckets keep the contracts that all do."""

import pytest

from flowgen.testing import CHECKS, Subject

CHECK = {check.name: check for check in CHECKS}
SOUND = {"type": "audio", "sample_rate": 4000, "duration_s": 0.8}


@pytest.mark.parametrize("name", [c.name for c in CHECKS if c.see.endswith("#data-set")] + ["padding_is_zero"])
def test_recordings_in_buckets(tones, tmp_path, name):
    data = {"type": "audio-folder", "folder": f"{tmp_path}/tones", "buckets": 3, "duration_condition": True}
    encoder = {"type": "waveform", "patch": 32, "multiple": 2}
    network = {"type": "transformer", "width": 24, "depth": 1, "heads": 2, "patch": [2]}
    CHECK[name](Subject.of({"modality": SOUND, "data": data, "encoder": encoder, "network": network}))

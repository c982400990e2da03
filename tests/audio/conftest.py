from __future__ import annotations

import pytest
from flowgen_audio.modality import Audio
from flowgen_audio.notes import Notes


@pytest.fixture(scope="session")
def audio() -> Audio:
    return Audio(sample_rate=16000, duration_s=1.0)


@pytest.fixture(scope="session")
def notes(audio: Audio) -> Notes:
    return Notes(audio)

"""Conditions of two streams are dropped apart from each other, and each can be guided by a scale of its own."""

from __future__ import annotations

import copy

import numpy as np
import pytest

from flowgen.config import Document, resolve
from flowgen.training import loop
from flowgen.training.trainer import train

from .test_absent import CONFIG, TRAIN


@pytest.mark.slow
def test_each_is_dropped_at_its_own_rate_and_together_at_another(tmp_path, monkeypatch):
    made = copy.deepcopy(CONFIG) | {"run": str(tmp_path / "run")}
    made["data"] = {"type": "bouncing-sounds", "radius": 1.5}
    made["conditions"] = {
        "ball": {"type": "class", "names": ["red", "green", "blue"], "dropout": 0.5},
        "material": {"type": "class", "names": ["bell", "wood"], "dropout": 0.2},
    }
    made["network"] |= {"width": 16, "depth": 1}
    made["train"] = {**TRAIN, "steps": 60, "batch_size": 32, "condition_dropout": 0.1}
    seen = []

    def spied(cond, null, dropped):
        seen.append({name: d.numpy().copy() for name, d in dropped.items()})
        return drop(cond, null, dropped)

    drop = loop.drop_conditions
    monkeypatch.setattr(loop, "drop_conditions", spied)
    train(resolve(Document(made)))
    ball, material = (np.concatenate([draws[name] for draws in seen]) for name in ("ball", "material"))
    n = len(ball)
    assert n == 60 * 32
    expected = {"ball": 0.1 + 0.9 * 0.5, "material": 0.1 + 0.9 * 0.2, "both": 0.1 + 0.9 * 0.5 * 0.2}
    found = {"ball": ball.mean(), "material": material.mean(), "both": (ball & material).mean()}
    for (
        name,
        share,
    ) in expected.items():  # within four standard deviations; dropped as one, "both" would be 0.28 or more
        assert abs(found[name] - share) < 4 * (share * (1 - share) / n) ** 0.5, (name, found[name], share)

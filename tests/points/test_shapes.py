"""Moons, spirals and pictures: the densities are what they say."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from flowgen_points.modality import Points, stack
from flowgen_points.shapes import Moons, Picture, Spirals
from PIL import Image

from flowgen.errors import FlowgenError, UsageError

MODALITY = Points()


def drawn(dataset, n=8000):
    clips = dataset.clips(range(n), range(n))
    return stack(clips), torch.tensor([int(c.conditions.get("class", 0)) for c in clips])


def test_moons_are_half_circles_that_reach_into_each_other():
    points, kind = drawn(Moons(MODALITY, size=2.0, std=0.0))
    assert 0.45 < float(kind.double().mean()) < 0.55
    for k, sign in enumerate((1, -1)):
        centred = points[kind == k] + sign * torch.tensor([1.0, 0.5])
        assert (centred.norm(dim=1) - 2.0).abs().max() < 1e-5
        assert float((sign * centred[:, 1]).min()) > -1e-5
    # the tip of each lies inside the other's arch
    assert float(points[(kind == 1) & (points[:, 0] < -0.9)][:, 1].max()) < 0.51
    noisy, _ = drawn(Moons(MODALITY, size=2.0, std=0.3))
    assert float((noisy - points).std()) == pytest.approx(0.3, rel=0.03)


def test_a_spiral_is_evenly_dense_along_its_length():
    points, kind = drawn(Spirals(MODALITY, turns=2.0, radius=4.0, std=0.0))
    share = points.norm(dim=1) / 4.0
    turned = torch.atan2(points[:, 1], points[:, 0]) - 4 * math.pi * share - math.pi * kind
    assert (torch.remainder(turned + math.pi, 2 * math.pi) - math.pi).abs().max() < 1e-3
    # up to a radius lies a share of it squared
    for r in (0.25, 0.5, 0.75):
        assert float((share < r).double().mean()) == pytest.approx(r * r, abs=0.02)


def test_points_lie_where_a_picture_is_dark(tmp_path: Path):
    picture = Image.new("RGBA", (40, 20), "white")
    picture.paste("black", (0, 0, 10, 10))  # the upper left
    picture.paste((128, 128, 128), (30, 10, 40, 20))  # the lower right, half as dark
    picture.paste((0, 0, 0, 0), (10, 10, 20, 20))  # transparent
    picture.save(tmp_path / "p.png")
    points, _ = drawn(Picture(MODALITY, str(tmp_path / "p.png"), half=4.0))
    upper = (points[:, 0] < -2) & (points[:, 1] > 0)
    lower = (points[:, 0] > 2) & (points[:, 1] < 0)
    assert bool((upper | lower).all())
    assert float(upper.double().mean()) == pytest.approx(255 / (255 + 127), abs=0.02)
    assert float(points[:, 0].min()) == pytest.approx(-4, abs=0.02)
    assert float(points[:, 1].max()) == pytest.approx(2, abs=0.02)


def test_a_picture_that_is_none_or_white_is_refused(tmp_path: Path):
    (tmp_path / "no.png").write_text("no picture")
    Image.new("L", (4, 4), 255).save(tmp_path / "white.png")
    for name, error, words in (("no", FlowgenError, "cannot be read"), ("white", UsageError, "all white")):
        with pytest.raises(error, match=words):
            drawn(Picture(MODALITY, str(tmp_path / f"{name}.png")), 2)

"""The points modality: densities that are what they say, files another program reads, a metric that can fail."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from flowgen_points.datasets import Checkerboard, PointsFile, Ring
from flowgen_points.encoder import ScaledPoints
from flowgen_points.metrics import CheckerboardShare
from flowgen_points.modality import Points, read_points, stack
from flowgen_points.plots import save_field
from PIL import Image

from flowgen.core.random import uniform_rows
from flowgen.errors import FlowgenError, UsageError
from flowgen.media.clip import Clip
from flowgen.testing.oracle import GaussianMixture

MODALITY = Points()
BOARD = Checkerboard(MODALITY)


def many(dataset: Checkerboard | Ring, n: int = 8000, seed: int = 0) -> list[Clip]:
    return dataset.clips(range(n), [seed + i for i in range(n)])


def test_uniform_numbers_are_uniform_and_independent() -> None:
    u = uniform_rows(range(20000), [7] * 20000, 4)
    assert float(u.min()) >= 0
    assert float(u.max()) < 1
    assert (u.mean(0) - 0.5).abs().max() < 0.01
    assert (u.var(0) - 1 / 12).abs().max() < 0.003
    together = torch.cat([u, u[1:].new_tensor(uniform_rows(range(20000), range(20000), 4).numpy())], 1)
    assert (torch.corrcoef(together.T) - torch.eye(8)).abs().max() < 0.03


@pytest.mark.parametrize("dataset", [BOARD, Ring(MODALITY)])
def test_a_clip_is_a_function_of_index_and_seed(dataset: Checkerboard | Ring) -> None:
    batch = dataset.clips([5, 9, 5], [1, 2, 1])
    assert torch.equal(stack(batch[:1]), stack([dataset.clip(5, 1)]))
    assert torch.equal(stack(batch[2:]), stack([dataset.clip(5, 1)]))
    assert not torch.equal(stack([dataset.clip(5, 1)]), stack([dataset.clip(5, 2)]))
    assert not torch.equal(stack([dataset.clip(5, 1)]), stack([dataset.clip(6, 1)]))
    assert not torch.equal(stack([dataset.clip(5, 1)]), stack([dataset.validation().clip(5, 1)]))


def test_every_filled_square_gets_an_eighth() -> None:
    figures = CheckerboardShare(MODALITY, BOARD).measure(many(BOARD), [])
    assert figures["on_filled_squares"] == 1
    assert 0.9 < figures["least_filled_square"] <= figures["most_filled_square"] < 1.1
    points = stack(many(BOARD))
    assert ((points[:, 0] < -2) & (points[:, 1] < -2)).sum() == 0  # the lower left is empty
    assert abs(float(points.abs().max()) - 4) < 0.01


def test_the_metric_sees_noise_shifts_and_missing_squares() -> None:
    metric, points = CheckerboardShare(MODALITY, BOARD), stack(many(BOARD))

    def measure(p: torch.Tensor) -> dict[str, float]:
        return metric.measure([Clip(row) for row in p], [])

    assert measure(points + torch.tensor([2.0, 0.0]))["on_filled_squares"] < 0.01
    noise = 4 * torch.randn(8000, 2, generator=torch.Generator().manual_seed(0))
    assert measure(noise)["on_filled_squares"] < 0.4
    lacking = measure(points[~((points[:, 0] > 2) & (points[:, 1] < -2))])
    assert lacking["least_filled_square"] == 0
    assert lacking["on_filled_squares"] == 1
    with pytest.raises(UsageError, match="not Ring"):
        CheckerboardShare(MODALITY, Ring(MODALITY))  # type: ignore[arg-type]


def test_classes_of_the_ring_are_where_they_say() -> None:
    clips = many(Ring(MODALITY))
    for k in range(8):
        mean = stack([c for c in clips if c.conditions["class"] == str(k)]).mean(0)
        angle = torch.tensor(k * torch.pi / 4)
        torch.testing.assert_close(mean, 3.5 * torch.stack([angle.cos(), angle.sin()]), atol=0.05, rtol=0)


def test_options_change_the_density() -> None:
    assert stack(many(Checkerboard(MODALITY, half=2.0))).abs().max() < 2
    tight, wide = (stack(many(Ring(MODALITY, radius=0.001, std=s))).std() for s in (0.1, 0.4))
    assert 3.5 < float(wide / tight) < 4.5
    with pytest.raises(UsageError, match=r"data\.half"):
        Checkerboard(MODALITY, half=0)


def test_the_encoder_measures_its_scale_and_comes_back() -> None:
    clips, encoder = many(BOARD), ScaledPoints(MODALITY)
    encoder.fit(clips)
    assert abs(float(encoder.encode(clips).x.square().mean()) - 1) < 1e-3  # type: ignore[union-attr]
    torch.testing.assert_close(stack(encoder.decode(encoder.encode(clips))), stack(clips))
    fixed = ScaledPoints(MODALITY, std=2.0)
    fixed.fit(clips)
    assert float(fixed.scale) == 2
    assert fixed.identity != encoder.identity


@pytest.mark.parametrize("suffix", [".npy", ".csv"])
def test_numbers_come_back_from_files(tmp_path: Path, suffix: str) -> None:
    clips, path = many(BOARD, 50), tmp_path / f"points{suffix}"
    MODALITY.write(clips, path, {"seed": 3})
    torch.testing.assert_close(read_points(path), stack(clips), atol=1e-5, rtol=0)
    if suffix == ".csv":
        assert json.loads(path.read_text().splitlines()[0].removeprefix("# ")) == {"seed": 3}
    MODALITY.write(clips[:1], path, {})
    torch.testing.assert_close(MODALITY.read(path).data, clips[0].data, atol=1e-5, rtol=0)


def test_pictures_show_the_points_and_carry_the_metadata(tmp_path: Path) -> None:
    MODALITY.write(many(BOARD), tmp_path / "board.png", {"seed": 3})
    picture = Image.open(tmp_path / "board.png")
    assert json.loads(picture.info["Description"]) == {"seed": 3}
    pixels = np.asarray(picture.convert("RGB"), dtype=float)
    blue = pixels[..., 2] - pixels[..., 0] > 15
    assert 0.1 < blue.mean() < 0.35  # half of the board, which is 64 % of the frame, and dots leave gaps
    MODALITY.write(many(BOARD), tmp_path / "board.svg", {"seed": 3})
    assert "&quot;seed&quot;: 3" in (tmp_path / "board.svg").read_text().replace('"seed"', "&quot;seed&quot;")
    clips = many(Ring(MODALITY), 400)
    MODALITY.sheet(clips, tmp_path / "sheet.png", [str(c.conditions["class"]) for c in clips])
    colours = np.asarray(Image.open(tmp_path / "sheet.png").convert("RGB"), dtype=int)
    assert len(np.unique((colours // 64).reshape(-1, 3), axis=0)) > 8


@pytest.mark.parametrize(("suffix", "codec"), [(".mp4", "h264"), (".gif", "gif")])
def test_another_program_plays_the_animation(tmp_path: Path, suffix: str, codec: str) -> None:
    path = tmp_path / f"flow{suffix}"
    noise = torch.randn(300, 2, generator=torch.Generator().manual_seed(0))
    data = stack(many(BOARD, 300))
    frames = [(t, [Clip(p) for p in (1 - t) * noise + t * data]) for t in torch.linspace(0, 1, 5).tolist()]
    MODALITY.animate(frames, path, {"seed": 3})
    entries = "stream=codec_name,width,nb_read_frames"
    command = ["ffprobe", "-v", "error", "-count_frames", "-show_entries", entries, "-of", "json", str(path)]
    out = subprocess.run(command, capture_output=True, check=True, text=True)
    (stream,) = json.loads(out.stdout)["streams"]
    assert (stream["codec_name"], stream["width"]) == (codec, 500)
    if suffix == ".mp4":
        assert int(stream["nb_read_frames"]) == 25
    else:
        with Image.open(path) as gif:
            assert gif.info["comment"] == b'{"seed": 3}'
            assert gif.n_frames >= 5


def test_the_field_of_a_known_flow_is_drawn(tmp_path: Path) -> None:
    mixture = GaussianMixture(torch.tensor([[2.0, 0.0], [-2.0, 0.0]]), torch.tensor([0.5, 0.5]), torch.ones(2))
    flow = mixture.flow()
    save_field(lambda x, t: flow(x, torch.tensor(t)).velocity, tmp_path / "field.png", 5.0, times=(0.0, 0.9))  # type: ignore[return-value]
    picture = np.asarray(Image.open(tmp_path / "field.png").convert("RGB"), dtype=float)
    left, right = picture[:, :500], picture[:, 500:]
    assert picture.shape[1] == 1000
    assert np.abs(left - right).mean() > 1


def test_what_cannot_be_done_is_said(tmp_path: Path) -> None:
    (tmp_path / "bad.csv").write_text("1,2,3\n")
    with pytest.raises(FlowgenError, match=r"bad\.csv.*expected finite numbers \[N, 2\]"):
        read_points(tmp_path / "bad.csv")
    with pytest.raises(FlowgenError, match=r"none\.npy.*cannot be read"):
        read_points(tmp_path / "none.npy")
    MODALITY.write(many(BOARD, 20), tmp_path / "many.npy", {})
    with pytest.raises(FlowgenError, match="expected one point, got 20"):
        MODALITY.read(tmp_path / "many.npy")
    with pytest.raises(FlowgenError, match=r"cannot animate as '\.png'"):
        MODALITY.animate([(0.0, many(BOARD, 2))], tmp_path / "x.png", {})
    with pytest.raises(FlowgenError, match=r"cannot write '\.jpg'"):
        MODALITY.write(many(BOARD, 2), tmp_path / "x.jpg", {})


def test_points_of_a_file_are_split(tmp_path: Path) -> None:
    np.save(tmp_path / "p.npy", np.arange(40.0).reshape(20, 2))
    data = PointsFile(MODALITY, str(tmp_path / "p.npy"))
    assert (len(data), len(data.validation())) == (18, 2)
    seen = {float(d.clip(i, 0).data[0]) for d in (data, data.validation()) for i in range(len(d))}  # type: ignore[index]
    assert seen == set(range(0, 40, 2))

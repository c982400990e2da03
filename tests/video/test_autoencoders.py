"""Frames through autoencoders of diffusers, made here, small and random."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from torch import Tensor

diffusers = pytest.importorskip("diffusers")

from flowgen_video.autoencoders import FrozenAutoencoder, ImageAutoencoder, VideoAutoencoder  # noqa: E402
from flowgen_video.modality import Video  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402

from flowgen.errors import FlowgenError, UsageError  # noqa: E402
from flowgen.media.clip import Clip  # noqa: E402
from flowgen.media.encoder import Latents  # noqa: E402
from flowgen.testing.models import autoencoder  # noqa: E402

KINDS = {"AutoencoderKL": (ImageAutoencoder, 1, 4), "AutoencoderKLWan": (VideoAutoencoder, 2, 4)}
KINDS["AutoencoderKLLTXVideo"] = (VideoAutoencoder, 2, 4)
VIDEO = Video(fps=10, frames=5, height=24, width=16, channels=3)


@pytest.fixture(scope="module", params=KINDS)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return autoencoder(tmp_path_factory.mktemp("autoencoders") / request.param, request.param)


def encoder_of(model: Path, video: Video = VIDEO, **options: object) -> FrozenAutoencoder:
    return KINDS[model.name][0](video, str(model), **options)  # type: ignore[arg-type]


def clips(n: int = 2, frames: int = 5) -> list[Clip]:
    g = torch.Generator().manual_seed(0)
    shape = (n, frames, 24, 16, 3)
    return [Clip(x, 10.0) for x in torch.randint(0, 256, shape, generator=g, dtype=torch.uint8)]


def test_latents_are_the_normalised_posterior_means(model: Path) -> None:
    encoder = encoder_of(model)
    _, time, space = KINDS[model.name]
    x, mask = encoder.encode(clips())
    assert mask is None
    assert isinstance(x, Tensor)
    assert tuple(x.shape[1:]) == encoder.spec.shape == (1 + 4 // time, 24 // space, 16 // space, encoder.spec.channels)
    assert [(a.name, a.rate) for a in encoder.spec.axes] == [
        ("time", 10 / time),
        ("height", 1 / space),
        ("width", 1 / space),
    ]
    own = getattr(diffusers, model.name).from_pretrained(str(model)).eval()
    frames = torch.stack([c.data for c in clips()]).permute(0, 4, 1, 2, 3) / 127.5 - 1  # type: ignore[misc]
    with torch.no_grad():
        if model.name == "AutoencoderKL":
            z = torch.stack([own.encode(f).latent_dist.mean for f in frames.transpose(1, 2)]).transpose(1, 2)
            expected = (z - 0.1) * 2.0
        else:
            z = own.encode(frames).latent_dist.mean
            mean, std = (
                torch.as_tensor(own._buffers.get(k, own.config.get(k))).view(-1, 1, 1, 1)
                for k in ("latents_mean", "latents_std")
            )
            expected = (z - mean) / std
    torch.testing.assert_close(x, expected.permute(0, 2, 3, 4, 1), rtol=1e-4, atol=1e-4)


def test_decoding_undoes_the_normalisation(model: Path) -> None:
    encoder = encoder_of(model)
    latents = encoder.encode(clips())
    decoded = encoder.decode(latents)
    own = getattr(diffusers, model.name).from_pretrained(str(model)).eval()
    frames = clips()[0].data.permute(3, 0, 1, 2)[None] / 127.5 - 1  # type: ignore[union-attr]
    with torch.no_grad():
        if model.name == "AutoencoderKL":
            one = own.decode(own.encode(frames[0].transpose(0, 1)).latent_dist.mean).sample.transpose(0, 1)[None]
        else:
            one = own.decode(own.encode(frames).latent_dist.mean).sample
    expected = ((one[0] + 1) * 127.5).round().clamp(0, 255).permute(1, 2, 3, 0)
    assert decoded[0].data.shape == (5, 24, 16, 3)
    assert decoded[0].data.dtype == torch.uint8
    assert (decoded[0].data.float() - expected).abs().max() <= 1  # type: ignore[union-attr]
    again = encoder.decode(latents)
    assert all(torch.equal(a.data, b.data) for a, b in zip(decoded, again, strict=True))  # type: ignore[arg-type]


def test_neighbours_change_nothing_and_neither_does_the_generator_of_torch(model: Path) -> None:
    encoder = encoder_of(model)
    state = torch.random.get_rng_state()
    together = encoder.encode(clips()).x
    alone = encoder.encode(clips()[1:]).x
    encoder.decode(Latents(together))
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.testing.assert_close(together[1:], alone, rtol=1e-5, atol=1e-5)  # type: ignore[index]


def test_its_weights_are_not_part_of_the_run_and_its_identity_is_that_of_its_files(model: Path, tmp_path: Path) -> None:
    encoder = encoder_of(model)
    assert not encoder.state_dict()
    assert not list(encoder.parameters())
    moved = shutil.copytree(model, tmp_path / model.name)
    assert encoder_of(moved).identity == encoder.identity
    assert encoder_of(model, precision="bfloat16").identity != encoder.identity
    (file,) = moved.glob("*.safetensors")
    tensors = load_file(file)
    name = next(iter(tensors))
    save_file({**tensors, name: tensors[name] + 1e-3}, file)
    assert encoder_of(moved).identity != encoder.identity


def test_weights_that_do_not_match_are_named(model: Path, tmp_path: Path) -> None:
    moved = shutil.copytree(model, tmp_path / model.name)
    (file,) = moved.glob("*.safetensors")
    tensors = load_file(file)
    name = sorted(tensors)[3]
    save_file({k: v for k, v in tensors.items() if k != name} | {"surplus": torch.zeros(1)}, file)
    with pytest.raises(FlowgenError, match=f"missing: {name}; unexpected: surplus"):
        encoder_of(moved).encode(clips())


def test_without_weights_the_spec_is_known_and_the_rest_refused(model: Path, tmp_path: Path) -> None:
    folder = tmp_path / model.name
    folder.mkdir()
    shutil.copy(model / "config.json", folder)
    encoder = encoder_of(folder)
    assert encoder.spec == encoder_of(model).spec
    with pytest.raises(FlowgenError, match="has no weights"):
        encoder.encode(clips())


def test_options_do_something(model: Path) -> None:
    plain, low = encoder_of(model), encoder_of(model, precision="bfloat16")
    a, b = plain.encode(clips()).x, low.encode(clips()).x
    assert b.dtype == torch.float32  # type: ignore[union-attr]
    assert not torch.equal(a, b)  # type: ignore[arg-type]
    tiled = encoder_of(model, tiling=True)
    tiled.encode(clips())
    assert tiled.autoencoder.network.use_tiling
    assert not plain.autoencoder.network.use_tiling
    one_by_one = encoder_of(model, batch=1)
    torch.testing.assert_close(one_by_one.encode(clips()).x, a, rtol=1e-4, atol=1e-4)
    with pytest.raises(UsageError, match="batch"):
        encoder_of(model, batch=0)


def test_what_does_not_fit_is_refused_with_the_nearest_that_does(model: Path) -> None:
    with pytest.raises(UsageError, match=r"a height that 4 divides, got 22; nearest: 20 or 24"):
        encoder_of(model, Video(frames=5, height=22, width=16))
    with pytest.raises(UsageError, match=r"frames of 3 channels, got 1"):
        encoder_of(model, Video(frames=5, height=24, width=16, channels=1))
    if KINDS[model.name][0] is VideoAutoencoder:
        with pytest.raises(UsageError, match=r"1 \+ k x 2 frames, got 16; nearest: 15 or 17 \(1.88 or 2.12 s\)"):
            encoder_of(model, Video(fps=8, frames=16, height=24, width=16))
        assert encoder_of(model).latent_shape(0.9) == (5, 6, 4, encoder_of(model).spec.channels)
        with pytest.raises(UsageError, match="nearest: 9 or 11"):
            encoder_of(model).latent_shape(1.0)
    else:
        assert encoder_of(model).latent_shape(1.0)[0] == 10


def test_the_wrong_kind_is_sent_to_the_right_one(model: Path, tmp_path: Path) -> None:
    wrong, right = ImageAutoencoder, "video-autoencoder"
    if KINDS[model.name][0] is ImageAutoencoder:
        wrong, right = VideoAutoencoder, "image-autoencoder"  # type: ignore[assignment]
    with pytest.raises(UsageError, match=f"encoder.type: {right}"):
        wrong(VIDEO, str(model))
    (tmp_path / "config.json").write_text(json.dumps({"_class_name": "UNet2DModel"}))
    with pytest.raises(FlowgenError, match="is of 'UNet2DModel', which is no autoencoder"):
        wrong(VIDEO, str(tmp_path))


def test_a_mask_marks_the_latents_whose_pixels_it_touches(model: Path) -> None:
    encoder = encoder_of(model)
    mask = clips(1)[0]
    data = torch.zeros_like(mask.data)
    data[-1, 0, 0] = 255
    marked = encoder.marked(Clip(data, mask.rate))
    assert marked.shape == encoder.encode([mask]).x.shape[1:-1]
    assert marked.sum() == 1
    assert marked[-1, 0, 0]
    data = torch.zeros_like(mask.data)
    data[0] = 255
    assert encoder.marked(Clip(data, mask.rate))[0].all()


@pytest.mark.parametrize(
    ("kind", "encoder", "shape"),
    [
        ("AutoencoderDC", ImageAutoencoder, (9, 16, 16, 4)),
        ("AutoencoderKLHunyuanVideo", VideoAutoencoder, (3, 8, 8, 4)),
        ("AutoencoderKLCogVideoX", VideoAutoencoder, (3, 8, 8, 4)),
    ],
)
def test_other_classes_say_their_shape_too(
    kind: str, encoder: type[FrozenAutoencoder], shape: tuple[int, ...], tmp_path: Path
) -> None:
    made = encoder(Video(fps=8, frames=9, height=64, width=64), str(autoencoder(tmp_path / kind, kind)))  # type: ignore[call-arg, arg-type]
    clip = Clip(torch.randint(0, 256, (9, 64, 64, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8))
    latents = made.encode([clip])
    assert made.spec.shape == tuple(latents.x.shape[1:]) == shape  # type: ignore[union-attr]
    assert made.decode(latents)[0].data.shape == clip.data.shape  # type: ignore[union-attr]


def test_an_autoencoder_that_does_not_give_back_the_frames_is_refused(tmp_path: Path) -> None:
    made = VideoAutoencoder(
        Video(fps=8, frames=5, height=64, width=64), str(autoencoder(tmp_path / "cog", "AutoencoderKLCogVideoX"))
    )
    with pytest.raises(
        FlowgenError, match=r"makes 8 frames of 2 latent steps, which stand for 5; take clips of 9 frames"
    ):
        made.decode(made.encode([Clip(torch.zeros(5, 64, 64, 3, dtype=torch.uint8))]))

"""Sound through pretrained networks, made here, small and random."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from flowgen_audio.encoders import AudioEncoder
from flowgen_audio.modality import Audio
from flowgen_audio.neural import MelVocos, WaveformAutoencoder
from flowgen_audio.vocos import load_vocos
from safetensors.torch import load_file, save_file

from flowgen.errors import FlowgenError, UsageError
from flowgen.media.clip import Clip
from flowgen.media.encoder import Latents
from flowgen.testing.models import autoencoder, vocoder

MONO = Audio(sample_rate=8000, channels=1, duration_s=0.25)
STEREO = Audio(sample_rate=44100, channels=2, duration_s=0.1)


@pytest.fixture(scope="module")
def vocos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return vocoder(tmp_path_factory.mktemp("models") / "vocos")


@pytest.fixture(scope="module")
def oobleck(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("diffusers")
    return autoencoder(tmp_path_factory.mktemp("models") / "oobleck", "AutoencoderOobleck")


@pytest.fixture(scope="module", params=["vocos", "oobleck"])
def encoder(request: pytest.FixtureRequest) -> AudioEncoder:
    folder = str(request.getfixturevalue(request.param))
    encoder = MelVocos(MONO, folder) if request.param == "vocos" else WaveformAutoencoder(STEREO, folder)
    encoder.fit(clips(encoder))
    return encoder


def clips(encoder: AudioEncoder, *lengths: int) -> list[Clip]:
    audio = encoder.modality
    g = torch.Generator().manual_seed(0)
    sizes = lengths or (audio.samples, audio.samples)
    return [Clip(torch.randn(audio.channels, n, generator=g) * 0.1, audio.sample_rate) for n in sizes]


def test_latents_have_the_shape_of_the_spec_and_unit_deviation(encoder: AudioEncoder) -> None:
    x, mask = encoder.encode(clips(encoder))
    assert mask is None
    assert x.shape == (2, *encoder.spec.shape)
    assert float(x.square().mean().sqrt()) == pytest.approx(1, abs=0.05)  # type: ignore[union-attr]
    audio = encoder.modality
    assert encoder.spec.axes[0].rate == audio.sample_rate / encoder.hop
    assert encoder.latent_shape(audio.duration_s) == encoder.spec.shape
    decoded = encoder.decode(Latents(x))
    assert [c.data.shape for c in decoded] == [(audio.channels, audio.samples)] * 2  # type: ignore[union-attr]


def test_lengths_and_neighbours_change_nothing(encoder: AudioEncoder) -> None:
    n = encoder.modality.samples
    mixed = clips(encoder, n, n // 2, 3 * n // 4)
    together = encoder.encode(mixed)
    assert together.mask is not None
    decoded = encoder.decode(together)
    for i, clip in enumerate(mixed):
        alone = encoder.encode([clip])
        real = together.x[i][together.mask[i]]  # type: ignore[index]
        torch.testing.assert_close(real, alone.x[0], rtol=1e-5, atol=1e-5)  # type: ignore[index]
        out = encoder.decode(alone)[0].data
        torch.testing.assert_close(decoded[i].data, out, rtol=1e-4, atol=1e-5)
    assert not together.x[~together.mask].any()  # type: ignore[index, operator]


def test_the_run_keeps_the_statistics_and_not_the_weights(encoder: AudioEncoder) -> None:
    assert set(encoder.state_dict()) == {"mean", "std"}
    assert not list(encoder.parameters())


def test_mel_bands_are_those_of_the_vocoder_and_it_decodes_them(vocos: Path) -> None:
    import torchaudio

    encoder = MelVocos(MONO, str(vocos))
    wave = clips(encoder)[0].data
    mel = torchaudio.transforms.MelSpectrogram(8000, n_fft=256, hop_length=64, n_mels=20, power=1)
    expected = mel(wave).clamp(min=1e-7).log()
    x = encoder.features(wave[None])  # type: ignore[index]
    torch.testing.assert_close(x[0].T, expected[0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(encoder.samples(x)[0], load_vocos(vocos)(expected), rtol=1e-4, atol=1e-6)


def test_other_mel_settings_than_the_vocoders_are_named(vocos: Path) -> None:
    MelVocos(MONO, str(vocos), bands=20, window=256, hop=64)
    audio = Audio(sample_rate=16000)
    with pytest.raises(UsageError, match=r"encoder.hop is 32, the vocoder's 64; modality.sample_rate is 16000.* 8000"):
        MelVocos(audio, str(vocos), bands=20, hop=32)
    with pytest.raises(UsageError, match=r"encoder.bands is 80, the vocoder's 20; encoder.window is 512"):
        MelVocos(MONO, str(vocos), bands=80, window=512)


def test_a_vocoder_is_loaded_strictly(vocos: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(vocos, tmp_path / "copy")
    tensors = torch.load(copy / "pytorch_model.bin", weights_only=True)
    identity = MelVocos(MONO, str(copy)).identity
    assert identity == MelVocos(MONO, str(vocos)).identity
    tensors["head.out.weights"] = tensors.pop("head.out.weight")
    torch.save(tensors, copy / "pytorch_model.bin")
    encoder = MelVocos(MONO, str(copy))
    assert encoder.identity != identity
    with pytest.raises(FlowgenError, match=r"missing: head.out.weight; unexpected: head.out.weights"):
        encoder.decode(encoder.encode(clips(encoder)))
    (copy / "pytorch_model.bin").write_bytes(b"no tensors")
    with pytest.raises(FlowgenError, match=r"cannot read .*pytorch_model.bin"):
        load_vocos(copy)
    (copy / "pytorch_model.bin").unlink()
    with pytest.raises(FlowgenError, match="has no weights"):
        load_vocos(copy)


def test_a_config_that_names_other_classes_is_refused(vocos: Path, tmp_path: Path) -> None:
    config = json.loads((vocos / "config.yaml").read_text())
    config["head"]["class_path"] = "os.system"
    (tmp_path / "config.yaml").write_text(json.dumps(config))
    with pytest.raises(FlowgenError, match=r"head is of 'os.system'"):
        MelVocos(MONO, str(tmp_path))
    config = json.loads((vocos / "config.yaml").read_text())
    config["head"]["init_args"]["hop_length"] = 32
    (tmp_path / "config.yaml").write_text(json.dumps(config))
    with pytest.raises(FlowgenError, match="do not fit each other"):
        MelVocos(MONO, str(tmp_path))


def test_a_clip_too_short_for_the_window_is_refused(vocos: Path) -> None:
    encoder = MelVocos(MONO, str(vocos))
    with pytest.raises(UsageError, match="shorter than half the vocoder's window"):
        encoder.encode(clips(encoder, 60))


def test_an_autoencoder_takes_its_own_sound_alone(oobleck: Path, tmp_path: Path) -> None:
    with pytest.raises(
        UsageError, match=r"modality.sample_rate is 48000, its own 44100; modality.channels is 1, its own 2"
    ):
        WaveformAutoencoder(Audio(sample_rate=48000), str(oobleck))
    with pytest.raises(UsageError, match="is for pictures"):
        WaveformAutoencoder(STEREO, str(autoencoder(tmp_path / "kl", "AutoencoderKL")))


def test_latents_of_pretrained_generators_are_as_the_autoencoder_gives_them(oobleck: Path) -> None:
    plain = WaveformAutoencoder(STEREO, str(oobleck), normalise=False)
    plain.fit(clips(plain))
    x = plain.encode(clips(plain)).x
    usual = WaveformAutoencoder(STEREO, str(oobleck))
    assert torch.equal(x, usual.encode(clips(usual)).x)  # type: ignore[arg-type]
    usual.fit(clips(usual))
    assert not torch.allclose(x, usual.encode(clips(usual)).x, atol=1e-2)  # type: ignore[arg-type]
    assert plain.identity != usual.identity


def test_an_autoencoder_is_loaded_strictly_and_told_apart(oobleck: Path, tmp_path: Path) -> None:
    a = WaveformAutoencoder(STEREO, str(oobleck))
    low = WaveformAutoencoder(STEREO, str(oobleck), precision="bfloat16")
    assert a.identity != low.identity
    assert not torch.equal(a.encode(clips(a)).x, low.encode(clips(a)).x)  # type: ignore[arg-type]
    copy = shutil.copytree(oobleck, tmp_path / "copy")
    (file,) = copy.glob("*.safetensors")
    tensors = load_file(file)
    name = sorted(tensors)[0]
    save_file({k: v for k, v in tensors.items() if k != name}, file)
    with pytest.raises(FlowgenError, match=f"missing: {name}"):
        WaveformAutoencoder(STEREO, str(copy)).encode(clips(a))
    file.unlink()
    assert WaveformAutoencoder(STEREO, str(copy)).spec == a.spec

"""Encoders: what goes in comes out, whatever its length and its neighbours."""

from __future__ import annotations

import math

import pytest
import torch
from flowgen_audio.encoders import AudioEncoder, ComplexSTFT, Mel, Spectrogram, Waveform, mel_filters, nonnegative
from flowgen_audio.griffin_lim import griffin_lim, magnitudes, spectral_convergence
from flowgen_audio.metrics import pitch_error
from flowgen_audio.modality import Audio
from flowgen_audio.notes import Notes

from flowgen.errors import UsageError
from flowgen.media.clip import Clip
from flowgen.media.encoder import Latents

ENCODERS = [Waveform, ComplexSTFT, Spectrogram, Mel]


@pytest.fixture(scope="module")
def real(notes: Notes) -> list[Clip]:
    return [notes.clip(i, 0) for i in range(10)]


@pytest.fixture(scope="module", params=ENCODERS, ids=lambda e: e.__name__)
def encoder(request: pytest.FixtureRequest, audio: Audio, real: list[Clip]) -> AudioEncoder:
    encoder = request.param(audio)
    encoder.fit(real)
    return encoder


def lengths(clips: list[Clip], *samples: int) -> list[Clip]:
    return [Clip(clip.data[:, :n], clip.rate, clip.conditions) for clip, n in zip(clips, samples, strict=False)]  # type: ignore[call-overload]


def test_latents_have_the_shape_of_the_spec_and_unit_deviation(encoder: AudioEncoder, real: list[Clip]) -> None:
    x, mask = encoder.encode(real)
    assert x.shape == (10, *encoder.spec.shape)
    assert mask is None
    assert float(x.square().mean().sqrt()) == pytest.approx(1, abs=0.05)
    assert float(x.mean()) == pytest.approx(0, abs=0.02)
    axis = encoder.spec.axes[0]
    assert axis.size / axis.rate == pytest.approx(1.0, abs=2 / axis.rate)
    assert encoder.latent_shape(1.0) == encoder.spec.shape
    with pytest.raises(UsageError, match="positive duration"):
        encoder.latent_shape(0)


def test_the_note_survives_the_round_trip(encoder: AudioEncoder, real: list[Clip]) -> None:
    decoded = encoder.decode(encoder.encode(real))
    window = torch.hann_window(1024)
    exact = isinstance(encoder, (Waveform, ComplexSTFT))
    for out, clip in zip(decoded, real, strict=True):
        assert out.data.shape == clip.data.shape
        assert abs(pitch_error(Clip(out.data, 16000, clip.conditions))) < 25
        if exact:
            assert (out.data - clip.data).abs().max() < 1e-5
        if isinstance(encoder, Spectrogram):
            assert spectral_convergence(out.data, clip.data, window, 256) < 0.2
        assert out.data.norm() == pytest.approx(float(clip.data.norm()), rel=0.35)


def test_decoding_is_deterministic_and_draws_nothing(encoder: AudioEncoder, real: list[Clip]) -> None:
    latents = encoder.encode(real[:2])
    state = torch.random.get_rng_state()
    a = encoder.decode(latents)
    torch.manual_seed(99)
    b = encoder.decode(latents)
    torch.random.set_rng_state(state)
    assert all(torch.equal(p.data, q.data) for p, q in zip(a, b, strict=True))


def test_padding_and_neighbours_change_nothing(encoder: AudioEncoder, real: list[Clip]) -> None:
    clips = lengths(real, 16000, 4800, 9001)
    together = encoder.encode(clips)
    decoded = encoder.decode(together)
    assert together.mask is not None
    for i, clip in enumerate(clips):
        alone = encoder.encode([clip])
        steps = alone.x.shape[1]
        assert steps == encoder.latent_shape(clip.data.shape[1] / 16000)[0]
        assert together.mask[i].tolist() == [True] * steps + [False] * (together.x.shape[1] - steps)
        assert torch.allclose(together.x[i, :steps], alone.x[0], atol=1e-5)
        assert torch.all(together.x[i, steps:] == 0)
        apart = encoder.decode(alone)[0].data
        # phase retrieval amplifies rounding; the magnitudes are what it is asked for
        assert (
            torch.allclose(decoded[i].data, apart, atol=1e-4)
            or spectral_convergence(decoded[i].data, apart, torch.hann_window(512), 128) < 0.02
        )
        assert 0 <= apart.shape[1] - clip.data.shape[1] < encoder.hop or apart.shape[1] == 16000


def test_what_is_masked_is_never_heard(encoder: AudioEncoder, real: list[Clip]) -> None:
    x, mask = encoder.encode(lengths(real, 16000, 4800))
    clean = encoder.decode(Latents(x, mask))[1].data
    x[1, ~mask[1]] = 7.0
    assert torch.equal(encoder.decode(Latents(x, mask))[1].data, clean)


def test_silence_and_one_sample_survive(encoder: AudioEncoder) -> None:
    for n in (1, 100, 16000):
        out = encoder.decode(encoder.encode([Clip(torch.zeros(1, n), 16000)]))[0].data
        assert torch.isfinite(out).all()
        assert out.abs().max() < 1e-2


def test_garbage_latents_stay_sound(encoder: AudioEncoder) -> None:
    x = 50 * torch.randn((2, *encoder.spec.shape), generator=torch.Generator().manual_seed(0))
    for clip in encoder.decode(Latents(x)):
        assert torch.isfinite(clip.data).all()
        assert clip.data.abs().max() <= 1


def test_two_channels_stay_apart(encoder: AudioEncoder) -> None:
    audio = Audio(16000, channels=2)
    two = type(encoder)(audio)
    time = torch.arange(16000) / 16000
    data = 0.4 * torch.stack([torch.sin(2 * math.pi * hz * time) for hz in (400, 900)])
    clip = Clip(data, 16000)
    two.fit([clip])
    out = two.decode(two.encode([clip]))[0].data
    for channel, hz in zip(out, (400, 900), strict=True):
        assert int(torch.fft.rfft(channel).abs().argmax()) == pytest.approx(hz, abs=4)


def test_identity_follows_statistics_and_options(audio: Audio, real: list[Clip]) -> None:
    a, b = Spectrogram(audio), Spectrogram(audio)
    assert a.identity == b.identity
    b.fit(real)
    assert a.identity != b.identity
    c = Spectrogram(audio)
    c.load_state_dict(b.state_dict())
    assert c.identity == b.identity
    assert len({Spectrogram(audio, hop=128).identity, Spectrogram(audio, window=512).identity, a.identity}) == 3
    assert Spectrogram(audio, floor_db=-60.0).identity != a.identity
    assert ComplexSTFT(audio, power=0.3).identity != ComplexSTFT(audio).identity
    assert Mel(audio, low_hz=60.0).identity != Mel(audio).identity


@pytest.mark.parametrize("kind", ENCODERS)
def test_any_length_is_a_multiple_of_the_patch(kind: type, audio: Audio, real: list[Clip]) -> None:
    encoder = kind(audio, multiple=4)
    for n in (1, 256, 5000, 15999, 16000):
        clip = Clip(real[1].data[:, :n], 16000)
        x = encoder.encode([clip]).x
        assert x.shape[1] % 4 == 0
        assert tuple(x.shape[1:]) == encoder.latent_shape(n / 16000)
        out = encoder.decode(Latents(x))[0].data
        assert 0 <= out.shape[1] - n < 5 * encoder.hop
        assert out[:, n + encoder.hop :].abs().max() < 0.1 if out.shape[1] > n + encoder.hop else True
    together = encoder.encode(lengths(real, 16000, 4800))
    assert torch.equal(together.mask.sum(1), torch.tensor([encoder.latent_shape(s)[0] for s in (1.0, 0.3)]))


@pytest.mark.parametrize("kind", ENCODERS)
def test_beyond_its_context_a_cut_changes_nothing(kind: type, audio: Audio, real: list[Clip]) -> None:
    """Continuation trusts this: the latents of a part, but for `context` steps at the cut, are those of the whole."""
    encoder = kind(audio)
    part = 6 * 256 * 4  # a multiple of every hop
    whole = encoder.encode([real[0]]).x[0]
    cut = encoder.encode([Clip(real[0].data[:, :part], 16000)]).x[0]
    keep = part // encoder.hop + (encoder.context > 0) - encoder.context
    assert torch.allclose(cut[:keep], whole[:keep], atol=1e-5)
    if encoder.context:
        assert not torch.allclose(cut[: keep + 1], whole[: keep + 1], atol=1e-3)


@pytest.mark.parametrize(
    "make",
    [
        lambda m: Spectrogram(m, hop=0),
        lambda m: Spectrogram(m, window=256, hop=200),
        lambda m: ComplexSTFT(m, power=0.0),
        lambda m: Mel(m, low_hz=9000.0),
        lambda m: Waveform(m, patch=0),
        lambda m: Waveform(m, multiple=0),
    ],
)
def test_impossible_options_are_refused(audio: Audio, make: object) -> None:
    with pytest.raises(UsageError, match="encoder"):
        make(audio)  # type: ignore[operator]


def test_griffin_lim_approaches_the_magnitudes_and_momentum_helps(real: list[Clip]) -> None:
    window = torch.hann_window(1024)
    waves = torch.cat([clip.data for clip in real[:8]])
    target = magnitudes(waves, window, 256)

    def error(iterations: int, momentum: float = 0.99) -> float:
        return spectral_convergence(
            griffin_lim(target, window, 256, iterations, momentum), waves[:, :15872], window, 256
        )

    waves = waves[:, :15872]
    target = magnitudes(waves, window, 256)
    start, some, many = error(0), error(16), error(64)
    assert start < 0.2  # the start alone: peaks advance at their own frequency
    assert many < some < 0.5 * start
    assert error(32, 0.99) < error(32, 0.0)


def test_mel_filters_cover_all_frequencies_and_invert() -> None:
    filters = mel_filters(513, 80, 16000, 20.0)
    assert torch.allclose(filters.sum(1), torch.ones(80), atol=1e-5)
    assert (filters >= 0).all()
    assert (filters[:, 3:-3].sum(0) > 0).all()
    target = torch.rand(1, 513, 4, generator=torch.Generator().manual_seed(0))
    mel = filters @ target
    found = nonnegative(filters, torch.linalg.pinv(filters), mel)
    assert (found >= 0).all()
    assert float((filters @ found - mel).norm() / mel.norm()) < 0.05


def test_a_click_where_a_continuation_begins_is_measured():
    audio = Audio(sample_rate=8000)
    t = torch.arange(8000) / 8000
    wave = 0.5 * torch.sin(2 * torch.pi * 200 * t)[None]
    truth = [Clip(wave, 8000)]
    clicks = [Clip(torch.cat([wave[:, :1600], wave[:, 1600:] + 0.4], 1), 8000)]
    smooth, click = (audio.compare_continuations(made, truth, 0.2) for made in (truth, clicks))
    assert smooth["given_exact"] == click["given_exact"] == 1.0
    assert smooth["seam"] < 1.1
    assert click["seam"] > 4
    assert audio.compare_continuations([Clip(wave + 1e-4, 8000)], truth, 0.2)["given_exact"] == 0.0


def correlation(clip: Clip) -> float:
    left, right = clip.data  # type: ignore[misc]
    return float((left @ right) / (left.norm() * right.norm()))


@pytest.mark.parametrize("made", [Spectrogram, Mel])
def test_left_and_right_belong_together_after_the_round_trip(made: type[AudioEncoder]) -> None:
    stereo, noise = Audio(16000, 2, 1.0), torch.Generator().manual_seed(0)
    time = torch.arange(16000) / 16000
    clips = []
    for share in (-0.6, 0.0, 0.5, 0.9, 1.0):  # of the power that both have in common
        tone = sum(torch.sin(2 * torch.pi * hz * time) for hz in (220, 331, 447))
        both, left, right = (tone + 2 * torch.randn(16000, generator=noise) for _ in range(3))
        angle = abs(share) ** 0.5, (1 - abs(share)) ** 0.5
        pair = torch.stack(
            [angle[0] * both + angle[1] * left, angle[0] * both * (-1 if share < 0 else 1) + angle[1] * right]
        )
        clips.append(Clip(0.05 * pair, 16000))
    errors = {}
    for option in ("joint", "separate"):
        encoder = made(stereo, stereo=option)  # type: ignore[call-arg]
        encoder.fit(clips)
        decoded = encoder.decode(encoder.encode(clips))
        errors[option] = max(abs(correlation(a) - correlation(b)) for a, b in zip(clips, decoded, strict=True))
        powers = [float((a.data.norm() / b.data.norm()).log10() * 20) for a, b in zip(clips, decoded, strict=True)]  # type: ignore[union-attr]
        assert max(map(abs, powers)) < 1.5
    assert errors["joint"] < 0.1
    assert errors["separate"] > 0.3  # the test tells them apart
    mono = made(Audio(16000, 1, 1.0))
    assert mono.identity == made(Audio(16000, 1, 1.0), stereo="separate").identity  # type: ignore[call-arg]
    joint, separate = made(stereo), made(stereo, stereo="separate")  # type: ignore[call-arg]
    assert joint.earlier(separate.state_dict()) == "stereo: separate"  # type: ignore[attr-defined]
    assert joint.earlier(joint.state_dict()) is None  # type: ignore[attr-defined]

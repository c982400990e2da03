"""From config to files: a run of a few steps is sampled in every direction through the command line."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
import torch
from click.testing import CliRunner
from flowgen_av.modality import AudioVideo

from flowgen.cli import cli
from flowgen.config import ComponentConfig, build
from flowgen.errors import FlowgenError, UsageError
from flowgen.media.streams import StreamSpec
from flowgen.runs.generator import Generator
from flowgen.runs.requests import FromStream

CONFIG = """
name: tiny
modality: {type: av, fps: 8, frames: 8, height: 16, width: 16, sample_rate: 4000}
data: {type: bouncing-sounds, radius: 2, no_picture: 0.2, no_sound: 0.2}
encoder:
  type: streams
  encoders: {picture: pixels, sound: {type: spectrogram, window: 128, hop: 50, multiple: 9}}
network:
  {type: stream-transformer, width: 32, depth: 2, heads: 2, patches: {picture: [2, 16, 16], sound: [3]}}
shift: {picture: 4, sound: 4}
loss: {type: flow-matching, predicts: data, noise_levels: independent, weights: {picture: 4, sound: 1}}
train: {steps: 12, batch_size: 8, optimizer: {lr: 2e-3}, validation: {every: 6}, preview: {every: 6}}
sample: {steps: 4, solver: dpm++2m}
eval: {clips: 16, metrics: [event-synchrony, bounce-agreement]}
"""
MEDIUM = AudioVideo(fps=8, frames=8, height=16, width=16, sample_rate=4000)


def run(*args):
    done = CliRunner().invoke(cli, [str(a) for a in args], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    folder = tmp_path_factory.mktemp("av-run")
    (folder / "tiny.yaml").write_text(CONFIG)
    run("train", folder / "tiny.yaml", f"run={folder}/run", "--quiet")
    return folder / "run"


@pytest.fixture(scope="module")
def made(tiny, tmp_path_factory):
    out = tmp_path_factory.mktemp("made") / "clip.mp4"
    run("sample", tiny, "-c", "ball=red", "-c", "material=bell", "-o", out)
    return out


def test_a_sample_is_one_file_with_both(made):
    assert set(MEDIUM.read(made).data) == {"picture", "sound"}


@pytest.mark.parametrize("stream", ["picture", "sound"])
def test_the_given_stream_is_returned_as_it_is(tiny, made, stream, tmp_path):
    run("sample", tiny, "--given", f"{stream}={made}", "-o", tmp_path / "other.mp4")
    given, other = (MEDIUM.read(path).data[stream] for path in (made, tmp_path / "other.mp4"))
    if stream == "picture":
        assert float((given.float() - other.float()).abs().mean()) < 2  # one more round of H.264
    else:
        assert float((given - other).square().mean()) < 0.02 * float(given.square().mean()) + 1e-6
    missing = tmp_path / "mute.mp4"
    MEDIUM.picture.write([MEDIUM.stream_of(MEDIUM.read(made), "picture")], missing, {})
    if stream == "sound":
        with pytest.raises(FlowgenError, match="sound"):
            run("sample", tiny, "--given", f"sound={missing}", "-o", tmp_path / "x.mp4")


def test_a_clip_is_continued_and_inpainted_in_both_streams(tiny, made, tmp_path):
    run("sample", tiny, "--continue", made, "--seconds", 1.5, "-o", tmp_path / "longer.mp4")
    longer = MEDIUM.read(tmp_path / "longer.mp4")
    assert len(longer.data["picture"]) == 20  # 1.5 s more
    assert longer.data["sound"].shape == (1, 10_000)
    run("sample", tiny, "--inpaint", made, "--from", 0.25, "--to", 0.75, "-o", tmp_path / "mended.mp4")
    assert len(MEDIUM.read(tmp_path / "mended.mp4").data["picture"]) == 8


def test_evaluation_prints_synchrony_and_its_chance(tiny):
    out = run("eval", tiny)
    for name in ("impacts_heard", "onsets_seen", "ball_seen", "ball_heard"):
        assert name in out


@pytest.mark.parametrize("stream", ["picture", "sound"])
def test_what_is_made_to_a_given_stream_is_measured(tiny, stream):
    """The given stream is that of the real clips, so that what is seen (or heard) in it is right as in them."""
    out = run("eval", tiny, "--given", stream)
    assert f"their {stream} given" in out
    figures = {row["name"]: row for row in json.loads((tiny / f"eval-given-{stream}.json").read_text())["figures"]}
    kept = {"picture": "ball_seen", "sound": "ball_heard"}[stream]
    assert figures[kept]["generated"] == figures[kept]["real"] > 0.8


def test_only_streams_that_are_there_can_be_given(tiny):
    for options, word in ((["--given", "smell"], "picture, sound"), (["--given", "sound", "--controls"], "one of")):
        with pytest.raises(FlowgenError, match=word):
            run("eval", tiny, *options)


def test_gradients_of_an_absent_stream_are_zero(tiny):
    from flowgen.core.interfaces import MASK
    from flowgen.core.random import Randomness
    from flowgen.runs.generator import Generator

    generator = Generator.load(tiny)
    data = generator.experiment.dataset
    clips = [c for c in (data.clip(i, 0) for i in range(60)) if set(c.data) == {"sound"}][:4]
    x, mask = generator.encoder.encode(clips)
    network = generator.network.train().requires_grad_(True)
    cond = {**generator.on_device({}), MASK: mask}
    from flowgen.media.conditions import encode_conditions

    cond |= encode_conditions(generator.conditioners, [c.conditions for c in clips])
    network.zero_grad()
    generator.loss(network, x, cond, Randomness(0, 0, len(clips))).total.mean().backward()
    own = {name: p.grad for name, p in network.named_parameters() if "picture" in name}
    assert own
    assert all(grad is None or not bool(grad.any()) for grad in own.values())
    heard = [p.grad for name, p in network.named_parameters() if "sound" in name]
    assert any(grad is not None and bool(torch.any(grad)) for grad in heard)


def guided(generator, scale):
    guidance = None if scale is None else {"type": "cross-stream", "scale": scale}
    return generator.config.sample.model_copy(
        update={"guidance": None if guidance is None else ComponentConfig(**guidance)}
    )


@pytest.mark.parametrize("given", [None, "picture", "sound"])
def test_the_other_stream_guides(tiny, given):
    """At scale 1 it is the plain sample bit for bit, at 0 the given stream plays no part, and beyond 1 a greater one."""
    generator = Generator.load(tiny)
    data, made = generator.experiment.dataset, {}
    asked = [{"ball": "red", "material": "bell"}] * 2
    clips = [c for c in (data.clip(i, 0) for i in range(40)) if set(c.data) == {"picture", "sound"}][:2]
    for scale in (None, 1.0, 0.0, 2.0):
        settings = guided(generator, scale)
        for clip in clips:
            if given is None:
                made[scale, clip is clips[1]] = generator.sample(asked, settings=settings)
            else:
                request = FromStream({given: clip}, conditions=asked, settings=settings)
                made[scale, clip is clips[1]] = generator.sample(request)

    def data_of(scale, second=False):
        return [{k: v.float() for k, v in clip.data.items() if k != given} for clip in made[scale, second]]

    def distance(a, b):
        return sum(float((x[k] - y[k]).square().sum()) for x, y in zip(a, b, strict=True) for k in x)

    assert distance(data_of(None), data_of(1.0)) == 0
    assert distance(data_of(1.0), data_of(2.0)) > 0
    assert distance(data_of(1.0), data_of(0.0)) > 0
    if given is not None:
        assert distance(data_of(1.0), data_of(1.0, True)) > 0
        assert distance(data_of(0.0), data_of(0.0, True)) == 0


def test_evaluation_names_the_guidance_of_each_stream(tiny):
    rules = "[{type: cross-stream, scale: {sound: 2}}, {type: cfg, scale: 3}]"
    out = run("eval", tiny, "-n", 8, "--metric", "event-synchrony", "--given", "picture", "--set", f"guidance={rules}")
    assert "guidance cross-stream sound 2, then cfg 3" in " ".join(out.split())


def test_guidance_by_a_stream_that_is_not_there_is_refused(tiny, tmp_path):
    for guidance, word in (("{type: cross-stream, scale: {smell: 2}}", "scale names smell"), ("cross-stream", None)):
        arguments = ["sample", tiny, "--set", f"guidance={guidance}", "-o", tmp_path / "x.mp4"]
        if word is None:
            run(*arguments)
        else:
            with pytest.raises(FlowgenError, match=word):
                run(*arguments)
    with pytest.raises(UsageError, match="of several streams"):
        build("guidance", "cross-stream", encoder=SimpleNamespace(spec=StreamSpec(1)))

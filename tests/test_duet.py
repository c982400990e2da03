"""A plugin of two streams (examples/duet): trained jointly, sampled jointly, and each stream from the other."""

import importlib
import json
import sys
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from flowgen.cli import cli
from flowgen.config import load
from flowgen.core.editing import Replaced
from flowgen.errors import UsageError
from flowgen.media.clip import Clip
from flowgen.media.regions import KnownFlow
from flowgen.plugins import registry
from flowgen.runs.generator import Generator
from flowgen.runs.given import Given
from flowgen.runs.requests import Animate, Continue, FromNoise, FromStream, Inpaint, Interpolate, Vary
from flowgen.runs.sampling import sampled_flow

EXAMPLE = Path(__file__).parents[1] / "examples" / "duet"
N = 48
RATES = {"melody": 16.0, "light": 4.0}


@pytest.fixture(scope="module", autouse=True)
def plugin():
    sys.path.insert(0, str(EXAMPLE))
    registry().register("duet", importlib.import_module("flowgen_duet"))
    yield importlib.import_module("flowgen_duet_parts")
    registry().unregister("duet")
    sys.path.remove(str(EXAMPLE))


@pytest.fixture(scope="module")
def run(plugin, tmp_path_factory):
    from flowgen.training.trainer import train

    folder = tmp_path_factory.mktemp("duet") / "run"
    train(load("duet/duet", [f"run={folder}", "train.steps=300"]))
    return folder


@pytest.fixture(scope="module")
def model(run):
    return Generator.load(run)


def held_out(model):
    data = model.experiment.dataset.validation()
    clips = [data.clip(i, 0) for i in range(2 * N)]
    return [clip for clip in clips if "light" in clip.data][:N]


def stacked(clips, name):
    return torch.stack([clip.data[name] for clip in clips])


def error(a, b):
    """Mean squared difference, in units of the variance of b."""
    return float((a - b).square().mean() / b.var())


def test_streams_that_are_sampled_together_belong_together(model, plugin):
    clips = model.sample(FromNoise(conditions=[{}] * N, seed=1))
    light, told = stacked(clips, "light"), plugin.light_of(stacked(clips, "melody"))
    assert error(light, told) < 0.1
    assert error(light.roll(1, 0), told) > 1.0
    real = held_out(model)
    for name in ("melody", "light"):
        assert float(stacked(clips, name).std() / stacked(real, name).std()) == pytest.approx(1, abs=0.2)


def test_each_stream_is_sampled_from_the_other(model, plugin):
    real = held_out(model)
    melody, light = stacked(real, "melody"), stacked(real, "light")
    lit = model.sample(FromStream({"light": real}, conditions=[{}] * N))
    made = stacked(model.sample(FromStream({"melody": real}, conditions=[{}] * N)), "light")
    assert error(made, light) < 0.05
    assert error(made.roll(1, 0), light) > 1.0  # what a network that does not listen would get
    assert torch.equal(stacked(lit, "light"), light)  # as it was given
    assert error(plugin.light_of(stacked(lit, "melody")), light) < 0.2
    assert error(stacked(lit, "melody"), melody) < 0.6


def test_a_network_that_never_saw_a_stream_given_replaces_it(run, plugin):
    """Levels that are shared in training: the given stream travels along its own path."""
    model = Generator.load(run, overrides=["loss.noise_levels=shared", "sample.steps=16"])
    real = held_out(model)
    made = stacked(model.sample(FromStream({"melody": real}, conditions=[{}] * N)), "light")
    assert error(made, stacked(real, "light")) < 0.4
    assert error(made.roll(1, 0), stacked(real, "light")) > 1.0


def test_the_command_line_takes_a_stream_from_a_file_of_either_medium(run, model, plugin, tmp_path):
    (real, *_) = held_out(model)
    model.modality.write([real], tmp_path / "whole.json", {})
    model.modality.streams["melody"].write([Clip(real.data["melody"], 16.0)], tmp_path / "melody.txt", {})
    found = []
    for given in ("whole.json", "melody.txt"):
        out = tmp_path / f"{given}.json"
        done = CliRunner().invoke(cli, ["sample", str(run), "--given", f"melody={tmp_path / given}", "-o", str(out)])
        assert done.exit_code == 0, done.output
        found.append(json.loads(out.read_text()))
        assert found[-1]["metadata"]["given"] == {"melody": [str(tmp_path / given)]}
    assert found[0]["light"] == pytest.approx(found[1]["light"], abs=1e-4)
    assert found[0]["melody"] == pytest.approx(real.data["melody"][:, 0].tolist(), abs=1e-6)
    told = plugin.light_of(real.data["melody"])
    assert error(torch.tensor(found[0]["light"])[:, None], told) < 0.2


def test_streams_that_cannot_be_given_are_refused(model):
    real = held_out(model)[0]
    solo = Clip({"melody": real.data["melody"]}, source="solo")
    cases = [
        ({"sound": real}, "unknown stream 'sound'"),
        ({"melody": real, "light": real}, "none is left to generate"),
        ({"light": solo}, "solo has no light"),
        ({}, "give at least one stream"),
        ({"melody": [real, real, real]}, "one clip with the melody, or one for each of 2"),
    ]
    for given, message in cases:
        with pytest.raises(UsageError, match=message):
            model.sample(FromStream(given, conditions=[{}] * 2))


def test_a_clip_that_lacks_a_stream_is_encoded_masked_and_decoded_without_it(model):
    real = held_out(model)[:3]
    solo = Clip({"melody": real[1].data["melody"]})
    latents = model.encoder.encode([real[0], solo, real[2]])
    assert latents.mask["light"].any(1).tolist() == [True, False, True]
    assert bool(latents.mask["melody"].all())
    back = model.encoder.decode(latents)
    assert [sorted(clip.data) for clip in back] == [["light", "melody"], ["melody"], ["light", "melody"]]
    torch.testing.assert_close(back[2].data["light"], real[2].data["light"])
    alone = model.encoder.encode([solo])
    assert alone.x["light"].shape == (1, 8, 1)


def test_the_plugin_is_small():
    assert (
        sum(len(path.read_text().splitlines()) for path in EXAMPLE.rglob("*") if path.suffix in (".py", ".yaml")) < 400
    )


@pytest.mark.parametrize("rows", [range(1, 3), range(0, 2)])
def test_given_streams_go_with_their_own_rows(model, rows):
    real = held_out(model)[:3]
    whole = model.sample(FromStream({"melody": real}, conditions=[{}] * 3))
    part = model.sample(FromStream({"melody": real}, conditions=[{}] * 3, rows=rows))
    torch.testing.assert_close(stacked(part, "light"), stacked(whole, "light")[rows.start : rows.stop])


@pytest.fixture(scope="module")
def longer(run):
    return Generator.load(run, overrides=["sample.steps=4"])


def ways(model, clip):
    """Every way of sampling around a clip of two seconds."""
    first = model.modality.cut(clip, 0.0, 0.5)
    hole = {"melody": torch.zeros(32, 1), "light": torch.zeros(8, 1)}
    hole["light"][4:] = 1
    return {
        "sample": FromNoise(seconds=1.0),
        "animate": Animate(first),
        "continue": Continue(clip, seconds=1.5),
        "inpaint": Inpaint(clip, start_s=0.5, end_s=1.0),
        "guided": Inpaint(clip, start_s=0.5, end_s=1.0, method="guided", particles=2),
        "mask": Inpaint(clip, mask=Clip(hole, RATES)),
        "vary": Vary(clip, strength=0.1),
        "interpolate": Interpolate(clip, clip, conditions=[{}] * 3),
        "from stream": FromStream({"melody": clip}),
    }


@pytest.mark.parametrize(
    ("way", "seconds", "kept"),
    [
        ("sample", 1.0, {}),
        ("animate", 2.0, {"melody": slice(0, 8), "light": slice(0, 2)}),
        ("continue", 3.5, {"melody": slice(0, 32), "light": slice(0, 8)}),
        ("inpaint", 2.0, {"melody": [*range(8), *range(16, 32)], "light": [*range(2), *range(4, 8)]}),
        ("guided", 2.0, {"melody": [*range(8), *range(16, 32)], "light": [*range(2), *range(4, 8)]}),
        ("mask", 2.0, {"melody": slice(0, 32), "light": slice(0, 4)}),
        ("vary", 2.0, {}),
        ("interpolate", 2.0, {"melody": slice(0, 32), "light": slice(0, 8)}),
        ("from stream", 2.0, {"melody": slice(0, 32)}),
    ],
)
def test_every_way_of_sampling_takes_several_streams_or_refuses_by_a_sentence(longer, way, seconds, kept):
    clip = held_out(longer)[0]
    made = longer.sample(ways(longer, clip)[way])[0]
    assert {n: len(v) / RATES[n] for n, v in made.data.items()} == {"melody": seconds, "light": seconds}
    for name, where in kept.items():
        torch.testing.assert_close(made.data[name][where], clip.data[name][where], rtol=0, atol=1e-4)
    if way in ("inpaint", "guided", "mask", "from stream"):
        assert not torch.equal(made.data["light"], clip.data["light"])
    solo = Clip({"melody": clip.data["melody"]}, {"melody": 16.0}, source="solo.json")
    if way in ("continue", "inpaint", "guided", "mask", "vary", "interpolate"):
        with pytest.raises(UsageError, match=r"solo\.json has no light, and .* takes clips with all streams; .*melody"):
            longer.sample(ways(longer, solo)[way])
    else:
        (made,) = longer.sample(ways(longer, solo)[way])
        assert set(made.data) == {"melody", "light"}
        assert bool(made.data["light"].any())


def test_a_likelihood_is_that_of_all_streams_together(longer):
    real = held_out(longer)[:8]
    shuffled = [
        Clip({**a.data, "light": b.data["light"]}, RATES) for a, b in zip(real, real[1:] + real[:1], strict=True)
    ]
    assert float(longer.log_prob(real).mean()) > float(longer.log_prob(shuffled).mean()) + 10
    with pytest.raises(UsageError, match="with all streams"):
        longer.log_prob([real[0], Clip({"melody": real[1].data["melody"]}, RATES)])


def test_what_is_given_is_shown_as_given_on_the_way(longer):
    clip, shown = held_out(longer)[0], []
    longer.sample(FromStream({"melody": clip}), on_state=lambda t, clips: shown.append(clips[0]))
    assert len(shown) == 5
    for state in shown:
        torch.testing.assert_close(state.data["melody"], clip.data["melody"], rtol=0, atol=1e-5)


def test_a_region_of_one_stream_does_not_make_another_known(run):
    """A network that saw parts of the melody alone is shown a part of the light with noise."""
    model = Generator.load(
        run, overrides=["known=[{type: prefix, probability: 0.3, low: 0.5, high: 1, stream: melody}]"]
    )
    clip = held_out(model)[0]
    melody, light = (Clip({name: clip.data[name]}, RATES) for name in RATES)
    kinds = {}
    for name, part in {"melody": melody, "light": light, "both": clip}.items():
        x = model.noise(1, 0)
        given = [Given([model.modality.cut(part, 0.0, 0.5)])]
        grid = model.grid(model.config.sample, x)
        _, kept = sampled_flow(model, model.config.sample, grid, {}, given, x, x, range(1))
        kinds[name] = type(kept)
    assert kinds == {"melody": KnownFlow, "light": Replaced, "both": Replaced}

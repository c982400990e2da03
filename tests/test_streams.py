"""Several streams from the config on: settings by stream reach training and sampling alike."""

import pytest
import torch

from flowgen.config import load
from flowgen.core.random import Randomness
from flowgen.core.tree import tree_map
from flowgen.errors import UsageError
from flowgen.media.clip import Clip
from flowgen.media.encoder import Encoder, Latents
from flowgen.media.streams import Axis, StreamSpec
from flowgen.runs.experiment import Experiment
from flowgen.runs.generator import Generator
from flowgen.runs.requests import FromNoise

SPEC = {"sound": StreamSpec(2, (Axis("time", 6, 3.0),)), "picture": StreamSpec(1, (Axis("time", 4, 2.0),))}


class Plain(Encoder):
    """Latents as they are."""

    spec = SPEC

    def encode(self, clips):
        return Latents({name: torch.stack([clip.data[name] for clip in clips]) for name in SPEC})

    def decode(self, latents):
        n = len(latents.x["sound"])
        return [Clip({name: leaf[i] for name, leaf in latents.x.items()}) for i in range(n)]


class Seen(torch.nn.Module):
    """A network that notes the times it is shown, by stream."""

    def __init__(self):
        super().__init__()
        self.times = []

    def forward(self, x, t, cond):
        self.times.append({name: float(v.flatten()[0]) for name, v in t.items()})
        return tree_map(lambda x: 0.1 * x, x)


def experiment(*overrides, spec=SPEC):
    made = Experiment(load("points/checkerboard", list(overrides)).config)
    made.__dict__["encoder"] = Plain()
    made.encoder.spec = spec
    return made


def shifted(u, k):
    return u / (u + k * (1 - u))


@pytest.mark.parametrize("solver", ["heun", "dpm++2m"])
def test_a_run_with_two_shifts_is_sampled_and_trained_with_both(solver):
    factors = {"sound": 3.0, "picture": {"base": 1, "power": 0.5}}  # of 4 positions: 2
    made = experiment(
        "shift.sound=3", "shift.picture={base: 1}", "sample.steps=4", f"sample.solver={solver}", "sample.guidance=null"
    )
    generator = Generator(made, Seen(), torch.device("cpu"))
    (clip,) = generator.sample(FromNoise())
    assert {name: tuple(leaf.shape) for name, leaf in clip.data.items()} == {"sound": (6, 2), "picture": (4, 1)}
    calls = generator.network.times
    for i, u in enumerate((0.0, 0.25, 0.5, 0.75)):
        seen = calls[2 * i if solver == "heun" else i]
        assert seen["sound"] == pytest.approx(shifted(u, 3.0)), factors
        assert seen["picture"] == pytest.approx(shifted(u, 2.0))

    generator.network.times.clear()
    x1 = tree_map(lambda spec: torch.zeros(1, *spec.shape), SPEC)
    made.loss(generator.network, x1, {}, Randomness(0, 0, 1).at_quantile(0.25))
    (trained,) = generator.network.times
    assert trained == {"sound": pytest.approx(shifted(0.25, 3.0)), "picture": pytest.approx(shifted(0.25, 2.0))}

    generator.network.times.clear()  # the picture of the field and the likelihood go by the same clocks
    generator.velocity([clip], 0.5)
    assert generator.network.times[0]["sound"] == pytest.approx(shifted(0.5, 3.0))
    generator.log_prob([clip])
    assert all(t["sound"] == pytest.approx(shifted(shifted(t["picture"], 0.5), 3.0)) for t in generator.network.times)


def test_paths_and_times_by_stream_are_those_of_the_loss():
    loss = experiment(
        "path={sound: cosine, picture: {type: vp, beta_max: 10}}",
        "times={sound: logit-normal, picture: uniform}",
        "loss={type: flow-matching, noise_levels: independent, predicts: {sound: velocity, picture: data}}",
    ).loss
    assert (type(loss.path["sound"]).__name__, loss.path["picture"].beta_max) == ("Cosine", 10)
    assert [type(t).__name__ for t in loss.times.values()] == ["LogitNormal", "Uniform"]
    assert loss.predicts == {"sound": "velocity", "picture": "data"}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("path={sound: cosine}", "path: give one for each stream; picture has none"),
        ("shift={sound: 1, film: 2}", "shift: unknown stream 'film' .*picture, sound"),
        ("loss={type: flow-matching, weights: {sound: 1}}", r"loss\.weights: give one for each stream; picture has none"),
        ("path={sound: {type: nope}, picture: linear}", r"path\.sound: unknown path 'nope'"),
        ("path={sound: {type: vp, beta_max: -1}, picture: linear}", r"path\.sound\.beta_max: .*greater than 0"),
        ("path={sound: {beta_max: 3}, picture: linear}", r"path\.sound\.type' is missing"),
        ("shift={sound: 0, picture: 1}", r"shift\.sound: .*greater than 0"),
        ("shift={base: 0}", r"shift\.base: .*greater than 0"),
        ("path={sound: 3}", r"unknown key 'path\.sound'"),
    ],
)  # fmt: skip
def test_what_is_wrong_by_stream_is_one_sentence(override, message):
    with pytest.raises(UsageError, match=message) as error:
        _ = experiment(override).loss
    assert "\n" not in str(error.value)


def test_settings_by_stream_of_a_single_stream_are_refused():
    single = experiment("shift={sound: 1, picture: 2}", spec=SPEC["sound"])
    with pytest.raises(
        UsageError, match=r"shift is given by stream \(sound, picture\), and the latents are one stream"
    ):
        _ = single.loss


def test_what_is_given_by_stream_takes_the_place_of_what_was_given_for_all():
    def of(*overrides):
        return load("points/checkerboard", list(overrides)).config

    assert set(of("path=vp", "path={sound: cosine, picture: linear}").path) == {"sound", "picture"}
    assert of("path={sound: cosine, picture: linear}", "path.sound=vp").path["sound"].type == "vp"
    assert of("path={sound: cosine, picture: linear}", "path=vp").path.type == "vp"
    assert of("path=vp", "path.beta_max=7").path.options["beta_max"] == 7
    assert of("shift={base: 4}", "shift={sound: 1, picture: 2}").shift == {"sound": 1.0, "picture": 2.0}
    with pytest.raises(UsageError, match=r"another override takes the place of shift\.sound"):
        of("shift={sound: 1, picture: 2}", "shift.base=4")

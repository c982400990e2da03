"""Every hook does what its page says."""

import inspect
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace

import pytest

from flowgen.config import load, recipes
from flowgen.errors import FlowgenError, UsageError
from flowgen.plugins import Registry, hookimpl, registry
from flowgen.plugins.hookspecs import API, Hooks
from flowgen.plugins.media import Media
from flowgen.testing import plugged

ROOT = Path(__file__).parents[2]
HOOKS = [name for name in vars(Hooks) if name.startswith("flowgen_")]
CONFIG = """
name: tiny
modality: points
data: ring
encoder: points
network: {type: mlp, width: 16, depth: 1}
train: {steps: 3, batch_size: 4, log_every: 2, validation: {every: 3, clips: 4}, preview: {every: 3, clips: 4}}
sample: {steps: 2, batch_size: 2000}
loggers: [jsonl]
"""


def plugin(**hooks):
    return SimpleNamespace(**{name: hookimpl(function) for name, function in hooks.items()})


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "tiny.yaml"
    path.write_text(CONFIG)
    return str(path)


def test_recipes_are_found_by_name(tmp_path):
    (tmp_path / "deep").mkdir()
    (tmp_path / "tone-only.yaml").write_text(CONFIG)  # a name that no installed plugin has as well
    (tmp_path / "deep" / "er.yaml").write_text("extends: ../tone-only.yaml\ntrain: {steps: 9}\n")
    with plugged("tone", plugin(flowgen_recipes=lambda: tmp_path)):
        assert {"tone/tone-only", "tone/deep/er"} <= recipes().keys()
        assert load("tone/deep/er").config.train.steps == 9
        assert load("tone-only").config.name == "tiny"
    assert "tone/tone-only" not in recipes()


def test_a_folder_of_recipes_that_is_not_there_is_an_error(tmp_path):
    with (
        pytest.raises(FlowgenError, match=r"flowgen_recipes names .*nothing, which is no folder"),
        plugged("tone", plugin(flowgen_recipes=lambda: tmp_path / "nothing")),
    ):
        pass
    assert "tone" not in registry().plugins


def test_a_recipe_may_not_take_the_name_of_another(tmp_path):
    (tmp_path / "audio.yaml").write_text(CONFIG)
    with (
        plugged("demo", plugin(flowgen_recipes=lambda: tmp_path)),
        pytest.raises(UsageError, match="recipe name 'demo/audio' is taken twice"),
    ):
        recipes()


def test_defaults_are_set_below_the_config_and_say_where_they_are_from(config):
    mine = plugin(flowgen_defaults=lambda: {"train.seed": 5, "train.steps": 100, "train.optimizer": {"lr": 0.5}})
    with plugged("site", mine):
        resolved = load(config)
        assert (resolved.config.train.seed, resolved.config.train.steps) == (5, 3)
        assert resolved.config.train.optimizer.options["lr"] == 0.5
        sources = {key: source for key, _, source in resolved.rows()}
        assert sources["train.seed"] == "plugin site"
        assert sources["train.steps"].endswith("tiny.yaml:7")
        assert load(config, ["train.seed=6"]).config.train.seed == 6
    assert load(config).config.train.seed == 0


def test_defaults_may_depend_on_the_config(config):
    def defaults(config):
        return {"shift": 3.0} if config["modality"] == "points" else {}

    with plugged("site", plugin(flowgen_defaults=defaults)):
        assert load(config).config.shift == 3.0


def test_a_default_that_is_no_key_is_an_error_that_names_the_plugin(config):
    with (
        plugged("site", plugin(flowgen_defaults=lambda: {"train.sede": 1})),
        pytest.raises(UsageError, match=r"plugin site: unknown key 'train.sede'; did you mean 'train.seed'"),
    ):
        load(config)


@pytest.mark.parametrize(
    ("defaults", "sentence"),
    [
        (lambda: 1 / 0, r"plugin 'site' failed in flowgen_defaults: ZeroDivisionError.*FLOWGEN_DISABLE=site"),
        (lambda: sys.exit(), r"plugin 'site' failed in flowgen_defaults: Quit"),
        (lambda: ["train.seed"], r"plugin 'site': its flowgen_defaults returns values by key.*not \['train\.seed'\]"),
        (lambda: {3: 4}, "returns values by key"),
    ],
)
def test_defaults_that_fail_are_refused_and_name_the_plugin(config, defaults, sentence):
    with plugged("site", plugin(flowgen_defaults=defaults)), pytest.raises(FlowgenError, match=sentence):
        load(config)


def test_two_plugins_that_disagree_are_named(config):
    one = plugin(flowgen_defaults=lambda: {"shift": 2.0})
    two = plugin(flowgen_defaults=lambda: {"shift": 3.0})
    with plugged("a", one), plugged("b", two):
        with pytest.raises(UsageError, match=r"plugins 'a' and 'b' set the default of 'shift' to 2.0 and to 3.0"):
            load(config)
        Path(config).write_text(CONFIG + "shift: 1.5\n")
        assert load(config).config.shift == 1.5


def listener(seen):
    def note(name):
        def told(**facts):
            seen.append((name, facts))

        arguments = [a for a in inspect.signature(getattr(Hooks, name)).parameters if a != "self"]
        scope = {"note": told}
        exec(f"def {name}({', '.join(arguments)}): note({', '.join(f'{a}={a}' for a in arguments)})", scope)
        return scope[name]

    return plugin(**{name: note(name) for name in HOOKS[3:]})


def test_the_events_of_a_run(config, tmp_path):
    from flowgen.training.trainer import train

    seen = []
    with plugged("listener", listener(seen)):
        train(load(config, [f"run={tmp_path}/run", "train.checkpoint.every=2"]))
    names = [name.removeprefix("flowgen_") for name, _ in seen]
    assert names == [
        *["run_started", "step_done", "checkpoint_saved", "step_done"],
        *["checkpoint_saved", "preview_made", "preview_made", "step_done", "run_ended"],
    ]
    facts = dict(seen)
    assert facts.keys() == set(HOOKS[3:])
    assert facts["flowgen_run_started"] == {
        "folder": tmp_path / "run",
        "config": facts["flowgen_run_started"]["config"],
        "step": 0,
    }
    assert facts["flowgen_run_started"]["config"].name == "tiny"
    steps = [f for name, f in seen if name == "flowgen_step_done"]
    assert [f["step"] for f in steps] == [1, 2, 3]
    assert [("loss" in f["figures"]) for f in steps] == [False, True, True]
    assert [f["weights"] for name, f in seen if name == "flowgen_preview_made"] == ["raw", "ema"]
    assert facts["flowgen_preview_made"]["sheet"].is_file()
    assert (facts["flowgen_checkpoint_saved"]["checkpoint"] / "manifest.json").is_file()
    assert (facts["flowgen_run_ended"]["step"], facts["flowgen_run_ended"]["finished"]) == (3, True)


def test_a_run_that_fails_has_not_finished(config, tmp_path):
    from flowgen.training.trainer import Trainer, train

    seen = []
    with plugged("listener", listener(seen)), pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "_train_step", lambda *arguments: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            train(load(config, [f"run={tmp_path}/run"]))
    assert seen[-1] == ("flowgen_run_ended", {"folder": tmp_path / "run", "step": 0, "finished": False})


def test_a_plugin_that_fails_in_an_event_is_named_once_and_the_others_are_told():
    told = []

    def broken(step):
        raise RuntimeError("no network")

    found = Registry(entry_points=[])
    found.register("bad", plugin(flowgen_step_done=broken))
    found.register("good", plugin(flowgen_step_done=lambda step: told.append(step)))
    facts = {"folder": Path(), "figures": {}}
    with pytest.warns(UserWarning, match=r"plugin 'bad' failed in flowgen_step_done .*RuntimeError: no network"):
        found.notify("flowgen_step_done", step=1, **facts)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found.notify("flowgen_step_done", step=2, **facts)
    assert told == [1, 2]


def test_plugins_are_called_in_the_order_of_their_names(site):
    for name in ("c", "a", "b"):
        site.install(name, f"@hookimpl\ndef flowgen_defaults():\n    return {{'{name}': 1}}")
    assert [name for name, _ in Registry().call("flowgen_defaults", config={})] == ["a", "b", "c"]


def test_a_wrapper_is_refused(site):
    site.install("wrap", "@hookimpl(wrapper=True)\ndef flowgen_components():\n    yield")
    with pytest.warns(UserWarning, match="plugin 'wrap'.*flowgen_components is a wrapper"):
        Registry()


@pytest.mark.parametrize(
    ("version", "message"),
    [(API + 1, "install a newer flowgen"), (API - 1, "install a newer dist-old")],
)
def test_a_plugin_for_another_version_of_the_hooks_is_named(site, version, message):
    site.install("old", f"FLOWGEN_API = {version}\nraise_if_called = None")
    with pytest.warns(UserWarning, match=f"plugin 'old' .*made for version {version} of flowgen's.*{message}"):
        found = Registry()
    assert found.plugins["old"].error


def test_a_plugin_for_this_version_is_taken(site):
    site.install("new", f"FLOWGEN_API = {API}")
    assert not Registry().plugins["new"].error


def test_a_writer_adds_a_file_type(site, tmp_path, config):
    site.install(
        "words",
        """
        def write(modality, clips, path, metadata):
            "Points as words."
            path.write_text(f"{len(clips)} points, {metadata}")

        @hookimpl
        def flowgen_components():
            return [Component("writer", "points.words", __name__ + ":write", "points as words")]
        """,
    )
    found = Registry()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("flowgen.plugins.media.registry", lambda: found)
        from flowgen.runs.experiment import Experiment

        media = Media("points", Experiment(load(config).config).modality)
        own = dict(media.modality.formats)
        assert media.formats == {**own, ".words": "application/octet-stream"}
        media.write([1, 2], tmp_path / "x.words", {"seed": 3})
        assert (tmp_path / "x.words").read_text() == "2 points, {'seed': 3}"
        assert ".words" not in Media("other", media.modality).formats


@pytest.mark.parametrize("hook", HOOKS)
def test_every_hook_is_tested_here(hook):
    source = Path(__file__).read_text()
    assert f"{hook}=" in source or f"def {hook}" in source or f'"{hook}"' in source


@pytest.mark.parametrize("hook", HOOKS)
def test_every_hook_is_documented_with_its_signature_and_an_example(hook):
    text = (ROOT / "docs" / "reference.md").read_text()
    arguments = [a for a in inspect.signature(getattr(Hooks, hook)).parameters if a != "self"]
    assert f"### `{hook}({', '.join(arguments)})`" in text
    assert f"@hookimpl\ndef {hook}(" in text

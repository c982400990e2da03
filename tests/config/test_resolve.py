"""A config is typed by the components it names, and every mistake is one line that helps."""

import pytest

from flowgen.config import build, load, options_model, recipes
from flowgen.errors import UsageError
from flowgen.runs.experiment import Experiment

GOOD = """
name: board
modality: points
data: checkerboard
encoder: points
network: {type: mlp, width: 16}
train: {steps: 5}
"""


@pytest.fixture
def config(tmp_path):
    def make(text=GOOD, *overrides):
        path = tmp_path / "c.yaml"
        path.write_text(text)
        return load(str(path), overrides)

    return make


def test_bare_names_and_defaults(config):
    resolved = config()
    assert resolved.config.path.type == "linear"
    assert resolved.config.network.options["width"] == 16
    assert resolved.config.loss.options["predicts"] == "velocity"


def test_every_value_says_where_it_came_from(config):
    sources = {key: source for key, _, source in config(GOOD, "train.seed=3").rows()}
    assert sources["network.width"].endswith("c.yaml:6")
    assert sources["network.type"].endswith("c.yaml:6")
    assert sources["modality.type"].endswith("c.yaml:3")
    assert sources["train.seed"] == "command line"
    assert sources["loss.predicts"] == "default"
    assert sources["train.optimizer.lr"] == "default"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "train.stepz=1",
            "command line: unknown key 'train.stepz'; did you mean 'train.steps'.*valid in 'train': steps, batch_size",
        ),
        ("lr=1", "unknown key 'lr'; it lives at 'train.optimizer.lr'"),
        ("network.widht=1", "unknown key 'network.widht'; did you mean 'network.width'"),
        ("network.width=wide", "network.width: input should be a valid integer.*got 'wide'"),
        ("network.type=mpl", "unknown network 'mpl'; did you mean 'mlp'.*valid: .*transformer"),
        ("sample.solver=eulr", "sample.solver: unknown solver 'eulr'; did you mean 'euler'"),
        ("eval.metrics=[checkerbord]", "eval.metrics.0: unknown metric 'checkerbord'; did you mean 'checkerboard'"),
        (
            "loss.predicts=speed",
            "loss.predicts: input should be 'velocity', 'data', 'noise', 'score' or 'v', got 'speed'",
        ),
        ("train.precision=float16", "train.precision: input should be 'float32' or 'bfloat16'"),
        (
            "loss.predicts={a: speed}",
            "loss.predicts.a: input should be 'velocity', 'data', 'noise', 'score' or 'v', got 'speed'",
        ),
        ("train.steps=0", "train.steps: input should be greater than 0, got 0"),
        ("conditions.digit.dropout=2", "conditions.digit.dropout: input should be less than or equal to 1"),
        ("train=5", "train: input should be a valid dictionary"),
        ("network.width=0", "network.width: input should be greater than or equal to 1, got 0"),
        ("times={type: logit-normal, std: -1}", "times.std: input should be greater than 0, got -1"),
        (
            "sample.guidance={type: multi-cfg, scales: {a: .nan}}",
            "sample.guidance.scales.a: input should be a finite number",
        ),
        ("coupling={type: sinkhorn, regularisation: 0}", "coupling.regularisation: input should be greater than 0"),
        ("data={type: ring, radius: -2}", "data.radius: input should be greater than or equal to 0"),
        ("name=a/b", "name: string should match pattern"),
        ("name='..'", "name: string should match pattern"),
        ("run=../elsewhere", r"run: .*a run folder is written without '\.\.'"),
        ("train.optimizer.lr=.nan", "train.optimizer.lr: input should be a finite number, got nan"),
        ("train.clip=.inf", "train.clip: input should be a finite number, got inf"),
        ("sample.guidance={type: cfg, scale: .inf}", "sample.guidance.scale: input should be a finite number"),
    ],
)
def test_a_mistake_is_one_line_that_helps(config, override, message):
    with pytest.raises(UsageError, match=message) as caught:
        config(GOOD, override)
    assert len(str(caught.value).splitlines()) == 1


def test_all_mistakes_are_told_at_once(config):
    with pytest.raises(UsageError) as caught:
        config(GOOD, "train.stepz=1", "network.widht=1", "sample.solver=x")
    assert len(str(caught.value).splitlines()) == 3


def test_fifty_thousand_mistakes_are_counted(config):
    with pytest.raises(UsageError, match=r"and 49981 more$"):
        config(GOOD + "".join(f"k{i}: 1\n" for i in range(50_001)))


def test_a_recipe_may_be_extended_by_name(config):
    resolved = config("extends: points/checkerboard\nname: mine\ntrain: {steps: 7}\n")
    assert resolved.config.train.steps == 7
    assert resolved.config.data.type == "checkerboard"
    with pytest.raises(UsageError, match=r"c\.yaml:1: cannot read the config .*no such recipe"):
        config("extends: points/chess\n")


def test_a_missing_key_is_named(config):
    with pytest.raises(UsageError, match=r"the key 'train.steps' is missing"):
        config(GOOD.replace("steps: 5", "seed: 1"))


def test_an_unknown_name_lists_the_recipes():
    with pytest.raises(UsageError, match=r"unknown config or recipe 'checkerbord'; did you mean .*checkerboard"):
        load("checkerbord")


def test_the_resolved_config_describes_itself(config, tmp_path):
    from flowgen.config import dumps

    first = config(GOOD, "sample.guidance={type: cfg, scale: 3}").config
    path = tmp_path / "again.yaml"
    path.write_text(dumps(first.model_dump(mode="json")))
    assert load(str(path)).config == first


@pytest.mark.parametrize("name", sorted(recipes()))
def test_every_shipped_recipe_is_valid(name):
    assert load(name).config.train.steps > 0


def test_a_section_that_the_loss_does_not_take_is_refused_where_it_was_written(config):
    with pytest.raises(UsageError, match=r"c.yaml:8: path: the loss 'ddpm' sets its own path .*path=null"):
        config(GOOD + "path: cosine\n", "loss=ddpm")
    with pytest.raises(UsageError, match="command line: times: the loss 'likelihood' sets its own times"):
        config(GOOD + "loss: likelihood\n", "times=logit-normal")
    with pytest.raises(UsageError, match="coupling: the loss 'likelihood'"):
        config(GOOD + "loss: {type: likelihood, steps: 4}\n", "coupling.type=sinkhorn")
    assert config(GOOD + "path: cosine\n", "loss=ddpm", "path=null").config.loss.type == "ddpm"


def test_what_is_shown_is_what_is_in_force(config):
    def shown(*overrides):
        return {key.split(".")[0] for key, _, _ in config(GOOD, *overrides).rows()}

    assert shown() - shown("loss=ddpm") == {"path"}
    assert shown() - shown("loss=likelihood") == {"times", "coupling"}


def test_a_run_of_before_keeps_the_sections_that_it_never_used(tmp_path):
    """Configs of runs listed every section, whether the loss took it or not."""
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "config.yaml").write_text(GOOD + "loss: ddpm\npath: {type: cosine}\n")
    assert load(str(tmp_path)).config.path.type == "linear"
    with pytest.raises(UsageError, match="command line: path: the loss 'ddpm'"):
        load(str(tmp_path), ["path=vp"])


def test_the_parts_of_an_experiment_are_built_once(config):
    experiment = Experiment(config(GOOD, "shift=3").config)
    complete = experiment.complete()
    assert complete.dataset is experiment.dataset
    assert complete.modality is experiment.modality
    assert complete.loss.coupling is complete.coupling
    assert complete.network is complete.network
    other = complete.new_network()
    assert other is not complete.network
    pairs = zip(other.parameters(), complete.network.parameters(), strict=True)
    assert all(a.equal(b) for a, b in pairs)


def test_build_gives_only_what_a_signature_asks_for(config):
    resolved = config(GOOD, "times={type: logit-normal, std: 0.5}").config
    times = build("times", resolved.times, something="else")
    assert times.std == 0.5


def test_a_value_that_the_component_refuses_is_named(config):
    resolved = config(GOOD, "path={type: ve, sigma_min: 3, sigma_max: 2}").config
    with pytest.raises(UsageError, match="path 've': "):
        build("path", resolved.path)


def test_options_leave_out_what_flowgen_gives():
    assert set(options_model("loss", "flow-matching").model_fields).isdisjoint({"path", "times", "coupling", "shift"})

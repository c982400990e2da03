"""YAML as it is written: sources, extends, overrides."""

import pytest

from flowgen.config import Document, dumps, override, read
from flowgen.errors import UsageError


def write(path, text):
    path.write_text(text)
    return path


def test_values_carry_their_line(tmp_path):
    document = read(write(tmp_path / "a.yaml", "name: x\ntrain:\n  steps: 10\n  betas: [1, 2]\n"))
    assert document.values == {"name": "x", "train": {"steps": 10, "betas": [1, 2]}}
    assert document.source(("train", "steps")) == f"{tmp_path}/a.yaml:3"
    assert document.source(("train", "betas", 1)) == f"{tmp_path}/a.yaml:4"
    assert document.source(("other",)) == "default"


def test_exponents_without_a_point_are_numbers(tmp_path):
    assert read(write(tmp_path / "a.yaml", "lr: 3e-4\nword: on\n")).values == {"lr": 3e-4, "word": "on"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: 2\na: 3\n", r"a\.yaml:3: not valid YAML: .*duplicate key"),
        ("a: [1\n", r"a\.yaml:\d: not valid YAML"),
        ("- 1\n", r"a\.yaml: expected a mapping"),
        ("extends: a.yaml\n", "runs in a circle"),
        ("extends: nowhere.yaml\n", "cannot read the config .*nowhere"),
        ("extends: [a]\n", r"a\.yaml:1: 'extends' takes the path"),
    ],
)
def test_bad_files_are_named(tmp_path, text, message):
    with pytest.raises(UsageError, match=message):
        read(write(tmp_path / "a.yaml", text))


def test_extends_merges_sections_and_keeps_both_sources(tmp_path):
    write(tmp_path / "base.yaml", "train:\n  steps: 10\n  seed: 1\n")
    document = read(write(tmp_path / "child.yaml", "extends: base.yaml\ntrain: {steps: 20}\n"))
    assert document.values == {"train": {"steps": 20, "seed": 1}}
    assert document.source(("train", "steps")).endswith("child.yaml:2")
    assert document.source(("train", "seed")).endswith("base.yaml:3")


def test_another_type_brings_none_of_the_old_options(tmp_path):
    write(tmp_path / "base.yaml", "network: {type: mlp, width: 8}\n")
    document = read(write(tmp_path / "child.yaml", "extends: base.yaml\nnetwork: {type: transformer}\n"))
    assert document.values["network"] == {"type": "transformer"}


def test_overrides_apply_in_order_and_say_so():
    document = Document({"sample": {"solver": "euler"}}, {("sample",): "a.yaml:1"})
    override(
        document,
        ["train.optimizer.lr=1e-3", "sample.solver=heun", "train.betas=[0.9, 0.99]", "train.optimizer.lr=2e-3"],
    )
    assert document.values == {"sample": {"solver": "heun"}, "train": {"optimizer": {"lr": 2e-3}, "betas": [0.9, 0.99]}}
    assert document.source(("train", "optimizer", "lr")) == "command line"


def test_an_option_of_a_bare_name_keeps_the_name():
    document = Document({"times": "logit-normal"}, {("times",): "a.yaml:1"})
    override(document, ["times.std=0.5"])
    assert document.values == {"times": {"type": "logit-normal", "std": 0.5}}


@pytest.mark.parametrize("bad", ["steps", "=3", "a..b=1"])
def test_an_unreadable_override_is_named(bad):
    with pytest.raises(UsageError, match="expected key=value"):
        override(Document(), [bad])


def test_dumps_reads_back(tmp_path):
    values = {"a": {"b": [1, 2.5, None, True], "c": "yes"}, "d": 1e-08}
    assert read(write(tmp_path / "a.yaml", dumps(values))).values == values

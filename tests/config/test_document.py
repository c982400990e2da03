"""YAML as it is written: sources, extends, overrides."""

import os
from pathlib import Path

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
        ("extends: [a]\n", r"a\.yaml:1: 'extends' takes one YAML file"),
        ("a: 1\nb: \x07\n", r"a\.yaml:2: the character '\\x07' has no place"),
        ("a: 1\nb: \x00\n", r"a\.yaml:2: the character '\\x00' has no place"),
        ('b: "\\0"\n', r"a\.yaml:1: .* holds a character that no text may have"),
        ("a:\n  - " + "9" * 5000 + "\n", r"a\.yaml:2: the integer 9+\.\.\.9+ \(5,000 characters\) does not fit"),
        ("a: 1e999\n", r"a\.yaml:1: the number 1e999 is too large"),
        ("a: !!python/object:os.system x\n", r"a\.yaml:1: the tag .* is not supported"),
        ("a: !!omap [x: 1]\n", r"a\.yaml:1: the tag"),
        ("a: &x\n  b: 1\n  <<: *x\n", r"a\.yaml:3: the alias \*x stands inside of what it repeats"),
        ("a: *x\n", r"a\.yaml:1: the alias \*x repeats nothing"),
        ("a: &x 1\n<<: *x\n", r"a\.yaml:2: the merge key '<<' takes a section"),
        ("a: " + "[" * 60 + "]" * 60 + "\n", r"a\.yaml:1: nested more than 50 levels deep"),
        ("? [1]\n: 2\n", r"a\.yaml:1: a key must be a plain word"),
        ("a: 1\n---\nb: 2\n", r"a\.yaml:2: a second document begins here"),
    ],
)
def test_bad_files_are_named(tmp_path, text, message):
    with pytest.raises(UsageError, match=message):
        read(write(tmp_path / "a.yaml", text))


def test_aliases_and_merges_are_read_and_dates_are_text(tmp_path):
    text = "a: &x {b: 1, c: [2]}\nd: *x\ne: {<<: *x, b: 3}\nf: 2024-02-31\n"
    document = read(write(tmp_path / "a.yaml", text))
    section = {"b": 1, "c": [2]}
    assert document.values == {"a": section, "d": section, "e": {"b": 3, "c": [2]}, "f": "2024-02-31"}
    assert document.source(("d", "c")).endswith("a.yaml:2")
    assert document.source(("e", "c")).endswith("a.yaml:3")


def test_aliases_that_multiply_are_bounded(tmp_path):
    lines = ["a0: &a0 [1, 2, 3, 4, 5, 6, 7, 8, 9]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 12)]
    with pytest.raises(UsageError, match=r"a\.yaml:\d+: more than 200,000 values, those that aliases repeat included"):
        read(write(tmp_path / "a.yaml", "\n".join(lines)))


def test_what_is_no_small_file_is_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe.yaml")
    write(tmp_path / "large.yaml", "# " + "x" * 1_000_000)
    for name, message in (("pipe.yaml", "no regular file"), ("large.yaml", "larger than 1 MB")):
        with pytest.raises(UsageError, match=message):
            read(tmp_path / name)
    with pytest.raises(UsageError, match="no regular file"):
        read(Path("/dev/zero"))


@pytest.mark.parametrize("text", ["3e-4", "1_0", "0x1F", "~", "yes", "null", "", "<<", "2024-01-01", "a\x07b", "no: x"])
def test_strings_are_written_so_that_they_are_read_back_as_strings(tmp_path, text):
    assert read(write(tmp_path / "a.yaml", dumps({"a": [text], text: text}))).values == {"a": [text], text: text}


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


@pytest.mark.parametrize(
    "words",
    [
        ["data.folder=x", "data.type=audio-folder"],
        ["data.folder=x", "data=audio-folder"],
        ["data.folder=x", "data={type: audio-folder}"],
        ["data={folder: x}", "data.type=audio-folder"],
    ],
)
def test_the_order_of_a_type_and_its_options_does_not_matter(words):
    for ordered in (words, words[::-1]):
        document = Document(
            {"data": {"type": "notes", "count": 3}}, {("data",): "a.yaml:1", ("data", "type"): "a.yaml:2"}
        )
        override(document, ordered)
        assert document.values == {"data": {"type": "audio-folder", "folder": "x"}}


@pytest.mark.parametrize(
    "words",
    [["data={type: a, folder: x}", "data.type=b"], ["shift=3", "shift.base=2"], ["shift.sound=2", "shift.base=16"]],
)
def test_overrides_that_leave_no_place_for_each_other_are_refused(words):
    orders = (words, words[::-1]) if "=b" not in words[1] else (words,)  # of one key the last stands
    for ordered in orders:
        with pytest.raises(UsageError, match=r"another override takes the place of (data\.folder|shift)"):
            override(Document(), ordered)


def test_overrides_of_a_whole_section_and_of_a_bare_name_stand():
    document = Document({"train": {"steps": 1}, "times": "uniform"}, {("train",): "a.yaml:1", ("times",): "a.yaml:3"})
    override(document, ["times.std=0.5", "times=logit-normal", "train.seed=3", "train={steps: 2}", "train={}"])
    assert document.values == {"train": {"steps": 2, "seed": 3}, "times": {"type": "logit-normal", "std": 0.5}}


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

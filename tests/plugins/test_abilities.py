"""What an object can do is declared: a protocol, asked by isinstance, listed by `plugins show` and in the reference."""

import ast
from importlib import import_module
from pathlib import Path

import pytest
from click.testing import CliRunner

from flowgen.cli import cli
from flowgen.plugins import KINDS, Component, hookimpl
from flowgen.plugins.abilities import abilities
from flowgen.testing import plugged

ROOT = Path(__file__).parents[2]
SOURCES = [p for room in ("flowgen", "modalities", "plugins", "examples") for p in (ROOT / room).rglob("*.py")]

# attributes of libraries, of Python's own objects, and of modules: not abilities of ours
FOREIGN = {
    *("dist", "name", "version", "__name__", "FLOWGEN_API"),  # of an entry point, of a module
    *("optimizer", "loss_scaler", "dynamic", "overflow", "ds_id", "ds_shape"),  # of DeepSpeed
    *("bit16_groups", "fp16_groups", "bf16_groups", "fp32_partitioned_groups_flat"),  # of DeepSpeed
    *("latent_dist", "text_config", "model_fields", "strerror", "sched_getaffinity", "file_digest", "CSafeLoader"),
}


def found_by_name() -> set[tuple[str, str]]:
    """(file, attribute) wherever an attribute that may be missing is asked for by name."""
    found = set()
    for path in SOURCES:
        if "tests" in path.relative_to(ROOT).parts:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                optional = node.func.id == "hasattr" or (node.func.id == "getattr" and len(node.args) == 3)
                if optional and isinstance(node.args[1], ast.Constant) and node.args[1].value not in FOREIGN:
                    found.add((str(path.relative_to(ROOT)), node.args[1].value))
    return found


def test_no_object_is_asked_by_name_what_it_can_do():
    flows = {(file, name) for file, name in found_by_name() if file.startswith(("flowgen/core", "flowgen/runs/g"))}
    assert found_by_name() - flows <= {("flowgen/media/regions.py", "path"), ("flowgen/media/regions.py", "predicts")}


def test_a_medium_shows_what_it_offers_and_what_more_would_take():
    shown = CliRunner().invoke(cli, ["plugins", "show", "modality/audio"]).output
    assert "offers TimedModality: Clips have a length" in shown
    assert "does not offer Animated" in shown
    assert "takes animate(frames: Sequence[tuple[float, Sequence[Clip]]]" in shown
    shown = CliRunner().invoke(cli, ["plugins", "show", "dataset/audio-folder"]).output
    assert "offers Bucketed" in shown  # an attribute that the constructor sets and the class declares
    assert "offers SourceCoupling" in CliRunner().invoke(cli, ["plugins", "show", "coupling/given-pairs"]).output


class Half:
    """A medium with a part of an ability."""

    def seconds(self, clip):
        return 1.0


def half() -> Half:
    """A function that makes one."""
    return Half()


class Whole(Half):
    """And one with all of it."""

    def cut(self, clip, start_s, end_s):
        return clip

    def join(self, clips):
        return clips[0]


@pytest.mark.parametrize(
    ("target", "word"), [("Half", "does not offer"), ("half", "does not offer"), ("Whole", "offers")]
)
def test_an_ability_is_all_of_its_members(target, word):
    class Plugin:
        __name__ = "mine"
        flowgen_components = staticmethod(
            hookimpl(lambda: [Component("modality", "mine", f"{__name__}:{target}", "x")])
        )

    with plugged("mine", Plugin()):
        shown = CliRunner().invoke(cli, ["plugins", "show", "modality/mine"]).output
    assert f"  {word} TimedModality" in shown


def test_every_ability_can_be_asked_for_and_says_what_it_is_good_for():
    for kind in KINDS:
        for target, ability in zip(KINDS[kind].abilities, abilities(kind), strict=True):
            module, _, name = target.partition(":")
            assert not isinstance(object(), getattr(import_module(module), name))  # TypeError unless runtime_checkable
            assert ability.gives
            assert ability.takes

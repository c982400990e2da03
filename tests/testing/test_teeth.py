"""The kit has teeth: every broken plugin is caught once, by the check that is meant to catch it."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from flowgen.plugins import Component, hookimpl
from flowgen.plugins.scaffold import new_plugin
from flowgen.testing import CHECKS, ContractError, Subject, plugged
from flowgen.testing.contract import NotApplicable

SECTIONS = {"modality": "modality", "dataset": "data", "encoder": "encoder", "network": "network", "solver": "sample"}
CHECK = {check.name: check for check in CHECKS}

# kind, class in mutants.py, the check that must catch it, what it must say
MUTANTS = [
    ("modality", "FormatWithoutDot", "formats_are_declared", "formats has the entry 'csv'"),
    ("modality", "WritesHalf", "clip_is_written_and_read_back", "read back from '.csv' are off by 0."),
    ("modality", "ForgetsMetadata", "metadata_is_embedded", "does not hold 'conformance-mark"),
    ("modality", "EmptySheet", "sheet_shows_the_clips", "the sheet of real clips equals that of zeros"),
    ("modality", "ReadsAnything", "unreadable_file_is_refused", "reading broken.csv gave a clip"),
    ("modality", "RaisesItsOwn", "unreadable_file_is_refused", "reading broken.csv raised ValueError"),
    ("modality", "ReadsPickles", "nothing_is_unpickled", "reading a pickle named bomb.csv ran the code in it"),
    ("modality", "WritesInRangeOnly", "samples_can_be_written", "raised ValueError: values must lie in [-1, 1]"),
    ("dataset", "Arrays", "clips_are_tensors", "the data of curve .* is ndarray"),
    ("dataset", "Unpickles", "nothing_is_unpickled", "the data set unpickled .*flowgen.media.clip.Clip"),
    ("dataset", "DrawsGlobally", "clip_is_a_function_of_index_and_seed", "with another global seed, gives two clips"),
    ("dataset", "Counts", "clip_is_a_function_of_index_and_seed", "clip(0, seed) asked for twice"),
    ("dataset", "Reseeds", "global_generators_are_left_alone", "clip changed the state of a global generator"),
    ("dataset", "LosesConditions", "conditions_are_what_is_declared", "has no 'shape'; the data set declares shape"),
    ("dataset", "InventsConditions", "conditions_are_what_is_declared", "carries 'colour'"),
    ("dataset", "HoldsNothingOut", "validation_is_held_out", "clip 0 of the held-out part is clip 0 of the training"),
    ("dataset", "StrangeBuckets", "buckets_hold_every_clip", "puts clip 2 into 'medium', which is none of its buckets"),
    ("dataset", "FreeBuckets", "buckets_hold_every_clip", "bucket short: the cost of a clip must be a positive number"),
    ("dataset", "BucketsOfAnyLength", "buckets_hold_every_clip", "it raised RuntimeError: stack expects each tensor"),
    ("dataset", "DescribesInTensors", "description_is_plain", "raised TypeError: Object of type Tensor"),
    ("encoder", "ChannelsFirst", "spec_matches_the_latents", "have shape (4, 1, 64); spec says (64, 1)"),
    ("encoder", "Doubles", "spec_matches_the_latents", "are torch.float64"),
    ("encoder", "NotNormalised", "latents_have_unit_scale", "expected a deviation of 0.15 to 3"),
    ("encoder", "AnotherStatistic", "decode_undoes_encode", "decoded and encoded again are off by 0.5"),
    ("encoder", "WrongRate", "decode_undoes_encode", "a clip at rate 64.0 is decoded at rate 128.0"),
    ("encoder", "Dithers", "coding_is_deterministic", "encoding the same clips twice gives different latents"),
    ("encoder", "NormalisesTheBatch", "coding_does_not_leak_across_the_batch", "clip 0 encoded alone and among 4"),
    ("encoder", "PlainAttributes", "encoder_survives_saving", "its latents change by .* saved and loaded"),
    ("encoder", "OneIdentity", "identity_follows_the_weights", "its identity stays when a weight changes"),
    ("encoder", "DirtyPadding", "padding_is_zero", "where the mask says padding reach 1"),
    ("network", "OneChannelMore", "output_is_like_the_state", "shape (4, 64, 1) gives an output of shape (4, 64, 2)"),
    ("network", "NotFinite", "output_is_like_the_state", "the output is not finite"),
    ("network", "DropsInEval", "network_is_deterministic", "the same input gives two outputs"),
    ("network", "OwnSeed", "initial_weights_follow_the_seed", "the weight 'embed.weight' differs"),
    ("network", "CentresTheBatch", "network_does_not_leak_across_the_batch", "sample 0 alone and among 4 differs"),
    ("network", "BatchNorm", "network_does_not_leak_across_the_batch", "in training mode a sample differs"),
    ("network", "IgnoresTime", "time_matters", "times 0.05 and 0.95 give the same output"),
    ("network", "CoarseTime", "time_keeps_its_precision", "times 0.9985 and 0.9998 give the same output"),
    ("network", "OneTime", "times_may_differ_by_position", "times that differ by position are ignored"),
    ("network", "IgnoresConditions", "conditions_matter", "the condition 'shape' is ignored: '"),
    ("network", "NoNull", "conditions_matter", "'sine' and nothing give the same output"),
    ("network", "ChokesOnNull", "null_conditions_are_taken", "null conditions give values that are not finite"),
    ("network", "IgnoresMask", "padding_changes_nothing", "changing the padding after step 48 changes the output"),
    ("network", "UnusedParameter", "gradient_reaches_every_parameter", "are not used: spare.weight, spare.bias"),
    ("network", "CutsGradients", "gradient_reaches_every_parameter", "get a gradient of zeros"),
    ("network", "KeepsWhatIsNotThere", "float32_modules_are_kept", "keep_float32 names 'clock'"),
    ("network", "NamesNoBlocks", "recomputing_changes_nothing", "repeated_blocks names 'layers'"),
    ("network", "CountsItsCalls", "recomputing_changes_nothing", "the gradient of .* changes"),
    (
        "network",
        "Tied",
        "network_survives_saving",
        "'blocks.0.mlp.0.weight' and 'blocks.1.mlp.0.weight' are one tensor",
    ),
    ("network", "HiddenState", "network_survives_saving", "the output changes by"),
    ("network", "LearnsNothing", "training_lowers_the_loss", "expected at most"),
    ("solver", "Rolls", "sampling_follows_the_seed", "the same seed gives other clips the second time"),
    ("solver", "OwnStart", "sampling_follows_the_seed", "another seed gives the same clips"),
    ("modality", "WritesInPlace", "files_are_written_whole", "it writes into the '.csv' file that is there"),
    ("modality", "DropsAClip", "sheet_shows_every_clip", "stays as it is when clip 2 is another"),
    ("modality", "LeavesOpen", "files_are_closed", "clip.csv is still open"),
    ("modality", "ScalesWhatItWrites", "modality_leaves_clips_alone", "write for '.csv' changes clip 0 in place"),
    ("modality", "DoubledTempo", "file_lasts_as_long_as_its_clip", "of 1 s makes a '.wav' file that plays 0.5 s"),
    ("modality", "CutsOneShort", "cuts_meet", "cut at 0.5 s and joined, has shape (62, 1)"),
    ("dataset", "LeaksUnderCrops", "keys_tell_items_apart", "item 0 of the held-out part has the key 'curve 0'"),
    ("dataset", "TwiceThere", "keys_tell_items_apart", "item 1 of the training part has the key 'training 0'"),
    ("dataset", "LeaksBeyond64", "validation_is_held_out", "clip 0 of the held-out part is clip 100 of the training"),
    ("dataset", "LengthBeforeCrop", "labels_are_those_of_the_clip", "is 1 s long, and its length says"),
    ("dataset", "LabelBeforeAugmentation", "labels_are_those_of_the_clip", "says way='up', and the clip 'down'"),
    ("encoder", "SubtractsInPlace", "coding_leaves_its_input_alone", "encode changes clip 0 in place"),
    ("encoder", "DecodesInPlace", "coding_leaves_its_input_alone", "decode changes the latents in place"),
    ("encoder", "RateOffByFour", "spec_rate_is_the_clips", "has 64 steps at a rate of 256, that is 0.25 s"),
    ("encoder", "ShapeOffByEight", "latent_shape_is_what_encode_gives", "it tells (72, 1), and encode gives (64, 1)"),
    ("network", "ChangesTheState", "network_leaves_its_input_alone", "it changes the state in place"),
    ("network", "OneTimeForAll", "times_may_differ_by_position", "ignored in stream 'second'"),
    ("network", "SecondIsBlind", "streams_see_one_another", "does not depend on stream 'second'"),
    ("network", "MasksTheFirst", "padding_changes_nothing", "step 24 in stream 'second' changes the output"),
]
WITH = {
    "DirtyPadding": {"modality": "any-length", "data": "lengths"},
    **{name: {"modality": "timed"} for name in ("LengthBeforeCrop", "RateOffByFour", "ShapeOffByEight")},
    **{name: {"encoder": "halves"} for name in ("OneTimeForAll", "SecondIsBlind", "MasksTheFirst")},
}
"""What else the config of a mutant names."""
SOUND = {
    "any-length": ("modality", "AnyLength"),
    "timed": ("modality", "Timed"),
    "sound": ("modality", "Sound"),
    "lengths": ("dataset", "Lengths"),
    "named": ("dataset", "Named"),
    "shaped": ("encoder", "Shaped"),
    "halves": ("encoder", "Halves"),
    "both": ("network", "Both"),
}
"""Components of mutants.py that are not broken."""
SOUND_COMPONENTS = [Component(kind, name, f"wave_mutants:{made}", "not broken") for name, (kind, made) in SOUND.items()]


@pytest.fixture(scope="module")
def wave(tmp_path_factory):
    """A generated plugin, and the mutants beside it, importable."""
    folder = tmp_path_factory.mktemp("teeth") / "flowgen-wave"
    new_plugin("wave", folder)
    shutil.copy(Path(__file__).with_name("mutants.py"), folder / "wave_mutants.py")
    (folder / "wave_heavy.py").write_text("import torch\n" + (folder / "flowgen_wave/__init__.py").read_text())
    sys.path.insert(0, str(folder))
    import flowgen_wave

    with plugged("wave", flowgen_wave):
        yield folder
    sys.path.remove(str(folder))
    for name in [name for name in sys.modules if name.startswith(("flowgen_wave", "wave_"))]:
        del sys.modules[name]


def plugin(*components):
    """A plugin made of these components."""
    return SimpleNamespace(flowgen_components=hookimpl(lambda: list(components)), __name__="flowgen_wave")


def subject(kind="", name="", also=None):
    """The generated recipe, small, with one component replaced."""
    config = {
        "modality": "wave",
        "data": "wave-shapes",
        "encoder": "wave",
        "network": {"type": "transformer", "width": 32, "depth": 2, "heads": 2},
        "sample": {"solver": "euler", "steps": 2},
    }
    config |= also or {}
    if kind == "solver":
        config["sample"] = {"solver": name, "steps": 2}
    elif kind == "network":
        config["network"] = {"type": name, "width": 32, "depth": 2, "heads": 2}
    elif kind:
        config[SECTIONS[kind]] = name
    return Subject.of(config)


def broken_checks(subject, kinds=("modality", "dataset", "encoder", "network", "recipe")):
    """What the checks of some kinds report, those that start no other process, by name."""
    found = {}
    for check in CHECKS:
        if not check.slow and check.kind in kinds:
            try:
                check(subject)
            except NotApplicable:
                pass
            except ContractError as error:
                found[check.name] = str(error)
    return found


@pytest.mark.parametrize(("kind", "name", "check", "message"), MUTANTS, ids=[m[1] for m in MUTANTS])
def test_a_broken_plugin_is_caught_once(wave, kind, name, check, message):
    component = Component(kind, "mutant", f"wave_mutants:{name}", "broken")
    with plugged("mutant", plugin(component, *SOUND_COMPONENTS)):
        # drawing sheets and writing files is slow, and what other parts break does not show there
        files = ["modality"] if "modality" in (kind, CHECK[check].kind) else []
        kinds = [*files, "dataset", "encoder", "network", "recipe"]
        found = broken_checks(subject(kind, "mutant", WITH.get(name, {})), kinds)
    assert list(found) == [check], found
    said = found[check]
    assert re.search(message, said) or message in said
    assert said.startswith(f"contract: {CHECK[check].contract}\nseen: ")
    assert said.endswith(f"see: {CHECK[check].see}")


@pytest.mark.parametrize(
    "config",
    [
        {"modality": "sound", "data": "named", "encoder": "shaped"},
        {"encoder": "halves", "network": {"type": "both", "width": 32, "depth": 2, "heads": 2}},
    ],
    ids=["sound", "streams"],
)
def test_other_plugins_that_mutants_are_made_of_are_sound(wave, config):
    with plugged("mutant", plugin(*SOUND_COMPONENTS)):
        assert broken_checks(subject(also=config)) == {}


def test_torch_at_registration_is_caught(wave):
    import wave_heavy

    heavy = SimpleNamespace(
        flowgen_components=hookimpl(lambda: [Component("modality", "heavy", "flowgen_wave.modality:Wave", "heavy")]),
        __name__=wave_heavy.__name__,
    )
    with (
        plugged("heavy", heavy),
        pytest.raises(ContractError, match=r"import wave_heavy \(plugin 'heavy'\) imports torch"),
    ):
        CHECK["import_is_light"](subject("modality", "heavy"))


@pytest.mark.parametrize(
    ("name", "summary", "check", "message"),
    [
        ("Undocumented", "a solver", "components_load", "solver 'extra' .* has no docstring"),
        ("Rolls", "", "components_load", "solver 'extra' has no summary"),
        ("Missing", "a solver", "components_load", "raised FlowgenError: solver 'extra' cannot be loaded"),
        ("TakesAnything", "a solver", "options_are_typed", "its parameter 'options' needs a type hint"),
    ],
)
def test_a_component_that_cannot_be_used_is_caught(wave, name, summary, check, message):
    modality = Component("modality", "other", "flowgen_wave.modality:Wave", "curves")
    extra = Component("solver", "extra", f"wave_mutants:{name}", summary)
    with plugged("mutant", plugin(modality, extra)), pytest.raises(ContractError, match=message):
        CHECK[check](subject("modality", "other"))


def test_every_check_that_can_bite_is_shown_to():
    others = {"import_is_light", "components_load", "options_are_typed", "trains_on_two_ranks"}
    others |= {"streams_have_times_of_their_own"}  # of one whose times by position are right already
    assert CHECK.keys() == {check for _, _, check, _ in MUTANTS} | others


@pytest.mark.parametrize("check", [c for c in CHECKS if not c.slow], ids=lambda c: c.name)
def test_the_plugin_that_the_mutants_are_made_of_is_sound(wave, check):
    try:
        check(subject())
    except NotApplicable as reason:
        if not re.search(
            "one length|no buckets|how long a clip|other lengths|no key|one stream|no labels", str(reason)
        ):
            raise
        pytest.skip(str(reason))


TORN = """
from flowgen.testing import CHECKS, Subject
check = {c.name: c for c in CHECKS}["trains_on_two_ranks"]
network = {"type": "transformer", "width": 16, "depth": 1, "heads": 2}
sections = {"modality": "torn", "data": "torn-shapes", "encoder": "torn", "network": network}
check(Subject.of({**sections, "sample": {"solver": "euler", "steps": 2}}))
"""


@pytest.mark.slow
def test_a_data_set_that_depends_on_the_rank_is_caught(tmp_path):
    """Other processes must find the broken plugin, so it is installed: a folder with an entry point."""
    new_plugin("torn", tmp_path / "source")
    site = tmp_path / "site"
    shutil.copytree(tmp_path / "source/flowgen_torn", site / "flowgen_torn")
    (site / "flowgen_torn-0.1.0.dist-info").mkdir()
    for name, text in {
        "METADATA": "Metadata-Version: 2.1\nName: flowgen-torn\nVersion: 0.1.0\n",
        "entry_points.txt": "[flowgen]\ntorn = flowgen_torn\n",
    }.items():
        (site / "flowgen_torn-0.1.0.dist-info" / name).write_text(text)
    dataset = site / "flowgen_torn/dataset.py"
    drawn = 'rng = generator("shapes",'
    assert drawn in dataset.read_text()
    by_rank = '__import__("os").environ.get("RANK", "0"), "shapes",'
    dataset.write_text(dataset.read_text().replace(drawn, f"rng = generator({by_rank}"))
    paths = os.pathsep.join([str(site), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "PYTHONPATH": paths}
    done = subprocess.run([sys.executable, "-c", TORN], capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert "ContractError" in done.stderr
    assert re.search(r"the losses are \[.*\] on 1 rank and \[.*\] on 2", done.stderr), done.stderr[-1500:]

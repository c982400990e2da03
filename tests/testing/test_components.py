"""Every component of the core keeps the contract of its kind, and every broken one is caught once, by the check meant for it."""

import sys
from types import SimpleNamespace

import pytest

from flowgen.plugins import KINDS, Component, hookimpl, registry
from flowgen.testing import ContractError, Part, plugged
from flowgen.testing.checks import CHECKS, COMPONENT_CHECKS, checks_of
from flowgen.testing.contract import NotApplicable

from . import broken_mathematics, broken_others

sys.modules["broken_mathematics"] = broken_mathematics  # as import strings name it
sys.modules["broken_others"] = broken_others
ALONE = (
    "bottleneck",
    "path",
    "times",
    "coupling",
    "loss",
    "solver",
    "guidance",
    "conditioner",
    "region",
    "optimizer",
    "logger",
)
ELSEWHERE = {
    "autoguidance": "wants a trained run: tests/points/test_autoguidance.py",
    "table": "runs on its own grid: tests/core/test_solvers.py",
    "learned": "belongs to a run: tests/cli/test_distill_solver.py",
    "cpu-adam": "is compiled for a minute: tests/training/test_optimizers.py",
    "text-encoder": "wants a model: tests/core/test_text.py",
    "consistency": "is no flow, but jumps to the data: tests/core/test_flow_map_losses.py",
    "cross-stream": "is of several streams: tests/core/test_cross_stream.py",
    "folded": "is for networks that were distilled: tests/core/test_distill.py",
    "wandb": "tests/training/test_loggers.py",
}
OPTIONS = {
    "affine": {"alpha": "tests.core.test_registry_core:alpha", "sigma": "tests.core.test_registry_core:sigma"},
    "distill": {"teacher": "run"},
    "distill-trajectories": {"teacher": "run"},
    "flow-dpo": {"teacher": "run"},
    "multi-cfg": {"scales": {"modes": 2.0}},
    "audio-reference": {"sample_rate": 8000},
}
NUMBER = {"low": 0.0, "high": 2.0}
OPTIONS_OF_KIND = {"conditioner": NUMBER, "region": {"probability": 0.5, "low": 0.25, "high": 0.5}}
# kind, class in broken_mathematics.py or broken_others.py, the check that must catch it, what it must say
BROKEN = [
    ("solver", "WrongOrder", "solver_has_its_order", "declares order 2, and order 0.99"),
    ("solver", "WrongEnd", "solver_converges", "at 48; expected below 0.05"),
    ("solver", "Rolls", "solver_is_pure", "draws from a global generator"),
    ("solver", "InPlace", "solver_is_pure", "changes the state that it is given in place"),
    ("solver", "ChangesTheEstimate", "solver_is_pure", "changes in place what the flow said"),
    ("solver", "OwnStart", "solver_is_pure", "another start gives the same end"),
    ("solver", "Miscounts", "solver_counts_its_evaluations", "take 16 evaluations; it declares 1 a step"),
    ("solver", "BackwardsWithNoise", "solver_runs_backwards_or_refuses", "runs backwards without a word"),
    ("solver", "OneTensor", "solver_takes_streams", "raised TypeError"),
    ("solver", "MeanStep", "solver_keeps_samples_apart", "alone and among others differs"),
    ("coupling", "AnySource", "coupling_draws_its_pairs", "a clip gets a source of other conditions"),
    ("loss", "WrongSign", "loss_is_zero_at_the_exact_field", "the loss of the exact field is"),
    ("loss", "Ascends", "loss_leads_to_the_exact_field", "training does not take away a constant"),
    ("loss", "DrawsGlobally", "loss_draws_from_its_randomness", "with another global seed"),
    ("loss", "OneSeed", "loss_draws_from_its_randomness", "another seed or step gives the same loss"),
    ("loss", "RankNoise", "loss_is_the_same_on_any_ranks", "8 samples at once, and 4 and 4, differ"),
    ("loss", "NoMask", "loss_respects_the_mask", "another content of what is masked out changes the loss"),
    ("loss", "LearnsKnown", "loss_respects_known_positions", "what the network says of known positions"),
    ("loss", "Unbalanced", "loss_balances_streams", "each divided by its average"),
    ("guidance", "Wanders", "guidance_is_pure", "draws from a global generator"),
    ("guidance", "PushesNothing", "guidance_of_nothing_is_the_flow", "it differs from the flow by"),
    ("path", "WrongSlope", "path_derivatives_are_right", "dsigma is off by 0.5"),
    ("path", "Mirrored", "path_goes_from_noise_to_data", "D is -1"),
    ("path", "WrongInverse", "path_time_of_snr_inverts", "it is off by"),
    ("path", "Unsaid", "path_says_whether_its_velocity_is_bounded", "declare velocity_bounded = False"),
    ("times", "ReachesEnds", "times_that_leave_out_ends_do", "near 0 and 1 their density is"),
    ("times", "Falling", "times_are_quantiles", "they do not increase"),
    ("coupling", "WithReplacement", "coupling_permutes", "taken twice"),
    ("metric", "NotANumber", "metric_is_finite", "of real clips the figure 'spread' is nan"),
    ("metric", "DrawsGlobally", "metric_is_pure", "the state of a global generator"),
    ("metric", "DrawsInNumpy", "metric_is_pure", "the state of a global generator"),
    ("metric", "ZeroesItsClips", "metric_is_pure", "it changes the clips in place"),
    ("metric", "Counts", "metric_is_pure", "measured twice, 'calls' is 1 and 2"),
    ("metric", "CannotFail", "metric_can_fail", "of noise clips 24"),
    ("logger", "Raises", "logger_takes_any_figures", "raised ValueError: a figure is not a number"),
    ("logger", "StartsAnew", "logger_goes_on", "log.jsonl held"),
    ("logger", "WritesElsewhere", "logger_writes_in_its_folder", "it wrote figures.txt"),
    ("logger", "LoggerDraws", "logger_draws_nothing", "the state of a global generator"),
    ("conditioner", "NullIsZero", "conditioner_null_differs", "null() is the same as 0.0"),
    ("conditioner", "ChokesOnJunk", "conditioner_refuses_what_is_no_value", "raised TypeError"),
    ("conditioner", "HandsOutItsOwn", "conditioner_is_its_options", "it hands out a tensor that it keeps"),
    ("conditioner", "OneValue", "conditioner_encodes_values", "0.0 and 2.0 are encoded alike"),
    ("region", "AllKnown", "region_is_a_mask", "goes from 1 to 1"),
    ("region", "OverLongs", "region_fits_short_clips", "of clips of 5 steps among 16"),
    ("region", "OwnDraw", "region_is_drawn_by_u", "draws from a global generator"),
    ("optimizer", "Forgets", "optimizer_survives_saving", "5 steps more differ"),
    ("optimizer", "half", "optimizer_groups_hold_every_parameter", "its groups hold 2 parameters; there are 4"),
    ("optimizer", "Uphill", "optimizer_lowers_the_loss", "100 steps take it from"),
    ("optimizer", "OwnRate", "optimizer_follows_the_schedule", "at lr 0 the weights move"),
    ("bottleneck", "OneChannel", "bottleneck_gives_latents", "latents have shape [4, 6, 1]"),
    ("bottleneck", "DropsAtWill", "bottleneck_draws_from_its_randomness", "with another global seed"),
    ("bottleneck", "WholeBatch", "bottleneck_keeps_samples_apart", "the other samples change the latent"),
    ("bottleneck", "Rounds", "bottleneck_passes_gradients", "features get no gradient"),
    ("bottleneck", "OffByOne", "bottleneck_codes_are_its_latents", "the latents of its codes are others"),
    ("coupling", "AcrossGroups", "coupling_stays_within_groups", "noise of one group goes to data of another"),
]


def broken_checks(part):
    """What the checks of its kind report of a component, by name."""
    found = {}
    for check in checks_of(part.kind):
        try:
            check(part)
        except NotApplicable:
            pass
        except ContractError as error:
            found[check.name] = str(error)
    return found


@pytest.mark.parametrize(("kind", "name"), [(kind, c.name) for kind in ALONE for c in registry().components(kind)])
def test_a_component_of_the_core_keeps_its_contract(kind, name):
    if ELSEWHERE.get(name):
        pytest.skip(ELSEWHERE[name])
    if name == "sinkhorn":
        pytest.importorskip("ot")
    assert broken_checks(Part(kind, name, OPTIONS.get(name, {}))) == {}


@pytest.mark.parametrize(("kind", "name", "check", "message"), BROKEN, ids=[b[1] for b in BROKEN])
def test_a_broken_component_is_caught_once(kind, name, check, message):
    home = broken_mathematics if kind in ("path", "times", "coupling", "loss", "solver", "guidance") else broken_others
    component = Component(kind, "mutant", f"{home.__name__.rpartition('.')[2]}:{name}", "broken")
    with plugged("mutant", SimpleNamespace(flowgen_components=hookimpl(lambda: [component]), __name__="mutant")):
        found = broken_checks(Part(kind, "mutant", OPTIONS_OF_KIND.get(kind, {})))
    assert list(found) == [check], found
    assert message in found[check]


def test_every_kind_of_component_has_checks():
    for kind in KINDS:
        assert checks_of(kind), f"no check is for the kind {kind!r}; add one in flowgen/testing/checks"
    assert {check.kind for check in (*CHECKS, *COMPONENT_CHECKS)} == {*KINDS, "plugin", "recipe"}


def test_every_check_of_a_component_is_shown_to_bite():
    others = {"path_takes_any_times", "times_draw_nothing", "coupling_is_a_function", "coupling_hands_on_its_sources"}
    others |= {"guidance_is_a_flow", "guidance_guides", "guidance_chains", "loss_is_per_sample"}
    others |= {"conditioner_embedder_fits", "writer_is_named_after_its_files"}
    caught = {check for _, _, check, _ in BROKEN} | {"writer_writes_whole_files"}
    assert caught | others == {check.name for check in COMPONENT_CHECKS}


def test_a_writer_that_overwrites_in_place_is_caught():
    component = Component("writer", "points.txt", "broken_others:in_place", "broken")
    with plugged("mutant", SimpleNamespace(flowgen_components=hookimpl(lambda: [component]), __name__="mutant")):
        found = broken_checks(Part("writer", "points.txt"))
    assert list(found) == ["writer_writes_whole_files"]
    assert "it writes into the '.txt' file that is there" in found["writer_writes_whole_files"]


@pytest.mark.parametrize("name", ["checkerboard", "motion-magnitude"])
def test_metrics_keep_their_contract(name):
    assert broken_checks(Part("metric", name)) == {}

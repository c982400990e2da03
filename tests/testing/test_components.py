"""Every component of the core keeps the contract of its kind, and every broken one is caught once, by the check meant for it."""

import sys
from types import SimpleNamespace

import pytest

from flowgen.plugins import Component, hookimpl, registry
from flowgen.testing import ContractError, Part, plugged
from flowgen.testing.checks import checks_of
from flowgen.testing.contract import NotApplicable

from . import broken_mathematics

sys.modules["broken_mathematics"] = broken_mathematics  # as import strings name it
MATHEMATICS = ("path", "times", "coupling", "loss", "solver", "guidance")
ELSEWHERE = {
    "autoguidance": "wants a trained run: tests/points/test_autoguidance.py",
    "table": "runs on its own grid: tests/core/test_solvers.py",
}
OPTIONS = {
    "affine": {"alpha": "tests.core.test_registry_core:alpha", "sigma": "tests.core.test_registry_core:sigma"},
    "multi-cfg": {"scales": {"modes": 2.0}},
}
# kind, class in broken_mathematics.py, the check that must catch it, what it must say
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
    ("loss", "WrongSign", "loss_is_zero_at_the_exact_field", "the loss of the exact field is"),
    ("loss", "Ascends", "loss_leads_to_the_exact_field", "training does not take away a constant"),
    ("loss", "DrawsGlobally", "loss_draws_from_its_randomness", "with another global seed"),
    ("loss", "OneSeed", "loss_draws_from_its_randomness", "another seed or step gives the same loss"),
    ("loss", "RankNoise", "loss_is_the_same_on_any_ranks", "8 samples at once, and 4 and 4, differ"),
    ("loss", "NoMask", "loss_respects_the_mask", "another content of what is masked out changes the loss"),
    ("loss", "LearnsKnown", "loss_respects_known_positions", "what the network says of known positions"),
    ("guidance", "Wanders", "guidance_is_pure", "draws from a global generator"),
    ("guidance", "PushesNothing", "guidance_of_nothing_is_the_flow", "it differs from the flow by"),
    ("path", "WrongSlope", "path_derivatives_are_right", "dsigma is off by 0.5"),
    ("path", "Mirrored", "path_goes_from_noise_to_data", "D is -1"),
    ("path", "WrongInverse", "path_time_of_snr_inverts", "it is off by"),
    ("times", "Falling", "times_are_quantiles", "they do not increase"),
    ("coupling", "WithReplacement", "coupling_permutes", "taken twice"),
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


@pytest.mark.parametrize(
    ("kind", "name"), [(kind, c.name) for kind in MATHEMATICS for c in registry().components(kind)]
)
def test_a_component_of_the_core_keeps_its_contract(kind, name):
    if ELSEWHERE.get(name):
        pytest.skip(ELSEWHERE[name])
    if name == "sinkhorn":
        pytest.importorskip("ot")
    assert broken_checks(Part(kind, name, OPTIONS.get(name, {}))) == {}


@pytest.mark.parametrize(("kind", "name", "check", "message"), BROKEN, ids=[b[1] for b in BROKEN])
def test_a_broken_component_is_caught_once(kind, name, check, message):
    component = Component(kind, "mutant", f"broken_mathematics:{name}", "broken")
    with plugged("mutant", SimpleNamespace(flowgen_components=hookimpl(lambda: [component]), __name__="mutant")):
        found = broken_checks(Part(kind, "mutant"))
    assert list(found) == [check], found
    assert message in found[check]

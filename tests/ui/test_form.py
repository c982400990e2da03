"""A form says all that a run takes, and what is filled in becomes the request that says the same."""

import pytest

from flowgen.errors import UsageError
from flowgen.serving.wire import parse, settings_with
from flowgen.ui import form

RUN = {
    "name": "mine",
    "conditions": {
        "digit": {"type": "class", "names": ["0", "1"]},
        "length": {"type": "number", "low": 1, "high": 5},
        "caption": {"type": "text"},
        "voice": {"type": "audio-reference"},
    },
    "files": {"voice": "audio"},
    "settings": {"steps": 16, "solver": {"type": "heun"}, "guidance": {"type": "cfg", "scale": 2.0}, "grid": "uniform"},
    "streams": ["picture", "sound"],
    "adapters": ["style"],
}
PLAIN = {"count": 2, "seed": "7", "steps": 16, "solver": "heun", "guidance": form.OWN}
FILES = {
    "clip": "a.wav",
    "first": "f.png",
    "last": "",
    "a": "a.wav",
    "b": "b.wav",
    "stream": "sound",
    "stream file": "s.wav",
}
PART = {"start_s": 0.5, "end_s": 1.0, "strength": 0.25, "seconds": "2.5"}


def test_every_kind_of_condition_has_its_field():
    assert [(f.name, f.kind) for f in form.fields(RUN)] == [
        ("digit", "choice"),
        ("length", "number"),
        ("caption", "text"),
        ("voice", "file"),
    ]


def test_what_is_not_given_is_not_asked_for():
    asked, uploads = form.request(RUN, "sample", {**PLAIN, "condition digit": form.NOT_GIVEN, "condition caption": ""})
    assert asked == {"run": "mine", "way": "sample", "count": 2, "preview": True, "seed": 7}
    assert uploads == {}


@pytest.mark.parametrize("way", form.WAYS)
def test_every_way_is_one_that_the_server_takes_and_comes_back_into_the_form(way):
    conditions = {
        "condition digit": "1",
        "condition length": "2.5",
        "condition caption": "<b>x</b>",
        "condition voice": "v.wav",
    }
    scales = {"guidance": form.EACH, **{f"scale {f.name}": 1.5 for f in form.fields(RUN)}}
    filled = {**PLAIN, **FILES, **PART, **conditions, **scales, "steps": 4, "solver": "euler"}
    filled |= {"step": "300", "adapter style": 0.8}
    asked, uploads = form.request(RUN, way, filled)
    parse(asked)
    assert asked["conditions"] == {"digit": "1", "length": 2.5, "caption": "<b>x</b>", "voice": "condition-3"}
    assert uploads["condition-3"] == "v.wav"
    assert (asked["step"], asked["adapters"]) == (300, {"style": 0.8})
    back = form.filled_from(asked, uploads, RUN)
    again, files = form.request(RUN, way, back)
    assert (again, files) == (asked, uploads)
    assert asked["settings"]["steps"] == 4
    assert ("guidance" in asked["settings"]) is (way != "interpolate")


@pytest.mark.parametrize(
    ("guidance", "expected"),
    [
        (form.OWN, None),
        (form.OFF, {"guidance": None}),
        ("cfg", {"guidance": {"type": "cfg", "scale": 3.0}}),
        (form.EACH, {"guidance": {"type": "multi-cfg", "scales": dict.fromkeys(RUN["conditions"], 3.0)}}),
    ],
)
def test_guidance_is_the_run_s_own_unless_it_is_chosen(guidance, expected):
    from flowgen.config.schema import Sample

    scales = {f"scale {f.name}": 3 for f in form.fields(RUN)}
    asked, _ = form.request(RUN, "sample", {**PLAIN, "guidance": guidance, "scale": 3, **scales})
    assert asked.get("settings") == expected
    if expected is not None:
        settings_with(Sample(), asked["settings"])
        assert form.filled_from(asked, {}, RUN)["guidance"] == guidance


@pytest.mark.parametrize(
    ("way", "filled", "word"),
    [
        ("vary", {}, "Clip to vary"),
        ("interpolate", {"a": "a.wav"}, "To"),
        ("animate", {}, "begin with"),
        ("given", {"stream": "sound"}, "stream"),
        ("inpaint", {"clip": "a.wav"}, "mark the part"),
        ("inpaint", {"clip": "a.wav", "mask": "m.png", "start_s": 1.0}, "or by times"),
        ("sample", {"seconds": "long"}, "Seconds"),
        ("sample", {"seed": "1.5"}, "Seed"),
        ("sample", {"steps": "few"}, "Steps"),
        ("sample", {"condition length": "a"}, "length"),
    ],
)
def test_what_is_missing_is_named(way, filled, word):
    with pytest.raises(UsageError, match=word):
        form.request(RUN, way, {**PLAIN, "strength": 0.5, **filled})


def test_a_summary_says_what_was_asked():
    asked, _ = form.request(
        RUN, "sample", {**PLAIN, "condition digit": "1", "seconds": "2", "steps": 3, "guidance": form.OFF}
    )
    assert form.summary(asked) == "New clips, digit 1, seconds 2 s, seed 7, 3 steps, no guidance"

"""The length of a clip and the condition that says it know each other."""

from __future__ import annotations

import pytest

from flowgen.errors import UsageError
from flowgen.media.conditions import NumberCondition, asked_lengths, told_lengths

CONDITIONS = {
    "how_long": NumberCondition(0.5, 4.0, log=True, seconds=True),
    "level": NumberCondition(0.5, 4.0),
}


def test_a_length_is_told_where_it_is_not_given() -> None:
    told = told_lengths(CONDITIONS, [{}, {"level": 2}, {"how_long": None}], [1.0, 1.5, 2.0])
    assert told == [{"how_long": 1.0}, {"level": 2, "how_long": 1.5}, {"how_long": 2.0}]
    assert told_lengths(CONDITIONS, [{}, {}], 3.0) == [{"how_long": 3.0}] * 2
    assert told_lengths({"level": CONDITIONS["level"]}, [{}], 3.0) == [{}]


def test_what_is_given_stays_and_must_not_contradict() -> None:
    assert told_lengths(CONDITIONS, [{"how_long": "1.2"}], 1.2) == [{"how_long": "1.2"}]
    with pytest.raises(UsageError, match=r"'how_long' is 2 and the clips are to be 1.2 s long"):
        told_lengths(CONDITIONS, [{"how_long": "2"}], 1.2)
    with pytest.raises(UsageError, match="expected a number"):
        told_lengths(CONDITIONS, [{"how_long": "long"}], 1.2)


def test_a_length_that_was_never_trained_is_not_told() -> None:
    assert told_lengths(CONDITIONS, [{}], 9.0) == [{}]


def test_a_condition_asks_for_a_length() -> None:
    assert asked_lengths(CONDITIONS, [{"how_long": "1.2"}, {}, {"level": 2}]) == [1.2, None, None]
    assert asked_lengths(CONDITIONS, [{"level": 2}, {}]) is None
    assert asked_lengths({"level": CONDITIONS["level"]}, [{"level": 2}]) is None

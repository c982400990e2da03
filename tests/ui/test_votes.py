"""A vote is kept as a table of preferences, and its result has an interval."""

import csv
import random

import pytest

from flowgen.errors import FlowgenError
from flowgen.ui.votes import Ballot, Pair, Side, drawn_conditions

A, B = Side("one", {}), Side("one", {"steps": "2", "guidance": "as the run", "scale": 2})


@pytest.fixture
def pair(tmp_path):
    for name in ("a", "b"):
        (tmp_path / f"{name}.wav").write_bytes(name.encode())
    return Pair((A.label, tmp_path / "a.wav"), (B.label, tmp_path / "b.wav"), {"pitch": "C4"}, 5)


def test_labels_say_what_is_not_the_run_s_own():
    assert (A.label, B.label) == ("one", "one steps=2")
    assert Side("one", {"guidance": "off", "scale": 2}).label == "one guidance=off"


def test_the_table_names_who_won_and_the_clips_lie_beside_it(pair, tmp_path):
    ballot = Ballot(tmp_path / "votes")
    for verdict in ("left", "right", "tie"):
        ballot.record(pair, verdict)
    rows = list(csv.DictReader((tmp_path / "votes" / "preferences.csv").open()))
    assert [row["tie"] for row in rows] == ["no", "no", "yes"]
    assert [row["preferred_by"] for row in rows] == [A.label, B.label, A.label]
    assert [row["pitch"] for row in rows] == ["C4"] * 3
    contents = [[(tmp_path / "votes" / row[k]).read_text() for k in ("preferred", "rejected")] for row in rows]
    assert contents == [["a", "b"], ["b", "a"], ["a", "b"]]


def test_the_result_counts_votes_of_these_two_alone(pair, tmp_path):
    ballot = Ballot(tmp_path / "votes")
    assert "no vote" in ballot.result(A.label, B.label)
    for verdict in ("left", "left", "left", "right", "tie"):
        ballot.record(pair, verdict)
    ballot.record(Pair(("other", pair.left[1]), pair.right, {"words": "x"}, 1), "left")
    said = ballot.result(A.label, B.label)
    assert said.startswith(f"one won 3 of 4 votes over {B.label}: 75% (95 % interval 30% to 95%)")
    assert said.endswith("1 ties")
    assert ballot.result(B.label, A.label).startswith(f"{B.label} won 1 of 4")


def test_another_table_is_not_written_over(tmp_path, pair):
    (tmp_path / "preferences.csv").write_text("file,digit\nx.wav,1\n")
    with pytest.raises(FlowgenError, match="has no column"):
        Ballot(tmp_path).record(pair, "left")
    assert (tmp_path / "preferences.csv").read_text().startswith("file,digit")


def test_conditions_of_a_pair_are_drawn_from_what_the_run_takes():
    run = {
        "conditions": {
            "digit": {"type": "class", "names": list("0123456789")},
            "length": {"type": "number", "low": 1, "high": 5},
            "caption": {"type": "text"},
            "voice": {"type": "audio-reference"},
        },
        "files": {"voice": "audio"},
    }
    chance = random.Random(0)
    drawn = [drawn_conditions(run, ["a dog"], chance) for _ in range(50)]
    assert len({d["digit"] for d in drawn}) == 10
    assert all(1 <= d["length"] <= 5 and d["caption"] == "a dog" and "voice" not in d for d in drawn)
    assert "caption" not in drawn_conditions(run, [], chance)

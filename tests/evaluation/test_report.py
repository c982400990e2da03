"""The report: a page that holds together, with media that play."""

import math
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner
from flowgen_audio.modality import Audio
from flowgen_audio.notes import Notes

from flowgen.cli import cli
from flowgen.report import Shown, section, write_report
from flowgen.report.curves import HEIGHT, WIDTH, chart, loss_chart, thinned
from flowgen.report.showcase import spread
from flowgen.runs.run import Run
from tests.evaluation.pages import Page, media


@pytest.fixture(scope="module")
def report(run, tmp_path_factory):
    """A report with figures, made by the command line."""
    path = tmp_path_factory.mktemp("report") / "page one.html"
    for arguments in (["eval", str(run), "-n", "8"], ["report", str(run), "-n", "6", "-o", str(path)]):
        done = CliRunner().invoke(cli, arguments)
        assert done.exit_code == 0, done.output
    return path


def test_the_page_nests_and_every_file_it_names_decodes(report):
    page = Page(report.read_text())
    files = media(page, report.parent)
    sounds = [p for p in files if p.suffix == ".wav"]
    assert len([p for p in sounds if p.name.startswith("generated")]) == 6
    assert len([p for p in sounds if p.name.startswith("real")]) == 3
    assert len([p for p in sounds if p.name.startswith("round-trip")]) == 3


def test_the_page_says_what_was_asked_what_came_out_and_how_good_it_is(report):
    text = Page(report.read_text()).text
    for words in (
        "asked measured",
        "pitch",
        "timbre",
        "fundamental",
        "round trip",
        "of 8 clips each",
        "4 steps of euler",
    ):
        assert words in text
    assert "validation loss" in text
    assert "flowgen train" in text
    assert "flowgen sample" in text


def test_the_page_moves_with_its_files(report, tmp_path):
    copy = shutil.copytree(report.parent, tmp_path / "elsewhere")
    assert len(media(Page((copy / report.name).read_text()), copy)) == len(
        media(Page(report.read_text()), report.parent)
    )


def test_what_stands_there_is_kept_and_what_is_stale_or_missing_is_made_again(run, tmp_path):
    def make(**options):
        section(Run(run), tmp_path, clips=2, **options)
        return {p.name: p.stat().st_mtime_ns for p in tmp_path.glob("generated-0*")}

    first = make()
    assert len(first) == 4
    assert make() == first
    (tmp_path / "generated-01.wav").unlink()
    second = make()
    assert second.keys() == first.keys()
    assert second != first
    assert make(seed=1) != second


def test_names_and_values_are_escaped(run, tmp_path):
    made = section(Run(run), tmp_path / "media", clips=1)
    nasty = '<script>alert("x")</script>'
    shown = replace(made.showcase.generated[0], asked={"caption": nasty}, found={"caption": nasty})
    made = replace(made, name=nasty, showcase=replace(made.showcase, generated=(shown,)))
    page = Page(write_report(tmp_path / "page.html", [made, made], nasty).read_text())
    assert page.text.count(nasty) >= 4
    assert "<script>alert" not in (tmp_path / "page.html").read_text()


def test_asked_and_found_are_compared_where_both_are_known():
    shown = Shown(
        "a.wav",
        "audio/wav",
        None,
        {"pitch": "A4", "timbre": "flute", "text": "hi"},
        {"pitch": "A4", "timbre": "brass", "hz": "1"},
    )
    assert shown.rows == [
        ("pitch", "A4", "A4", True),
        ("timbre", "flute", "brass", False),
        ("text", "hi", "", None),
        ("hz", "", "1", None),
    ]


def test_shown_clips_differ_in_what_is_asked():
    notes = Notes(Audio(sample_rate=8000, duration_s=0.1))
    taken = spread(notes, ("pitch", "timbre"), 10, seed=0)
    assert len({c.conditions["pitch"] for c in taken}) == 10
    assert sorted(c.conditions["timbre"] for c in taken) == sorted(2 * list(notes.timbres))
    ranks = [notes.pitches.index(c.conditions["pitch"]) for c in taken]
    assert ranks == sorted(ranks)


def test_curves_run_down_as_losses_do_and_stay_in_the_box():
    log = [{"step": i, "loss": 10.0 / i} for i in range(1, 1000)]
    log += [{"step": i, "validation/loss": 20.0 / i} for i in range(100, 1000, 100)]
    made = loss_chart(log)
    for points in made.lines.values():
        xy = [tuple(map(float, p.split(","))) for p in points.split()]
        assert all(0 <= x <= WIDTH and 0 <= y <= HEIGHT for x, y in xy)
        assert [x for x, _ in xy] == sorted(x for x, _ in xy)
        assert [y for _, y in xy] == sorted(y for _, y in xy)
    assert 2 <= len(made.y_ticks) <= 7
    assert all(made.top <= tick.at <= made.bottom for tick in made.y_ticks)
    # the ticks say what the lines do: 20/200 is at 0.1
    second = made.lines["validation"].split()[1]
    assert float(second.partition(",")[2]) == pytest.approx(_height(made, 0.1), abs=0.2)


def _height(made, value):
    """Where a value lies, logarithmically between the outermost ticks."""
    (a, ya), (b, yb) = [(math.log(float(t.label)), t.at) for t in (made.y_ticks[0], made.y_ticks[-1])]
    return ya + (math.log(value) - a) / (b - a) * (yb - ya)


def test_a_narrow_range_has_ticks_too():
    assert len(chart({"training": [(10, 2.02), (20, 1.97), (30, 1.99)]}).y_ticks) >= 2


def test_a_run_without_a_log_has_no_curve():
    assert loss_chart([]) is None
    assert loss_chart([{"step": 1, "loss": 2.0}]) is None


def test_thinning_keeps_the_mean():
    points = [(float(i), float(i % 7 + 1)) for i in range(3000)]
    few = thinned(points)
    assert len(few) == 300
    assert sum(y for _, y in few) / 300 == pytest.approx(sum(y for _, y in points) / 3000)


@pytest.mark.parametrize(("arguments", "words"), [(["-o", "page.pdf"], ".html"), (["{run}"], "say where")])
def test_what_cannot_be_reported_is_refused_in_a_sentence(run, arguments, words):
    done = CliRunner().invoke(cli, ["report", str(run), *(a.format(run=run) for a in arguments)])
    assert words in str(done.exception)


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path):
    done = CliRunner().invoke(cli, ["report", str(tmp_path)])
    assert str(tmp_path) in str(done.exception)

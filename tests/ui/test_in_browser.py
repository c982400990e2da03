"""The page in a real browser: every way of sampling, a drawn mask, a cancel, settings that come back, a vote."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import contextmanager

import numpy as np
import pytest
import soundfile
from click.testing import CliRunner

from flowgen.cli import cli

pytest.importorskip("gradio")
playwright = pytest.importorskip("playwright.sync_api")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="no Chromium")]
WAIT_MS = 60_000


@contextmanager
def served(folder, jobs, *options):
    """Yields the address of `flowgen ui`."""
    runs = [str(folder / "runs" / name) for name in ("notes", "moving-digits")]
    command = [sys.executable, "-m", "flowgen", "ui", *runs, "--port", "0", "--no-open", "--jobs", str(jobs), *options]
    process = subprocess.Popen(command, cwd=folder, stderr=subprocess.PIPE, text=True, env={**os.environ})
    try:
        line = process.stderr.readline()
        while "http://" not in line:
            assert line, "the page did not start"
            line = process.stderr.readline()
        yield re.search(r"http://[\d.]+:\d+", line).group()
        process.terminate()
        assert process.wait(30) is not None
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as started:
        yield started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])


class Page:
    """What a person does on it."""

    def __init__(self, browser, url, jobs):
        self.jobs, self.errors = jobs, []
        self.page = browser.new_page(viewport={"width": 1280, "height": 1600})
        self.page.set_default_timeout(WAIT_MS)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.goto(url)
        self.panel = self.page.get_by_role("tabpanel").locator("visible=true")
        self.button("Make").wait_for()

    def tab(self, name):
        self.page.get_by_role("tab", name=name, exact=True).click()
        self.page.wait_for_timeout(300)

    def button(self, name):
        return self.page.get_by_role("button", name=name, exact=True).locator("visible=true").first

    def way(self, name):
        self.panel.get_by_label(name, exact=True).check()
        self.page.wait_for_timeout(500)

    def upload(self, *paths):
        shown = """e => { for (let n = e.parentElement; n; n = n.parentElement)
            if (getComputedStyle(n).display === 'none') return false; return true }"""
        for old in self.panel.get_by_role("button", name="Clear", exact=True).locator("visible=true").all():
            old.click()
            self.page.wait_for_timeout(300)
        for path in paths:
            fields = [field for field in self.panel.locator("input[type=file]").all() if field.evaluate(shown)]
            fields[0].set_input_files(path)
            self.page.wait_for_timeout(900)

    def number(self, label, value):
        field = self.panel.get_by_label(f"number input for {label}")
        field.fill(str(value))
        field.press("Tab")
        self.page.wait_for_timeout(300)

    def kept(self):
        """The jobs that have ended, the newest first."""
        found = [json.loads(path.read_text()) for path in self.jobs.glob("*/job.json")]
        return sorted((job for job in found if job["ended"]), key=lambda job: -job["created"])

    def make(self):
        """Press the button; the job when it has ended and its players are there."""
        before, until = len(self.kept()), time.monotonic() + WAIT_MS / 1000
        self.button("Make").click()
        while len(self.kept()) == before:
            assert time.monotonic() < until, self.panel.locator(".flowgen-status").first.inner_text()
            self.page.wait_for_timeout(100)
        self.panel.get_by_text(re.compile("Made in")).first.wait_for()
        job = self.kept()[0]
        assert job["state"] == "done", job["error"]
        return job


@pytest.fixture(scope="module")
def page(untrained_runs, browser, tmp_path_factory):
    jobs = tmp_path_factory.mktemp("ui") / "jobs"
    with served(untrained_runs, jobs) as url:
        page = Page(browser, url, jobs)
        yield page
        assert page.errors == []


@pytest.fixture(scope="module")
def clips(untrained_runs, tmp_path_factory):
    """Two of each medium, made by the command line."""
    folder = tmp_path_factory.mktemp("clips")
    for run, suffix in (("notes", ".wav"), ("moving-digits", ".mp4")):
        for seed in (1, 2):
            output = folder / f"{run}-{seed}{suffix}"
            asked = ["sample", untrained_runs / "runs" / run, "--seed", seed, "-o", output]
            done = CliRunner().invoke(cli, [str(a) for a in asked], catch_exceptions=False)
            assert done.exit_code == 0, done.output
    return folder


def test_a_new_clip_is_that_of_the_command_line(page, untrained_runs, tmp_path):
    page.tab("notes")
    page.panel.get_by_label("pitch", exact=True).first.click()
    page.page.get_by_role("option", name="C5", exact=True).click()
    job = page.make()
    assert job["asked"]["conditions"] == {"pitch": "C5"}
    made = soundfile.read(page.jobs / job["id"] / job["files"][0])[0]
    asked = [
        "sample",
        str(untrained_runs / "runs" / "notes"),
        "-c",
        "pitch=C5",
        "-o",
        str(tmp_path / "a.wav"),
    ]
    assert CliRunner().invoke(cli, asked, catch_exceptions=False).exit_code == 0
    assert np.abs(made - soundfile.read(tmp_path / "a.wav")[0]).max() <= 1.5 / 32768
    playing = "() => [...document.querySelectorAll('audio')].some(a => a.duration > 0.4 && a.readyState > 0)"
    waves = page.panel.locator(".flowgen-made").first
    assert "pitch C5" in waves.inner_text()
    page.page.wait_for_function(f"({playing})() || document.querySelector('#waveform') !== null")


@pytest.mark.parametrize("run", ["notes", "moving-digits"])
def test_every_way_of_sampling(page, clips, run):
    suffix = ".wav" if run == "notes" else ".mp4"
    one, two = (clips / f"{run}-{seed}{suffix}" for seed in (1, 2))
    page.tab(run)
    for title, way, files in (
        ("Vary a clip", "vary", [one]),
        ("Continue a clip", "continue", [one]),
        ("Between two clips", "interpolate", [one, two]),
    ):
        page.way(title)
        page.upload(*files)
        job = page.make()
        assert (job["asked"]["way"], len(job["uploads"])) == (way, len(files))
    page.way("Between two clips")
    for unused in ("Seed", "Seconds"):
        assert page.panel.get_by_label(unused, exact=True).count() == 0, "it would change nothing"
    page.way("Replace a part")
    page.upload(one)
    if run == "notes":
        page.number("Replace from (s)", 0.1)
        page.number("to (s)", 0.3)
        page.panel.get_by_label(re.compile("marked from 0.1 to 0.3 s")).wait_for()
        job = page.make()
        assert (job["asked"]["start_s"], job["asked"]["end_s"]) == (0.1, 0.3)
    else:
        canvas = page.panel.locator("canvas").first
        canvas.wait_for()
        page.page.wait_for_timeout(1500)
        box, mouse = canvas.bounding_box(), page.page.mouse
        mouse.move(box["x"] + 0.4 * box["width"], box["y"] + 0.4 * box["height"])
        mouse.down()
        mouse.move(box["x"] + 0.6 * box["width"], box["y"] + 0.6 * box["height"], steps=8)
        mouse.up()
        page.page.wait_for_timeout(800)
        job = page.make()
        assert set(job["uploads"]) == {"clip", "mask"}


def test_settings_of_what_was_made_come_back_into_the_form(page, clips):
    page.tab("notes")
    page.way("Vary a clip")
    page.upload(clips / "notes-1.wav")
    page.panel.get_by_label("Seed", exact=True).fill("41")
    asked = page.make()["asked"]
    page.way("New clips")
    page.panel.get_by_label("Seed", exact=True).fill("3")
    page.button("Use these settings").click()
    page.page.wait_for_timeout(1500)
    again = page.make()["asked"]
    assert again == asked
    assert again["seed"] == 41


def test_what_is_missing_is_said_and_a_cancel_ends_it(page):
    page.tab("moving-digits")
    page.way("First and last")
    page.button("Make").click()
    page.page.get_by_text("choose a file to begin with").first.wait_for()
    page.way("New clips")
    page.number("Clips", 16)
    page.panel.get_by_text("Solver and guidance").click()
    page.number("Steps", 100)
    before = len(page.kept())
    page.button("Make").click()
    page.panel.get_by_text(re.compile(r"of \d+ steps")).first.wait_for()
    page.button("Cancel").click()
    page.panel.get_by_text("Cancelled.").first.wait_for()
    until = time.monotonic() + 30
    while len(page.kept()) == before and time.monotonic() < until:
        page.page.wait_for_timeout(100)
    assert page.kept()[0]["state"] == "cancelled"
    page.number("Clips", 1)
    page.number("Steps", 2)


def test_a_vote_writes_the_table_of_preferences(page):
    page.tab("Vote")
    page.panel.get_by_label("Second: steps").fill("1")
    page.button("Next pair").click()
    for verdict in ("Left is better", "No difference"):
        page.panel.get_by_text("Which is better?").first.wait_for()
        page.panel.get_by_text("Right", exact=True).first.wait_for()
        page.button(verdict).click()
        page.page.wait_for_timeout(500)
    page.panel.get_by_text("2 votes in preferences.csv. Which is better?").first.wait_for()
    page.button("Show the result").click()
    page.panel.get_by_text(re.compile("won . of 1 votes")).first.wait_for()
    rows = list(csv.DictReader((page.jobs.with_name("jobs-votes") / "preferences.csv").open()))
    assert [row["tie"] for row in rows] == ["no", "yes"]
    assert {rows[0]["preferred_by"], rows[0]["rejected_by"]} == {"notes", "notes steps=1"}


def test_the_data_of_a_run_are_checked(page):
    page.tab("Data")
    page.button("Check its data").click()
    page.page.wait_for_function(
        "() => [...document.querySelectorAll('textarea')].some(t => t.value.includes('batches:'))"
    )


def test_every_control_has_a_name_and_nothing_is_wider_than_a_telephone(page, browser):
    narrow = browser.new_page(viewport={"width": 390, "height": 844})
    narrow.goto(page.page.url)
    narrow.get_by_role("button", name="Make").first.wait_for()
    assert narrow.evaluate("document.documentElement.scrollWidth") <= 390
    nameless = """() => [...document.querySelectorAll('button, input, select, textarea')].filter(e => e.offsetParent
        && !(e.getAttribute('aria-label') || e.innerText || e.labels?.length || e.title)).map(e => e.outerHTML)"""
    assert narrow.evaluate(nameless) == []
    narrow.close()


def test_with_a_token_nobody_is_let_in_without_it(untrained_runs, browser, tmp_path):
    (tmp_path / "token").write_text("a-token-of-tests-0123456789")
    with served(untrained_runs, tmp_path / "jobs", "--token-file", str(tmp_path / "token")) as url:
        with pytest.raises(urllib.error.HTTPError, match="401"):
            urllib.request.urlopen(f"{url}/config")
        for password, inside in (("wrong", False), ("a-token-of-tests-0123456789", True)):
            page = browser.new_page()
            page.goto(url)
            page.get_by_label("username").fill("flowgen")
            page.get_by_label("password").fill(password)
            page.get_by_role("button", name="Login").click()
            if inside:
                page.get_by_role("button", name="Make").first.wait_for(timeout=WAIT_MS)
            else:
                page.get_by_text("Incorrect").first.wait_for(timeout=WAIT_MS)
                assert page.get_by_role("button", name="Make").count() == 0
            page.close()


def test_it_is_not_open_to_other_machines_without_a_token(untrained_runs):
    asked = ["ui", str(untrained_runs / "runs" / "notes"), "--host", "0.0.0.0", "--no-open"]
    done = CliRunner().invoke(cli, asked)
    assert "give --token-file" in str(done.exception or done.output)

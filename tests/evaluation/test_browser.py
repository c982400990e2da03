"""A browser plays what the report shows."""

from __future__ import annotations

import functools
import http.server
import json
import queue
import shutil
import subprocess
import threading
from pathlib import Path

import pytest
from click.testing import CliRunner

from flowgen.cli import cli
from flowgen.report import section, write_report
from flowgen.runs.run import Run
from tests.evaluation.pages import Page

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")]

VIDEO = """
name: clips
modality: {type: video, fps: 8, frames: 8, height: 16, width: 16, channels: 1}
data: {type: moving-digits, digit_size: 12, directions: 4}
encoder: pixels
network: {type: transformer, width: 32, depth: 1, heads: 2, patch: [2, 8, 8]}
conditions: {digit: {}}
train: {steps: 2, batch_size: 4, validation: {every: 0}, preview: {every: 0}}
sample: {steps: 2}
"""
SCRIPT = """
<script>
const media = [...document.querySelectorAll("video, audio")];
const begun = Promise.all(media.map(async m => {
  m.muted = true;
  m.loop = false;
  // without a sound card no sound ever ends: that all of it is decoded must do
  const last = m.tagName == "AUDIO" ? "canplaythrough" : "ended";
  m.preload = "auto";
  const ended = new Promise(done => {
    m.addEventListener(last, () => done(last));
    m.onerror = () => done(m.error.message);
    m.load();
  });
  if (m.tagName == "AUDIO") return {file: m.currentSrc, end: await ended, duration: m.duration};
  try { await m.play(); } catch (error) { return {error: String(error)}; }
  return {file: m.currentSrc, end: await ended, played: m.currentTime, width: m.videoWidth, duration: m.duration};
}));
begun.then(found => fetch("/verdict", {method: "POST", body: JSON.stringify(found)}));
</script>
"""


def played(page: Path) -> list[dict]:
    """What Chromium says of every sound and video of a page, each played to its end."""
    verdict: queue.Queue[list[dict]] = queue.Queue()

    class Handler(http.server.SimpleHTTPRequestHandler):
        def do_POST(self) -> None:
            verdict.put(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *arguments: object) -> None:
            pass

    page.write_text(page.read_text().replace("</body>", SCRIPT + "</body>"))
    handler = functools.partial(Handler, directory=str(page.parent))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--mute-audio", "--no-proxy-server",
                   "--autoplay-policy=no-user-gesture-required", f"--user-data-dir={page.parent / 'profile'}",
                   "--remote-debugging-port=0", f"http://127.0.0.1:{server.server_port}/{page.name}"]  # fmt: skip
        browser = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            return verdict.get(timeout=120)
        finally:
            browser.kill()
            browser.wait()
            server.shutdown()


def test_sounds(run: Path, tmp_path: Path) -> None:
    write_report(tmp_path / "report.html", [section(Run(run), tmp_path / "media", clips=2)], "clips")
    found = played(tmp_path / "report.html")
    assert len(found) >= 2
    for sound in found:
        assert sound["end"] == "canplaythrough", sound
        assert sound["duration"] == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize("suffix", [".mp4", ".webm"])
def test_videos(tmp_path: Path, suffix: str) -> None:
    (tmp_path / "clips.yaml").write_text(VIDEO)
    done = CliRunner().invoke(cli, ["train", str(tmp_path / "clips.yaml"), f"run={tmp_path / 'run'}", "--quiet"])
    assert done.exit_code == 0, done.output
    write_report(tmp_path / "report.html", [section(Run(tmp_path / "run"), tmp_path / "media", clips=2)], "clips")
    text = (tmp_path / "report.html").read_text()
    clips = [name for tag, name in Page(text).references if tag == "video"]
    assert clips
    if suffix != ".mp4":
        from flowgen_video.modality import Video

        video = Video(fps=8, frames=8, height=16, width=16, channels=1)
        for name in clips:
            path = tmp_path / name
            video.write([video.read(path)], path.with_suffix(suffix), {})
            text = text.replace(name, str(Path(name).with_suffix(suffix)))
        (tmp_path / "report.html").write_text(text)
    found = played(tmp_path / "report.html")
    assert len(found) == len(clips)
    for clip in found:
        assert clip["end"] == "ended", clip
        assert clip["file"].endswith(suffix)
        assert clip["width"] == 256
        assert clip["duration"] == pytest.approx(1.0, abs=0.1)

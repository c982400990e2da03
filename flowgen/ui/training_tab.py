"""The tab that watches training: loss, speed, memory, previews; and what its data are made of."""

from __future__ import annotations

import html
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gradio as gr
import pandas

from flowgen.report.curves import thinned
from flowgen.runs.run import Run
from flowgen.training.inspect import inspect
from flowgen.training.loggers import read_log
from flowgen.ui.parts import player
from flowgen.ui.sample_tab import told

EVERY_S = 5.0
_LOSSES = {"training": "loss", "validation": "validation/loss"}
_FIGURES = {
    "step": "step",
    "clips_per_second": "clips a second",
    "memory_gb": "memory, GB",
    "learning_rate": "learning rate",
    "gradient_norm": "gradient norm",
}


def training_tab(folders: Mapping[str, Path]) -> None:
    """Built inside of a gradio tab: follows log.jsonl and the previews of a run."""
    names = list(folders)
    run = gr.Dropdown(names, value=names[0], label="Run")
    said = gr.HTML()
    plot = gr.LinePlot(x="step", y="loss", color="of", title="Loss", height=300)
    step = gr.Dropdown(label="Previews of step")

    @gr.render(inputs=[run, step], triggers=[step.change], show_progress="hidden")
    def previews(name: str, chosen: str | None) -> None:
        for path in sorted((folders[name] / "previews" / (chosen or "-")).glob("ema*")):
            kind = {".wav": "audio", ".mp4": "video", ".png": "image"}.get(path.suffix, "")
            player(path, kind, path.stem)

    def read(name: str, chosen: str | None) -> tuple[Any, ...]:
        log = read_log(folders[name])
        steps = sorted((path.name for path in (folders[name] / "previews").glob("step-*")), reverse=True)
        kept = chosen if chosen in steps else (steps[0] if steps else None)
        return _last(log), _losses(log), gr.Dropdown(steps, value=kept)

    shown = [said, plot, step]
    run.change(read, [run, step], shown, show_progress="hidden")
    gr.Timer(EVERY_S).tick(read, [run, step], shown, show_progress="hidden")


def data_tab(folders: Mapping[str, Path]) -> None:
    """Built inside of a gradio tab: `flowgen data check` of the data of a run."""
    names = list(folders)
    run = gr.Dropdown(names, value=names[0], label="Run")
    button = gr.Button("Check its data", variant="primary")
    text = gr.Textbox(label="What was found", lines=12, interactive=False)
    sheet = gr.Image(label="Examples", interactive=False)
    table = gr.File(label="A row for every file", interactive=False)

    def check(name: str) -> tuple[Any, ...]:
        folder = Path(tempfile.mkdtemp(prefix="flowgen-check-"))
        rows, picture, lines = folder / "files.csv", folder / "examples.png", list[str]()
        with told():
            inspect(Run(folders[name]).config(), 1, rows, picture, 10, lambda line: lines.append(str(line)))
        found = "\n".join(line for line in lines if str(folder) not in line)
        return found, *(str(path) if path.is_file() else None for path in (picture, rows))

    button.click(check, run, [text, sheet, table])


def _losses(log: list[dict[str, float]]) -> pandas.DataFrame:
    rows = []
    for title, key in _LOSSES.items():
        points = [(entry["step"], entry[key]) for entry in log if key in entry]
        rows += [(step, loss, title) for step, loss in (thinned(points) if points else [])]
    return pandas.DataFrame(rows, columns=["step", "loss", "of"])


def _last(log: list[dict[str, float]]) -> str:
    if not log:
        return "<p>No log yet.</p>"
    parts = [f"{title} {log[-1][key]:,.4g}" for key, title in _FIGURES.items() if key in log[-1]]
    return f"<p role='status'>{html.escape(', '.join(parts))}</p>"

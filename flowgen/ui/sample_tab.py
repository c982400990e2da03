"""The tab of a run: its form, what is being made, and what was made."""

from __future__ import annotations

import html
import random
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gradio as gr

from flowgen.errors import FlowgenError
from flowgen.plugins.media import Media
from flowgen.plugins.registry import registry
from flowgen.serving.jobs import PREVIEW, Job
from flowgen.serving.loaded import described
from flowgen.serving.sampler import Busy, Sampler
from flowgen.ui import form
from flowgen.ui.parts import kind_of, player, upload
from flowgen.ui.pictures import drawn, first_picture, length_s, waveform

MOST_WAITING = 64
_SHOWN = 12
_LONGEST_S = 3600.0
SCALES = ("cfg", "cfg-zero-star", "cfg-rescale", "apg")


@dataclass
class SampleTab:
    """Built inside of a gradio tab.

    Args:
        name: of the run.
    """

    sampler: Sampler
    name: str
    inputs: dict[str, Any] = field(default_factory=dict)
    """Components by the names that `flowgen.ui.form.request` knows."""

    def __post_init__(self) -> None:
        generator = self.sampler.loaded.get(self.name)
        self.run = described(self.name, self.sampler.loaded)
        self.formats = dict(Media(generator.config.modality.type, generator.modality).formats)
        self.kind = kind_of(self.formats, self.run["formats"][0])
        self._build()

    # The form

    def _build(self) -> None:
        with gr.Row():
            with gr.Column(scale=2, min_width=320):
                self._form()
            with gr.Column(scale=3, min_width=320):
                self.status = gr.HTML("<p>Ready.</p>", elem_classes="flowgen-status")
                self.preview = gr.Image(label="As it is made", visible=False, interactive=False, height=240)
                self.job, self.count = gr.State(""), gr.State(0)
                self._gallery()
        self._wire()

    def _form(self) -> None:
        titles = [(form.WAYS[way].title, way) for way in self.run["ways"]]
        self.way = gr.Radio(titles, value="sample", label="What to make")
        with gr.Group():
            for one in form.fields(self.run):
                self.inputs[f"condition {one.name}"] = _condition(one)
        self.groups: dict[str, Any] = {}
        for way in self.run["ways"]:
            with gr.Column(visible=False) as group:
                self._files(way)
            self.groups[way] = group
        with gr.Row():
            self.inputs["count"] = gr.Slider(1, 16, value=1, step=1, label="Clips")
            trained = self.run["seconds"]
            self.inputs["seconds"] = gr.Textbox(
                label="Seconds", placeholder=f"{trained:g}, as trained" if trained else "", visible=trained is not None
            )
        with gr.Row(equal_height=True):
            self.inputs["seed"] = gr.Textbox("0", label="Seed", scale=4)
            self.die = gr.Button("Roll a seed", size="sm", scale=0, min_width=90)
        for name in self.run["adapters"]:
            label = f"Adapter {name}: weight"
            self.inputs[f"adapter {name}"] = gr.Slider(-1, 2, value=0, step=0.05, label=label, info="0: not used")
        with gr.Accordion("Solver and guidance", open=False):
            self._settings()
        with gr.Row():
            self.make = gr.Button("Make", variant="primary")
            self.cancel = gr.Button("Cancel")

    def _files(self, way: str) -> None:
        used = form.WAYS[way]
        for name, label in used.files.items():
            self.inputs[f"{way} {name}"] = upload(self.kind, label, pictures=way == "animate")
        if "strength" in used.uses:
            self.inputs["strength"] = gr.Slider(0.05, 1, value=0.5, step=0.05, label="Strength: how much may change")
        if "stream" in used.uses:
            self.inputs["stream"] = gr.Radio(
                self.run["streams"], value=self.run["streams"][0], label="Stream that is given"
            )
            self.inputs["stream file"] = gr.File(label="File with that stream", type="filepath")
        if "part" in used.uses:
            with gr.Row():
                self.inputs["start_s"] = gr.Slider(0, 1, value=0, step=0.01, label="Replace from (s)")
                self.inputs["end_s"] = gr.Slider(0, 1, value=0, step=0.01, label="to (s)")
            self.marked = gr.HTML(visible=self.kind == "audio", label="Marked")
            self.drawing = gr.ImageEditor(
                label="Or draw on the picture what to replace",
                visible=self.kind == "video",
                sources=[],
                transforms=[],
                brush=gr.Brush(colors=["#f97316"], default_size=40),
                type="numpy",
                layers=False,
                height=420,
            )

    def _settings(self) -> None:
        own = self.run["settings"]
        steps = [form.NEWEST, *map(str, reversed(self.run["steps"]))]
        self.inputs["step"] = gr.Dropdown(steps, value=form.NEWEST, label="Checkpoint of step", visible=len(steps) > 2)
        self.inputs["steps"] = gr.Slider(1, 100, value=own["steps"], step=1, label="Steps")
        solvers = sorted(registry().names("solver"))
        self.inputs["solver"] = gr.Dropdown(solvers, value=own["solver"]["type"], label="Solver")
        conditions = form.fields(self.run)
        kinds = [form.OWN, form.OFF, *SCALES, *([form.EACH] if len(conditions) > 1 else [])]
        self.inputs["guidance"] = gr.Dropdown(kinds, value=form.OWN, label="Guidance", interactive=bool(conditions))
        self.inputs["scale"] = gr.Slider(0, 10, value=2, step=0.1, label="Scale of guidance", visible=False)
        self.scales = []
        for one in conditions:
            slider = gr.Slider(0, 10, value=2, step=0.1, label=f"Scale of {one.name}", visible=False)
            self.inputs[f"scale {one.name}"] = slider
            self.scales.append(slider)

    # What happens

    def _wire(self) -> None:
        used = [self.inputs[name] for name in ("count", "seconds", "seed", "guidance")]
        self.way.change(self._shown, self.way, [*self.groups.values(), *used], show_progress="hidden")
        self.die.click(lambda: str(random.randrange(10**6)), None, self.inputs["seed"], show_progress="hidden")
        self.inputs["guidance"].change(
            self._shown_scales, self.inputs["guidance"], [self.inputs["scale"], *self.scales], show_progress="hidden"
        )
        self._wire_part()
        every = {self.way, *self.inputs.values()} | ({self.drawing} if "inpaint" in self.run["ways"] else set())
        shown = [self.status, self.preview, self.job, self.count]
        self.make.click(self._make, every, shown, concurrency_limit=16, show_progress="hidden")
        self.cancel.click(self._cancel, self.job, self.status, concurrency_limit=16, show_progress="hidden")

    def _wire_part(self) -> None:
        if "inpaint" not in self.run["ways"]:
            return
        clip, start, end = (self.inputs[name] for name in ("inpaint clip", "start_s", "end_s"))
        if self.kind == "audio":
            clip.change(self._measured, clip, [start, end], show_progress="hidden")
            for each in (clip, start, end):
                each.change(self._waveform, [clip, start, end], self.marked, show_progress="hidden")
        else:
            clip.change(self._first, clip, [self.drawing, start, end], show_progress="hidden")

    def _shown(self, way: str) -> list[Any]:
        """What a way does not use is not there to be filled in."""
        drawn = way != "interpolate"
        groups = [gr.Column(visible=name == way) for name in self.groups]
        length = self.run["seconds"] is not None and "seconds" in form.WAYS[way].uses
        return [
            *groups,
            gr.Slider(visible=way != "long"),
            gr.Textbox(visible=length),
            gr.Textbox(visible=drawn),
            gr.Dropdown(visible=drawn),
        ]

    def _shown_scales(self, guidance: str) -> list[Any]:
        one, each = guidance in SCALES, guidance == form.EACH
        return [gr.Slider(visible=one), *(gr.Slider(visible=each) for _ in self.scales)]

    def _measured(self, clip: str | None) -> list[Any]:
        with told():
            longest = length_s(clip) if clip else 1.0
        return [gr.Slider(maximum=round(longest, 2), value=0) for _ in range(2)]

    def _waveform(self, clip: str | None, start_s: float, end_s: float) -> str:
        with told():
            return waveform(clip, start_s, end_s) if clip else ""

    def _first(self, clip: str | None) -> list[Any]:
        if not clip:
            return [None, gr.Slider(value=0), gr.Slider(value=0)]
        with told():
            picture = first_picture(clip)
        longest = self.run["seconds"] or 1.0
        return [picture, *(gr.Slider(maximum=round(longest, 2), value=0) for _ in range(2))]

    def _filled(self, values: Mapping[Any, Any], folder: Path) -> tuple[str, dict[str, Any]]:
        """The way, and what is filled in, under the names of the form."""
        way = values[self.way]
        filled = {name: values[component] for name, component in self.inputs.items()}
        for name in form.WAYS[way].files:
            filled[name] = filled[f"{way} {name}"]
        if way == "inpaint":
            if filled["end_s"] <= filled["start_s"]:
                filled["start_s"] = filled["end_s"] = None
            drawing = values[self.drawing]
            mask = drawn(drawing["layers"]) if drawing and drawing["layers"] else None
            if mask is not None:
                filled["mask"] = str(folder / "drawn.png")
                mask.save(filled["mask"])
        return way, filled

    def _make(self, values: dict[Any, Any]) -> Iterator[tuple[Any, ...]]:
        with tempfile.TemporaryDirectory(prefix="flowgen-ui-") as place, told():
            folder = Path(place)
            way, filled = self._filled(values, folder)
            asked, files = form.request(self.run, way, filled)
            uploads = {}
            for name, path in files.items():  # accepting moves what it is given
                uploads[name] = folder / f"{name}{Path(path).suffix}"
                shutil.copy(path, uploads[name])
            job = self.sampler.accept(asked, uploads, MOST_WAITING)
        began = time.monotonic()
        while not job.over:
            picture = self.sampler.jobs.place(job) / PREVIEW
            shown = gr.Image(str(picture), visible=True) if job.previews else gr.Image(visible=False)
            yield _progress(job, time.monotonic() - began), shown, job.id, gr.skip()
            self.sampler.jobs.wait(0.4)
            time.sleep(0.1)
        yield _ended(job), gr.Image(visible=False), "", time.time()

    def _cancel(self, id: str) -> str:
        job = self.sampler.jobs.get(id) if id else None
        if job is None:
            return "<p>Nothing is being made.</p>"
        self.sampler.jobs.change(job, state="cancelled")
        return "<p>Cancelled.</p>"

    # What was made

    def _gallery(self) -> None:
        left, right = gr.State(""), gr.State("")

        @gr.render(inputs=[left, right], triggers=[left.change, right.change], show_progress="hidden")
        def compared(left_id: str, right_id: str) -> None:
            jobs = [self.sampler.jobs.get(id) for id in (left_id, right_id) if id]
            if jobs:
                with gr.Row():
                    for job in jobs:
                        with gr.Column(min_width=260):
                            if job is not None and job.files:
                                self._entry(job)

        @gr.render(inputs=self.count, show_progress="hidden")
        def made(_: float) -> None:
            done = [job for job in self.sampler.jobs.all() if job.run == self.name and job.state == "done"]
            newest = sorted(done, key=lambda job: job.created, reverse=True)[:_SHOWN]
            if not newest:
                gr.HTML("<p>What you make appears here.</p>")
            for job in newest:
                with gr.Group():
                    self._entry(job)
                    with gr.Row():
                        again = gr.Button("Use these settings", size="sm")
                        one = gr.Button("Compare, left", size="sm")
                        other = gr.Button("Compare, right", size="sm")
                targets = [self.way, *self.inputs.values()]
                again.click(lambda job=job: self._restored(job), None, targets, show_progress="hidden")
                one.click(lambda id=job.id: id, None, left, show_progress="hidden")
                other.click(lambda id=job.id: id, None, right, show_progress="hidden")

    def _entry(self, job: Job) -> None:
        said = html.escape(form.summary(job.asked))
        gr.HTML(f"<p class='flowgen-made'>{said}</p>")
        with gr.Row():
            for i, name in enumerate(job.files):
                path = self.sampler.jobs.place(job) / name
                player(path, kind_of(self.formats, path.suffix), f"{i + 1} of {len(job.files)}")

    def _restored(self, job: Job) -> list[Any]:
        """The form as it was when a job was asked for."""
        place = self.sampler.jobs.place(job)
        files = {name: str(place / file) for name, file in job.uploads.items()}
        way = job.asked.get("way", "sample")
        filled = form.filled_from(job.asked, files, self.run)
        for name in form.WAYS[way].files:
            filled[f"{way} {name}"] = filled.get(name)
        for name in ("start_s", "end_s"):
            filled[name] = float(filled[name] or 0)
        return [way, *(filled.get(name, gr.skip()) for name in self.inputs)]


def _condition(one: form.Field) -> Any:
    if one.kind == "choice":
        return gr.Dropdown([form.NOT_GIVEN, *one.choices], value=form.NOT_GIVEN, label=one.name)
    if one.kind == "number":
        return gr.Textbox(label=one.name, placeholder=f"{one.low:g} to {one.high:g}; empty: not given")
    if one.kind == "file":
        return upload(one.file_kind, one.name)
    return gr.Textbox(label=one.name, lines=2, placeholder="empty: not given")


def _progress(job: Job, waited_s: float) -> str:
    if job.state == "queued":
        return "<p role='status'>Waiting for its turn.</p>"
    share = job.done_steps / job.steps if job.steps else 0.0
    left = f", {waited_s / share - waited_s:.0f} s left" if share > 0 else ""
    bar = f"<progress max='1' value='{share:.3f}' aria-label='progress'></progress>"
    return f"<p role='status'>{bar} {job.done_steps} of {job.steps} steps{left}</p>"


def _ended(job: Job) -> str:
    if job.state == "failed":
        return f"<p role='status'>{html.escape(job.error)}</p>"
    if job.state == "cancelled":
        return "<p role='status'>Cancelled.</p>"
    return f"<p role='status'>Made in {job.seconds:.1f} s.</p>"


class told:
    """What is wrong with what was asked for is said on the page."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, FlowgenError):
            raise gr.Error(str(error), title="This cannot be made", print_exception=False) from None
        if isinstance(error, Busy):
            raise gr.Error("too much is waiting already; try again when some is made", print_exception=False) from None

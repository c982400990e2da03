"""The tab of the blind vote: two runs or settings, pairs whose order is hidden, and who won."""

from __future__ import annotations

import html
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from flowgen.errors import FlowgenError, UsageError
from flowgen.plugins.media import Media
from flowgen.plugins.registry import registry
from flowgen.serving.jobs import Job
from flowgen.serving.loaded import described
from flowgen.serving.sampler import Sampler
from flowgen.ui import form
from flowgen.ui.parts import kind_of, player
from flowgen.ui.sample_tab import MOST_WAITING, SCALES, told
from flowgen.ui.votes import Ballot, Pair, Side, Verdict, drawn_conditions


@dataclass
class VoteTab:
    """Built inside of a gradio tab.

    Args:
        names: of the runs that can be sampled.
    """

    sampler: Sampler
    ballot: Ballot
    names: Sequence[str]

    def __post_init__(self) -> None:
        with gr.Row():
            first = self._side("First", self.names[0])
            second = self._side("Second", self.names[0])
        texts = gr.Textbox(label="Sentences for conditions that are text, one a line", lines=2)
        start = gr.Button("Next pair", variant="primary")
        status = gr.HTML("<p>Choose the two, and ask for a pair. Which is which is not shown.</p>")
        pair = gr.State(None)

        @gr.render(inputs=pair, show_progress="hidden")
        def shown(now: Pair | None) -> None:
            if now is not None:
                said = html.escape(", ".join(f"{k} {v}" for k, v in now.conditions.items()))
                gr.HTML(f"<p>Asked for: {said or 'anything'}</p>")
                with gr.Row():
                    for title, (_, path) in (("Left", now.left), ("Right", now.right)):
                        player(path, kind_of(self._formats(), path.suffix), title)

        with gr.Row():
            buttons: dict[Verdict, Any] = {
                "left": gr.Button("Left is better"),
                "tie": gr.Button("No difference"),
                "right": gr.Button("Right is better"),
            }
        show = gr.Button("Show the result")
        sides = [*first, *second]
        start.click(self._next, [texts, *sides], [pair, status], concurrency_limit=16, show_progress="hidden")
        for verdict, button in buttons.items():
            voted = button.click(
                lambda now, verdict=verdict: self._vote(now, verdict), pair, [pair, status], show_progress="hidden"
            )
            voted.success(self._next, [texts, *sides], [pair, status], concurrency_limit=16, show_progress="hidden")
        show.click(self._result, sides, status, show_progress="hidden")

    def _side(self, title: str, run: str) -> list[Any]:
        with gr.Column(min_width=280), gr.Group():
            return [
                gr.Dropdown(list(self.names), value=run, label=f"{title}: run"),
                gr.Textbox(label=f"{title}: steps", placeholder="as the run"),
                gr.Dropdown([form.OWN, *sorted(registry().names("solver"))], value=form.OWN, label=f"{title}: solver"),
                gr.Dropdown([form.OWN, form.OFF, *SCALES], value=form.OWN, label=f"{title}: guidance"),
                gr.Slider(0, 10, value=2, step=0.1, label=f"{title}: scale, where a guidance is chosen"),
            ]

    def _formats(self) -> dict[str, str]:
        found: dict[str, str] = {}
        for name in self.names:
            generator = self.sampler.loaded.get(name)
            found |= Media(generator.config.modality.type, generator.modality).formats
        return found

    def _two(self, values: tuple[Any, ...]) -> tuple[Side, Side]:
        sides = []
        for run, steps, solver, guidance, scale in (values[:5], values[5:]):
            chosen = {"steps": steps, "solver": solver, "guidance": guidance, "scale": scale}
            sides.append(Side(run, {k: "" if v == form.OWN and k == "solver" else v for k, v in chosen.items()}))
        if sides[0].label == sides[1].label:
            raise UsageError(
                "both sides are the same; choose another run, or other steps, solver or guidance for one of them"
            )
        return sides[0], sides[1]

    def _next(self, texts: str, *values: Any) -> Iterator[tuple[Any, str]]:
        with told():
            sides = self._two(values)
            runs = [described(side.run, self.sampler.loaded) for side in sides]
            if runs[0]["modality"] != runs[1]["modality"]:
                raise UsageError(f"{sides[0].run} makes {runs[0]['modality']} and {sides[1].run} {runs[1]['modality']}")
            chance = random.Random()
            seed = chance.randrange(10**9)
            common = [line for line in texts.splitlines() if line.strip()]
            conditions = drawn_conditions(runs[0], common, chance)
            jobs = []
            for side, run in zip(sides, runs, strict=True):
                filled = {
                    "count": 1,
                    "seed": seed,
                    **side.filled,
                    **{f"condition {k}": v for k, v in conditions.items()},
                }
                asked, _ = form.request(run, "sample", filled)
                jobs.append(self.sampler.accept(asked, {}, MOST_WAITING))
        while not all(job.over for job in jobs):
            yield gr.skip(), "<p role='status'>Making a pair.</p>"
            self.sampler.jobs.wait(0.5)
        with told():
            ends = [(side.label, self._file(job)) for side, job in zip(sides, jobs, strict=True)]
        chance.shuffle(ends)
        yield Pair(ends[0], ends[1], conditions, seed), f"<p role='status'>{self._count()}. Which is better?</p>"

    def _file(self, job: Job) -> Path:
        if job.state != "done":
            raise FlowgenError(job.error or "it was cancelled")
        return self.sampler.jobs.place(job) / job.files[0]

    def _vote(self, now: Pair | None, verdict: Verdict) -> tuple[Any, str]:
        if now is None:
            raise gr.Error("there is no pair to vote on; ask for one", print_exception=False)
        with told():
            self.ballot.record(now, verdict)
        return None, f"<p role='status'>{self._count()}.</p>"

    def _count(self) -> str:
        return f"{len(self.ballot.rows())} votes in {self.ballot.table.name}"

    def _result(self, *values: Any) -> str:
        with told():
            first, second = self._two(values)
            return f"<p role='status'>{html.escape(self.ballot.result(first.label, second.label))}</p>"

"""The page as a whole."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import gradio as gr
from fastapi import FastAPI
from starlette.concurrency import run_in_threadpool

from flowgen.runs.run import Run
from flowgen.serving.gate import Gate
from flowgen.serving.sampler import Sampler
from flowgen.ui.sample_tab import SampleTab
from flowgen.ui.training_tab import data_tab, training_tab
from flowgen.ui.vote_tab import VoteTab
from flowgen.ui.votes import Ballot

MOST_BYTES, PATIENCE_S = 256_000_000, 10.0
CSS = """
.flowgen-status progress { width: 12em; vertical-align: middle }
.flowgen-status p, .flowgen-made { margin: .2em .4em }
"""


def make_app(sampler: Sampler, token: str | None) -> Any:
    """The ASGI application of the page of a sampler's runs. It starts the sampler, and stops it when the server stops.

    token: the password of the user `flowgen`; None: this machine alone may ask.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        sampler.start()
        yield
        await run_in_threadpool(sampler.stop, PATIENCE_S)

    app = FastAPI(lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None)
    auth = None if token is None else ("flowgen", token)
    folders = [sampler.jobs.folder, *(path / "previews" for path in sampler.loaded.folders.values())]
    mounted = gr.mount_gradio_app(
        app,
        page(sampler),
        "/",
        auth=auth,
        allowed_paths=[str(path.resolve()) for path in folders],
        css=CSS,
        show_error=False,
        footer_links=["settings"],
    )
    return mounted if token else Gate(mounted, None, MOST_BYTES)


def page(sampler: Sampler) -> Any:
    """A tab for each run that can be sampled, a vote between them, and what training writes."""
    folders = sampler.loaded.folders
    trained = [name for name, folder in folders.items() if Run(folder).checkpoints()]
    with gr.Blocks(title="flowgen", analytics_enabled=False) as blocks:
        gr.Markdown("# flowgen")
        with gr.Tabs():
            for name in trained:
                with gr.Tab(name):
                    SampleTab(sampler, name)
            if trained:
                votes = sampler.jobs.folder.with_name(f"{sampler.jobs.folder.name}-votes")
                with gr.Tab("Vote"):
                    VoteTab(sampler, Ballot(votes), trained)
            with gr.Tab("Training"):
                training_tab(folders)
            with gr.Tab("Data"):
                data_tab(folders)
    return blocks

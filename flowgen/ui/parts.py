"""Players and uploads, by what a file holds."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gradio as gr


def kind_of(formats: Mapping[str, str], suffix: str) -> str:
    """audio, video or image; empty for what is no medium of its own."""
    kind = formats.get(suffix, "").partition("/")[0]
    return kind if kind in ("audio", "video", "image") else ""


def player(path: Path, kind: str, label: str) -> Any:
    """Shows a file that was made."""
    if kind == "audio":
        return gr.Audio(path, label=label, interactive=False, buttons=["download"])
    if kind == "video":
        return gr.Video(path, label=label, interactive=False, loop=True, autoplay=True, height=220)
    if kind == "image":
        return gr.Image(str(path), label=label, interactive=False, height=260)
    return gr.File(str(path), label=label, interactive=False)


def upload(kind: str, label: str, pictures: bool = False) -> Any:
    """Takes a file. pictures: of a film a picture is enough."""
    if kind == "audio":
        return gr.Audio(label=label, type="filepath", sources=["upload", "microphone"], buttons=[])
    if kind == "video" and not pictures:
        return gr.Video(label=label, sources=["upload"], height=220)
    return gr.File(label=label, file_types=["image", "video"] if kind == "video" else None, type="filepath")

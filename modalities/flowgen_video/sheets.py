"""Contact sheets: one row a clip, its frames from left to right."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from flowgen.errors import FlowgenError
from flowgen.files import replacing
from flowgen.media.clip import Clip

_GAP = 4
_TEXT = 14
_PAPER, _INK = (250, 250, 248), (40, 40, 40)


def write_sheet(clips: Sequence[Clip], path: Path, captions: Sequence[str] = (), columns: int = 12) -> None:
    """A PNG with a row for each clip: at most `columns` of its frames, evenly spread, under its caption."""
    if not clips:
        raise FlowgenError(f"{path}: no clips to show")
    rows = [_spread(clip.data, columns) for clip in clips]  # type: ignore[arg-type]
    height, width = (max(row.shape[i] for row in rows) for i in (1, 2))
    enlarge = max(1, math.ceil(64 / min(height, width)))
    tall, wide = height * enlarge, width * enlarge
    head = _TEXT + 6 if captions else 0
    sheet = Image.new(
        "RGB",
        (_GAP + max(len(row) for row in rows) * (wide + _GAP), _GAP + len(rows) * (head + tall + _GAP)),
        _PAPER,
    )
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(_TEXT)
    for i, row in enumerate(rows):
        top = _GAP + i * (head + tall + _GAP)
        if i < len(captions):
            draw.text((_GAP, top), _fitting(captions[i], font, sheet.width - 2 * _GAP), fill=_INK, font=font)
        for j, frame in enumerate(row):
            picture = Image.fromarray(frame.expand(-1, -1, 3).contiguous().numpy())
            picture = picture.resize((picture.width * enlarge, picture.height * enlarge), Image.Resampling.NEAREST)
            sheet.paste(picture, (_GAP + j * (wide + _GAP), top + head))
    with replacing(path) as temporary:
        sheet.save(temporary, format="PNG")


def _spread(frames: Tensor, columns: int) -> Tensor:
    if len(frames) <= columns:
        return frames
    return frames[torch.linspace(0, len(frames) - 1, columns).round().long()]


def _fitting(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> str:
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "...") > width:
        text = text[:-1]
    return text + "..."

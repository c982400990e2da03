"""A modality reads, writes and shows clips."""

from __future__ import annotations

import contextlib
import json
import pickle
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from flowgen.core.tree import leaves, tree_map
from flowgen.errors import FlowgenError
from flowgen.media.clip import Clip
from flowgen.testing.contract import NotApplicable, checks_for
from flowgen.testing.pickles import unpickled
from flowgen.testing.subject import Subject, distance, shapes

check = checks_for("modality")

_WORD = "conformance-mark-7a1"
_METADATA = {"mark": _WORD, "seed": 7, "steps": 16, "conditions": {"a": "b"}, "guidance": None}


def _folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="conformance-")


def _written(s: Subject, folder: str, suffix: str) -> Path:
    path = Path(folder) / f"clip{suffix}"
    s.modality.write(s.clips[:1] if s.modality.clips_per_file else s.many, path, _METADATA)
    return path


@check(
    "formats maps file extensions such as '.wav' to media types, and clips_per_file is 1 or None",
    see="modality",
)
def formats_are_declared(s: Subject) -> str | None:
    if not s.modality.formats:
        return "formats is empty"
    for suffix, media_type in s.modality.formats.items():
        if not suffix.startswith(".") or suffix != suffix.lower() or media_type.count("/") != 1:
            return f"formats has the entry {suffix!r}: {media_type!r}"
    if s.modality.clips_per_file not in (1, None):
        return f"clips_per_file is {s.modality.clips_per_file!r}"
    return None


@check("a clip that is written and read back is the clip, up to what the format loses", see="modality")
def clip_is_written_and_read_back(s: Subject) -> str | None:
    with _folder() as folder:
        for i, suffix in enumerate(s.modality.formats):
            path = _written(s, folder, suffix)
            if not path.is_file() or not path.stat().st_size:
                return f"write made no file for {suffix!r}"
            if s.modality.clips_per_file is None:
                continue  # a picture of many clips is not read back
            clip, back = s.clips[0], s.modality.read(path)
            if i == 0 and (shapes(back.data) != shapes(clip.data) or back.rate != clip.rate):
                return (
                    f"a clip of shape {shapes(clip.data)} at rate {clip.rate} comes back from {suffix!r} "
                    f"as {shapes(back.data)} at rate {back.rate}"
                )
            if shapes(back.data) != shapes(clip.data):
                continue  # a lossy format may pad
            off = distance(s.encode([back]).x, s.encode([clip]).x)
            if i == 0 and off > s.tolerances.file:
                return f"the latents of a clip read back from {suffix!r} are off by {off:.3f} (at most {s.tolerances.file})"
    return None


@check("write embeds the metadata in the file, so that a clip tells how it was made", see="modality")
def metadata_is_embedded(s: Subject) -> str | None:
    with _folder() as folder:
        for i, (suffix, media_type) in enumerate(s.modality.formats.items()):
            if i and media_type == "application/octet-stream":
                continue  # bare numbers, for programs
            data = _written(s, folder, suffix).read_bytes()
            if not any(_WORD.encode(code) in data for code in ("utf-8", "utf-16-le", "utf-16-be")):
                return f"a {suffix} file written with metadata {json.dumps(_METADATA)} does not hold {_WORD!r}"
    return None


@check("sheet draws one PNG that shows the clips", see="modality")
def sheet_shows_the_clips(s: Subject) -> str | None:
    with _folder() as folder:
        first, other = Path(folder) / "a.png", Path(folder) / "b.png"
        s.modality.sheet(s.many[:4], first, [f"clip {i}" for i in range(len(s.many[:4]))])
        if not first.is_file() or not first.read_bytes().startswith(b"\x89PNG"):
            return "sheet made no PNG"
        silent = [Clip(tree_map(torch.zeros_like, c.data), c.rate) for c in s.many[:4]]
        s.modality.sheet(silent, other, [f"clip {i}" for i in range(len(silent))])
        if first.read_bytes() == other.read_bytes():
            return "the sheet of real clips equals that of zeros"
    return None


@check("a file that cannot be read is a FlowgenError that names it", see="modality")
def unreadable_file_is_refused(s: Subject) -> str | None:
    with _folder() as folder:
        for suffix in s.modality.formats:
            broken = Path(folder) / f"broken{suffix}"
            broken.write_bytes(b"this is no media file\n" * 40)
            for path in (broken, Path(folder) / f"missing{suffix}"):
                try:
                    s.modality.read(path)
                except FlowgenError as error:
                    if path.name not in str(error):
                        return f"the error for {path.name} does not name it: {error}"
                except Exception as error:
                    return f"reading {path.name} raised {type(error).__name__}: {error}"
                else:
                    return f"reading {path.name} gave a clip"
    return None


class _Bomb:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.mark,)


@check("nothing is unpickled: a file of a stranger must not be able to run code", see="no-pickles")
def nothing_is_unpickled(s: Subject) -> str | None:
    unpickled()
    writers: dict[str, Callable[[Path, _Bomb], object]] = {
        "a pickle": lambda path, bomb: path.write_bytes(pickle.dumps(bomb)),
        "an array of objects": lambda path, bomb: np.save(path.open("wb"), np.array([bomb]), allow_pickle=True),
        "a file of torch.save": lambda path, bomb: torch.save(bomb, path),
    }
    with _folder() as folder:
        for suffix in s.modality.formats:
            for what, write in writers.items():
                path, mark = Path(folder) / f"bomb{suffix}", Path(folder) / "it-went-off"
                write(path, _Bomb(mark))
                with contextlib.suppress(Exception):  # however it is refused: `unreadable_file_is_refused` judges that
                    s.modality.read(path)
                if mark.exists():
                    return f"reading {what} named {path.name} ran the code in it"
    # what is cached in this process was unpickled before; a part built anew shows what it does
    fresh = Subject(s.written, s.tolerances)
    fresh.encode(fresh.clips)
    for who, classes in unpickled().items():
        return f"{who} unpickled {', '.join(classes[:3])}"
    return None


@check("clips are tensors of finite numbers with a positive rate", see="clips")
def clips_are_tensors(s: Subject) -> str | None:
    for clip in s.clips:
        for leaf in leaves(clip.data):
            if not isinstance(leaf, torch.Tensor):
                return f"the data of {clip.source or 'a clip'} is {type(leaf).__name__}"
            if leaf.device.type != "cpu" or not torch.isfinite(leaf.float()).all():
                return f"the data of {clip.source or 'a clip'} is not finite, or not on the CPU"
        if any(not rate > 0 for rate in leaves(clip.rate)):
            return f"the rate of {clip.source or 'a clip'} is {clip.rate}"
    if not s.clips:
        raise NotApplicable("there are no clips")
    return None

"""A modality reads, writes and shows clips."""

from __future__ import annotations

import contextlib
import json
import pickle
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch

from flowgen.core.tree import State, leaves, tree_map
from flowgen.errors import FlowgenError
from flowgen.media.clip import Clip
from flowgen.media.interfaces import TimedModality
from flowgen.testing.checks.files import open_files, written_whole
from flowgen.testing.contract import NotApplicable, checks_for
from flowgen.testing.pickles import unpickled
from flowgen.testing.subject import Subject, copied, distance, first_changed, shapes

check = checks_for("modality")

_WORD = "conformance-mark-7a1"
_METADATA = {"mark": _WORD, "seed": 7, "steps": 16, "conditions": {"a": "b"}, "guidance": None}


def _folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="conformance-")


def _write(s: Subject, clips: Sequence[Clip], path: Path) -> None:
    s.modality.write(clips, path, _METADATA)


def _written(s: Subject, folder: str, suffix: str) -> Path:
    path = Path(folder) / f"clip{suffix}"
    s.modality.write(s.clips[:1] if s.modality.clips_per_file else s.many, path, _METADATA)
    return path


@check("clips are tensors of finite numbers with a positive rate", see="clips", basic=True)
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


@check("reading, writing and drawing leave clips as they are", see="modality", basic=True)
def modality_leaves_clips_alone(s: Subject) -> str | None:
    clips = [copied(clip) for clip in s.many[:4]]
    with _folder() as folder:
        for suffix in s.modality.formats:
            shown = clips[:1] if s.modality.clips_per_file else clips
            s.modality.write(shown, Path(folder) / f"clip{suffix}", _METADATA)
            if changed := first_changed(shown, s.many):
                return f"write for {suffix!r} changes {changed} in place"
        s.modality.sheet(clips, Path(folder) / "sheet.png", ["a"] * len(clips))
    if changed := first_changed(clips, s.many):
        return f"sheet changes {changed} in place"
    return None


@check(
    "a file is there whole or not at all: write and sheet put it in the place of the one before when it is done",
    see="modality",
)
def files_are_written_whole(s: Subject) -> str | None:
    for suffix in s.modality.formats:
        clips = s.clips[:1] if s.modality.clips_per_file else s.many
        seen = written_whole(suffix, partial(_write, s, clips))
        if seen:
            return f"write: {seen}"
    seen = written_whole(".png", lambda path: s.modality.sheet(s.many[:2], path, ["a", "b"]))
    return f"sheet: {seen}" if seen else None


@check("no file stays open once it was read or written", see="modality")
def files_are_closed(s: Subject) -> str | None:
    with _folder() as folder:
        for suffix in s.modality.formats:
            path = _written(s, folder, suffix)
            broken = Path(folder) / f"broken{suffix}"
            broken.write_bytes(b"this is no media file\n" * 40)
            for name in (path, broken):
                with contextlib.suppress(Exception):  # `unreadable_file_is_refused` judges that
                    s.modality.read(name)
        s.modality.sheet(s.many[:2], Path(folder) / "sheet.png", ["a", "b"])
        left = open_files(Path(folder).resolve())
    return f"{left[0]} is still open" if left else None


@check(
    "a file of sound or moving pictures plays as long as its clip: its rate is the clip's",
    see="modality",
    needs=(clip_is_written_and_read_back,),
)
def file_lasts_as_long_as_its_clip(s: Subject) -> str | None:
    if not isinstance(s.modality, TimedModality):
        raise NotApplicable("the modality does not say how long a clip is")
    timed = {k: v for k, v in s.modality.formats.items() if v.startswith(("audio/", "video/"))}
    if not timed:
        raise NotApplicable("its files are neither sound nor moving pictures")
    expected = s.modality.seconds(s.clips[0])
    with _folder() as folder:
        for suffix in timed:
            lasts = _duration(_written(s, folder, suffix))
            if lasts is None:
                continue
            if abs(lasts - expected) > max(0.1 * expected, 0.15):  # lossy formats pad by some hundredths of a second
                return f"a clip of {expected:.3g} s makes a {suffix!r} file that plays {lasts:.3g} s"
    return None


def _duration(path: Path) -> float | None:
    """How long a file plays, as another program sees it; None where it does not say."""
    import av

    with av.open(str(path)) as container:
        stream: Any = container.streams[0]
        if stream.duration is not None and stream.time_base is not None:
            return float(stream.duration * stream.time_base)
        return None if container.duration is None else container.duration / 1e6


@check(
    "parts that `cut` takes meet without a step lost or doubled: `join` puts them together again, and their lengths add up",
    see="modality",
    needs=(modality_leaves_clips_alone,),
)
def cuts_meet(s: Subject) -> str | None:
    if not isinstance(s.modality, TimedModality):
        raise NotApplicable("the modality does not say how long a clip is")
    clip = s.clips[0]
    whole = s.modality.seconds(clip)
    for places in ([0.5], [0.25, 0.75], [0.123, 0.377, 0.801]):
        ends = [0.0, *(share * whole for share in places), whole]
        parts = [s.modality.cut(clip, a, b) for a, b in pairwise(ends)]
        back = s.modality.join(parts)
        where = ", ".join(f"{end:.3g}" for end in ends[1:-1])
        if shapes(back.data) != shapes(clip.data):
            return f"a clip of shape {shapes(clip.data)}, cut at {where} s and joined, has shape {shapes(back.data)}"
        if any(not torch.equal(a, b) for a, b in zip(leaves(back.data), leaves(clip.data), strict=True)):
            return f"cut at {where} s and joined, a clip is another"
        total = sum(s.modality.seconds(part) for part in parts)
        if abs(total - whole) > 1e-6 * (1 + whole):
            return f"a clip of {whole:.4g} s, cut at {where} s, is {total:.4g} s long"
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


@check("the sheet shows every clip", see="modality", needs=(sheet_shows_the_clips,))
def sheet_shows_every_clip(s: Subject) -> str | None:
    shown, others = s.many[:3], s.many[3:]
    if not others:
        raise NotApplicable("the data set has fewer than 4 clips")
    with _folder() as folder:
        path = Path(folder) / "sheet.png"

        def drawn(clips: list[Clip]) -> bytes:
            s.modality.sheet(clips, path, [f"clip {i}" for i in range(len(clips))])
            return path.read_bytes()

        first = drawn(shown)
        for i, clip in enumerate(shown):
            other = next((o for o in others if distance(_comparable(o, clip), clip.data) > 0.01), None)
            if other is not None and drawn([*shown[:i], other, *shown[i + 1 :]]) == first:
                return f"the sheet of {len(shown)} clips stays as it is when clip {i} is another"
    return None


def _comparable(clip: Clip, like: Clip) -> State:
    """The data of a clip, as numbers; of another size than `like`, twice those of `like`: that is as far off."""
    if shapes(clip.data) == shapes(like.data):
        return clip.data
    return tree_map(lambda leaf: 2 * leaf + 1, like.data)


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
    # what is cached in this process was unpickled before; a part built again shows what it does
    fresh = Subject(s.written, s.tolerances)
    fresh.encode(fresh.clips)
    for who, classes in unpickled().items():
        return f"{who} unpickled {', '.join(classes[:3])}"
    return None

"""A folder of recordings: labels from the names of files or of folders."""

from __future__ import annotations

import re
from pathlib import Path

from flowgen.errors import UsageError, unknown
from flowgen_audio.modality import Audio
from flowgen_audio.recordings import Checks, ConditionType, Recording, Recordings

SUFFIXES = (
    ".wav", ".flac", ".mp3", ".ogg", ".opus", ".m4a", ".aac", ".aif", ".aiff", ".mp4", ".mkv", ".webm", ".mov"
)  # fmt: skip


class AudioFolder(Recordings):
    """Every sound file below `folder`.

    Args:
        folder: relative to where the command runs.
        pattern: a regular expression with named groups that a file's path below `folder`, without its extension, must
            match whole; each group is a label. Without it, files in sub-folders have one label, "label", the name of
            their folder.
        conditions: the labels that are conditions, by type (class, number or text); all of them, as classes, where
            left out.
        held_out: labels whose recordings are for validation, as in {take: ["0", "1"]}.
        validation_share: the share that is held out where `held_out` is empty.
        max_bad_share: more unusable files than this share stop the run.
        silence_db: a file in which nothing is louder is silent, and left out (decibels below full scale).
        min_duration_s: what is shorter is left out.
        loudness: bring every recording to this loudness (LUFS, such as -20).
        pad: fill clips up to modality.duration_s with silence; otherwise they have their true length.
        duration_condition: give the length in seconds as a condition, "duration".
        reference_by: a label, as in speaker: give each clip the condition "reference", another recording that has the same
            label, to learn to sound like a recording.
        buckets: batch clips with others of about their length, in so many groups of equally many clips (0: as they come).
            A batch of short clips has more of them, so that it costs what train.batch_size clips of full length cost.
    """

    def __init__(
        self,
        modality: Audio,
        folder: str,
        pattern: str | None = None,
        conditions: dict[str, ConditionType] | None = None,
        held_out: dict[str, tuple[str, ...]] | None = None,
        validation_share: float = 0.1,
        max_bad_share: float = 0.02,
        silence_db: float = -60.0,
        min_duration_s: float = 0.05,
        loudness: float | None = None,
        pad: bool = False,
        duration_condition: bool = False,
        reference_by: str | None = None,
        buckets: int = 0,
    ) -> None:
        recordings, labels = _find(Path(folder), pattern)
        kinds = dict.fromkeys(labels, "class") if conditions is None else conditions
        for key, names in (
            ("conditions", kinds),
            ("held_out", held_out or {}),
            ("reference_by", [reference_by] if reference_by else []),
        ):
            for name in names:
                if name not in labels:
                    raise UsageError(f"data.{key}: {unknown('label', name, labels)}")
        super().__init__(
            modality,
            recordings,
            kinds,  # type: ignore[arg-type]
            held_out or {},
            validation_share,
            Checks(max_bad_share, silence_db, min_duration_s),
            loudness=loudness,
            pad=pad,
            duration_condition=duration_condition,
            reference_by=reference_by,
            buckets=buckets,
            where=folder,
        )


def _find(folder: Path, pattern: str | None) -> tuple[list[Recording], list[str]]:
    """The recordings below a folder in the order of their names, and the names of their labels."""
    if not folder.is_dir():
        raise UsageError(f"data.folder: {folder} is no folder; give the folder that holds the recordings")
    files = sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES and not p.name.startswith("."))
    if not files:
        raise UsageError(f"data.folder: {folder} holds no sound files (looked for {', '.join(SUFFIXES)})")
    if pattern is None:
        nested = [p for p in files if p.parent != folder]
        if not nested:
            return [Recording(p) for p in files], []
        if len(nested) < len(files):
            raise UsageError(
                f"data.folder: {folder} has files beside its sub-folders, such as {(set(files) - set(nested)).pop().name}; "
                f"sort them into folders, or give data.pattern"
            )
        return [Recording(p, {"label": p.parent.relative_to(folder).as_posix()}) for p in files], ["label"]
    try:
        expression = re.compile(pattern)
    except re.error as error:
        raise UsageError(f"data.pattern: {pattern!r} is no regular expression ({error})") from None
    matches = {p: expression.fullmatch(p.relative_to(folder).with_suffix("").as_posix()) for p in files}
    strangers = [p for p, match in matches.items() if match is None]
    if strangers:
        raise UsageError(
            f"data.pattern: {len(strangers)} of {len(files)} files do not match {pattern!r}, the first being "
            f"{strangers[0].relative_to(folder)}; change the pattern or move them away"
        )
    return [Recording(p, m.groupdict()) for p, m in matches.items() if m], list(expression.groupindex)

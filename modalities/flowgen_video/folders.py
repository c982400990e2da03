"""A folder of video files as a data set."""

from __future__ import annotations

from pathlib import Path

from flowgen.errors import UsageError
from flowgen_video.modality import Video
from flowgen_video.reading import IMAGE_SUFFIXES, VIDEO_SUFFIXES
from flowgen_video.recordings import Kind, Recording, Recordings, Windows, split


class VideoFolder(Recordings):
    """Every video file below a folder, and every folder of numbered pictures.

    Where the files lie in sub-folders, the first one's name is the condition `label`; where each has a text file of the
    same name beside it, that is the condition `caption`.

    Args:
        folder: where to look.
        held_out: the share of files that is held out for validation, chosen by name.
        stride: 0 for one clip a file and epoch, from a random place; n for one every n frames.
        tolerance: frames that a file may be short of a clip.
        cache: keep decoded frames in memory, which is faster where they fit.
        buckets: sizes such as "8x64x64" (frames, height, width), to one of which each training clip is brought: the one where
            it loses least. Validation, previews and evaluation use the modality's own.
        max_bad_share: more unusable files than this share stop the run.

    Raises UsageError where there is no such folder or nothing in it.
    """

    def __init__(
        self,
        modality: Video,
        folder: str,
        held_out: float = 0.1,
        stride: int = 0,
        tolerance: int = 1,
        cache: bool = False,
        buckets: tuple[str, ...] = (),
        max_bad_share: float = 0.5,
    ) -> None:
        root = Path(folder).expanduser()
        if not root.is_dir():
            raise UsageError(f"data.folder: {folder!r} is not a folder")
        found = _recordings(root)
        if not found:
            raise UsageError(
                f"data.folder: no video in {folder!r} (known: {', '.join(sorted(VIDEO_SUFFIXES))}, folders of pictures)"
            )
        columns: dict[str, Kind] = {}
        for name, kind in (("label", "class"), ("caption", "text")):
            with_it = sum(name in r.values for r in found)
            if with_it == len(found):
                columns[name] = kind  # type: ignore[assignment]
            elif with_it:
                without = next(r.name for r in found if name not in r.values)
                raise UsageError(
                    f"{root}: {with_it} of {len(found)} clips have a {name}, but {without} has none; give it to all"
                )
        kept, others = split(found, held_out, str(root))
        super().__init__(
            modality,
            kept,
            others,
            columns,
            Windows(modality.frames, stride, tolerance),
            cache,
            origin=str(root),
            buckets=buckets,
            max_bad_share=max_bad_share,
        )


def _recordings(root: Path) -> list[Recording]:
    found = []
    for path in sorted(root.rglob("*")):
        if any(part.startswith(".") for part in path.relative_to(root).parts):
            continue
        is_sequence = path.is_dir() and any(p.suffix.lower() in IMAGE_SUFFIXES for p in path.iterdir())
        if is_sequence or (path.is_file() and path.suffix.lower() in VIDEO_SUFFIXES):
            name = path.relative_to(root)
            values = {"label": name.parts[0]} if len(name.parts) > 1 else {}
            text = path.parent / f"{path.name if is_sequence else path.stem}.txt"
            if text.is_file():
                values["caption"] = " ".join(text.read_text(encoding="utf-8").split())
            found.append(Recording(path, str(name), values))
    return found

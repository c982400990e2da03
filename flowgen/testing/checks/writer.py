"""A writer makes another file type of a modality."""

from __future__ import annotations

from typing import Any

from flowgen.plugins import registry
from flowgen.testing.checks.files import written_whole
from flowgen.testing.contract import COMPONENT_CHECKS, NotBuilt, checks_for
from flowgen.testing.part import Part

_WORD = "conformance-mark-7a1"

check = checks_for("writer", COMPONENT_CHECKS)


def _arguments(p: Part) -> tuple[Any, Any, str]:
    """Modality, clips and suffix."""
    modality, _, extension = p.name.partition(".")
    if not extension:
        raise NotBuilt(f"its name is {p.name!r}; expected MODALITY.EXTENSION")
    s = p.medium
    if s.config.modality.type != modality:
        raise NotBuilt(
            f"it writes {modality}, and the config at hand is of {s.config.modality.type}: give another config"
        )
    return s.modality, s.clips[:1] if s.modality.clips_per_file else s.many, f".{extension}"


@check(
    "its name is MODALITY.EXTENSION, of a modality that there is and an extension that it does not write",
    see="modality",
)
def writer_is_named_after_its_files(p: Part) -> str | None:
    modality, _, extension = p.name.partition(".")
    if modality not in registry().names("modality") or not extension or extension != extension.lower():
        return f"it is named {p.name!r}"
    return None


@check(
    "it writes one file, whole or not at all, with the metadata in it",
    see="modality",
    needs=(writer_is_named_after_its_files,),
)
def writer_writes_whole_files(p: Part) -> str | None:
    modality, clips, suffix = _arguments(p)
    if suffix in modality.formats:
        return f"the modality writes {suffix} itself"
    return written_whole(suffix, lambda path: p.target(modality, clips, path, {"mark": _WORD}), _WORD)

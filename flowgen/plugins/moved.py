"""Where the modules of flowgen 0.1 are now, for the message that a plugin written for it gets."""

from __future__ import annotations

MOVED = {
    "flowgen.contracts": "flowgen.media.interfaces",
    **{
        f"flowgen.{name}": f"flowgen.core.{name}"
        for name in (
            "couplings", "editing", "estimate", "flow", "guidance", "likelihood", "losses", "paths", "random", "rows",
            "sampler", "solvers", "times", "tree",
        )
    },
    **{
        f"flowgen.{name}": f"flowgen.media.{name}"
        for name in ("clip", "conditions", "encoder", "pictures", "pretrained", "regions", "streams", "text")
    },
    **{f"flowgen.{name}": f"flowgen.runs.{name}" for name in ("experiment", "generator", "given", "run")},
    "flowgen.data.pairs": "flowgen.runs.pairs",
}  # fmt: skip


def moved_hint(error: BaseException) -> str:
    """What to write in place of a module that has moved, or "" where `error` is about something else."""
    name = error.name or "" if isinstance(error, ImportError) else ""
    while name and name not in MOVED:
        name = name.rpartition(".")[0]
    if not name:
        return ""
    return f"; {name} is {MOVED[name]} since flowgen 0.2: install a newer version of the plugin, or change its imports"

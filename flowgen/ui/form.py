"""From what a run takes to the fields of a form, and from what is filled in to a request of `flowgen serve`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from flowgen.errors import UsageError

NOT_GIVEN = "(not given)"
NEWEST = "the newest"
OWN, OFF, EACH = "as the run", "off", "a scale for each condition"
_GUIDANCE = "multi-cfg"


@dataclass(frozen=True)
class Field:
    """A condition on the form."""

    name: str
    kind: Literal["choice", "number", "text", "file"]
    choices: tuple[str, ...] = ()
    low: float = 0.0
    high: float = 1.0
    file_kind: str = ""


@dataclass(frozen=True)
class Way:
    """A way of sampling on the form: what it is called, the files that it takes, and what else it uses."""

    title: str
    files: Mapping[str, str]
    """Label by the field of the request."""
    needed: tuple[str, ...] = ()
    uses: tuple[str, ...] = ()


WAYS = {
    "sample": Way("New clips", {}, uses=("seconds", "preview")),
    "continue": Way("Continue a clip", {"clip": "Clip to continue"}, ("clip",), ("seconds",)),
    "long": Way("A long clip", {}, uses=("seconds",)),
    "animate": Way("First and last", {"first": "Begin with", "last": "End with"}, uses=("seconds", "preview")),
    "inpaint": Way("Replace a part", {"clip": "Clip to change"}, ("clip",), ("part", "preview")),
    "vary": Way("Vary a clip", {"clip": "Clip to vary"}, ("clip",), ("strength",)),
    "interpolate": Way("Between two clips", {"a": "From", "b": "To"}, ("a", "b")),
    "given": Way("From one stream", {}, uses=("stream", "preview")),
}


def fields(run: Mapping[str, Any]) -> list[Field]:
    """The conditions of a run, as `flowgen.serving.loaded.described` tells them."""
    found = []
    for name, facts in run["conditions"].items():
        if name in run["files"]:
            found.append(Field(name, "file", file_kind=run["files"][name]))
        elif facts["type"] == "class":
            found.append(Field(name, "choice", tuple(facts["names"])))
        elif facts["type"] == "number":
            found.append(Field(name, "number", low=float(facts["low"]), high=float(facts["high"])))
        else:
            found.append(Field(name, "text"))
    return found


def request(run: Mapping[str, Any], way: str, filled: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """What to ask for, and the files by the names of their uploads.

    Args:
        filled: values by name: "condition NAME", the file fields of the way, "count", "seed", "seconds", "steps", "solver",
            "guidance", "scale", "scale NAME", "step", "adapter NAME", "start_s", "end_s", "mask", "strength", "stream", "stream file".

    UsageError: something that this way needs is missing, or no number.
    """
    used = WAYS[way]
    asked: dict[str, Any] = {"run": run["name"], "way": way}
    if way != "long":  # which is made alone
        asked["count"] = int(filled["count"])
    uploads: dict[str, str] = {}
    conditions: dict[str, Any] = {}
    for i, field in enumerate(fields(run)):
        value = filled.get(f"condition {field.name}")
        if value in (None, "", NOT_GIVEN):
            continue
        if field.kind == "file":
            uploads[f"condition-{i}"], value = value, f"condition-{i}"
        conditions[field.name] = _number(field.name, value) if field.kind == "number" else value
    if conditions:
        asked["conditions"] = conditions
    for name, label in used.files.items():
        if filled.get(name):
            uploads[name] = filled[name]
            asked[name] = name
        elif name in used.needed:
            raise UsageError(f"{label}: choose a file")
    if way == "animate" and not {"first", "last"} & uploads.keys():
        raise UsageError("choose a file to begin with, one to end with, or both")
    if "part" in used.uses:
        _part(asked, uploads, filled)
    if "stream" in used.uses:
        if not filled.get("stream file"):
            raise UsageError("choose the file that gives the stream")
        uploads["stream"], asked["given"] = filled["stream file"], {filled["stream"]: "stream"}
    if "seconds" in used.uses and filled.get("seconds") not in (None, ""):
        asked["seconds"] = _number("Seconds", filled["seconds"])
    if way == "long" and "seconds" not in asked:
        raise UsageError("Seconds: say how long the clip is to be")
    if "strength" in used.uses:
        asked["strength"] = float(filled["strength"])
    if "preview" in used.uses:
        asked["preview"] = True
    if way != "interpolate":
        asked["seed"] = _whole("Seed", filled["seed"])
    if filled.get("step", NEWEST) != NEWEST:
        asked["step"] = int(filled["step"])
    if put := {name: float(w) for name in run["adapters"] if (w := filled.get(f"adapter {name}"))}:
        asked["adapters"] = put
    if settings := _settings(run, way, filled):
        asked["settings"] = settings
    return asked, uploads


def filled_from(asked: Mapping[str, Any], files: Mapping[str, str], run: Mapping[str, Any]) -> dict[str, Any]:
    """The values with which `request` gives what was asked. `files`: by the names of their uploads."""
    filled: dict[str, Any] = {"count": asked.get("count", 1), "seed": str(asked.get("seed", 0))}
    conditions = asked.get("conditions") or {}
    for field in fields(run):
        value = conditions.get(field.name)
        value = files.get(value) if field.kind == "file" and value else value
        missing = NOT_GIVEN if field.kind == "choice" else None
        filled[f"condition {field.name}"] = missing if value is None else str(value)
    for name in ("clip", "first", "last", "a", "b", "mask"):
        filled[name] = files.get(asked[name]) if asked.get(name) else None
    for name in ("seconds", "start_s", "end_s"):
        filled[name] = "" if asked.get(name) is None else f"{asked[name]:g}"
    filled["strength"] = asked.get("strength", 0.5)
    filled["step"] = str(asked.get("step", NEWEST))
    filled |= {f"adapter {name}": (asked.get("adapters") or {}).get(name, 0.0) for name in run["adapters"]}
    for stream, name in (asked.get("given") or {}).items():
        filled["stream"], filled["stream file"] = stream, files.get(name)
    settings = {**run["settings"], **asked.get("settings", {})}
    filled["steps"], filled["solver"] = settings["steps"], settings["solver"]["type"]
    filled["guidance"] = OWN
    if "guidance" in asked.get("settings", {}):
        guidance = settings["guidance"]
        filled["guidance"] = OFF if guidance is None else EACH if guidance["type"] == _GUIDANCE else guidance["type"]
        if guidance is not None:
            filled["scale"] = guidance.get("scale", 1.0)
            filled |= {f"scale {name}": scale for name, scale in guidance.get("scales", {}).items()}
    return filled


def summary(asked: Mapping[str, Any]) -> str:
    """What was asked, in one line."""
    parts = [WAYS[asked.get("way", "sample")].title]
    parts += [f"{name} {value}" for name, value in (asked.get("conditions") or {}).items()]
    parts += [
        f"{name.removesuffix('_s')} {asked[name]:g} s" for name in ("seconds", "start_s", "end_s") if asked.get(name)
    ]
    parts += [f"strength {asked['strength']:g}"] if "strength" in asked else []
    parts += [f"seed {asked['seed']}"] if "seed" in asked else []
    parts += [f"step {asked['step']}"] if "step" in asked else []
    parts += [f"{name} at {weight:g}" for name, weight in (asked.get("adapters") or {}).items()]
    settings = asked.get("settings", {})
    parts += [f"{settings['steps']} steps"] if "steps" in settings else []
    parts += [settings["solver"]["type"]] if "solver" in settings else []
    if "guidance" in settings:
        guidance = settings["guidance"]
        scales = {} if guidance is None else guidance.get("scales", {"": guidance.get("scale", "")})
        said = " ".join(f"{name} {scale}".strip() for name, scale in scales.items())
        parts.append("no guidance" if guidance is None else f"{guidance['type']} {said}".strip())
    return ", ".join(parts)


def _part(asked: dict[str, Any], uploads: dict[str, str], filled: Mapping[str, Any]) -> None:
    """The part to replace: what is drawn, or a stretch of time."""
    times = {k: _number(k, filled[k]) for k in ("start_s", "end_s") if filled.get(k) not in (None, "")}
    if filled.get("mask"):
        if times:
            raise UsageError("mark the part by drawing or by times; empty one of them")
        uploads["mask"], asked["mask"] = filled["mask"], "mask"
    elif times:
        asked.update(times)
    else:
        raise UsageError("mark the part to replace: give a time, or draw on the picture")


def _settings(run: Mapping[str, Any], way: str, filled: Mapping[str, Any]) -> dict[str, Any]:
    """What differs from the run's own."""
    own = run["settings"]
    settings: dict[str, Any] = {}
    if filled.get("steps") and (steps := _whole("Steps", filled["steps"])) != own["steps"]:
        settings["steps"] = steps
    if filled.get("solver") and filled["solver"] != own["solver"]["type"]:
        settings["solver"] = {"type": filled["solver"]}
    kind = filled.get("guidance", OWN)
    if kind == OWN or way == "interpolate":
        return settings
    if kind == OFF:
        settings["guidance"] = None
    elif kind == EACH:
        scales = {f.name: float(filled[f"scale {f.name}"]) for f in fields(run)}
        settings["guidance"] = {"type": _GUIDANCE, "scales": scales}
    else:
        settings["guidance"] = {"type": kind, "scale": float(filled["scale"])}
    return settings


def _whole(name: str, text: Any) -> int:
    try:
        return int(text)
    except (TypeError, ValueError):
        raise UsageError(f"{name}: expected a whole number, got {text!r}") from None


def _number(name: str, text: Any) -> float:
    try:
        return float(text)
    except (TypeError, ValueError):
        raise UsageError(f"{name}: expected a number, got {text!r}") from None

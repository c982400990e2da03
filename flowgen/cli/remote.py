"""`flowgen sample http://HOST:PORT/RUN`: the same options, sampled by a server of `flowgen serve`."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import click
import yaml

from flowgen.cli.asked import pairs, single
from flowgen.cli.options import check_writable
from flowgen.cli.parts import given_files
from flowgen.client import Client
from flowgen.errors import FlowgenError, UsageError, unknown

TOKEN = "FLOWGEN_TOKEN"
_HERE_ALONE = {
    "grid": "--grid",
    "prompt": "--prompt",
    "prompts": "--prompts",
    "weights": "--weights",
    "device": "--device",
    "animate": "--animate",
    "field": "--field",
    "sources": "--source",
    "adapters": "--adapter",
}


def sample_remotely(address: str, options: Mapping[str, Any], written: Collection[str]) -> None:
    """Ask, wait and write the files. UsageError: an option is for runs on this machine, or the server refuses it."""
    url, run = _parted(address)
    if unused := [name for key, name in _HERE_ALONE.items() if key in written]:
        raise UsageError(f"{', '.join(unused)}: only for a run on this machine; leave it out")
    path: Path | None = options["output"]
    if path is not None and path.suffix == "":
        raise UsageError(f"{path}: give the name an extension, which sets the format")
    client = Client(url, os.environ.get(TOKEN))
    runs = {found["name"]: found for found in client.runs()}
    if run not in runs:
        raise UsageError(f"{url}: {unknown('run', run, runs)}")
    request, files = asked(run, options, runs[run]["settings"])
    names = _names(path, request.get("count", 1)) if path is not None else []
    if there := [name for name in names if name.exists() and not options["force"]]:
        raise UsageError(f"{there[0]} would be overwritten; choose another -o, or overwrite with --force")
    for name in names[:1]:
        check_writable(name)
    id = client.submit(request, files)["id"]
    try:
        made = client.wait(id)
    except KeyboardInterrupt:
        client.cancel(id)
        raise
    if not names:
        names = _names(Path(f"{run}-seed{options['seed']}{runs[run]['formats'][0]}"), len(made["files"]))
        if there := [name for name in names if name.exists() and not options["force"]]:
            raise UsageError(f"{there[0]} would be overwritten; name the file with -o, or overwrite with --force")
    if len(names) != len(made["files"]):
        raise FlowgenError(f"the server made {len(made['files'])} files and not {len(names)}")
    for link, name in zip(made["files"], names, strict=True):
        click.echo(client.fetch(link, name))


def asked(run: str, options: Mapping[str, Any], own: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Path]]:
    """The options as a request of the server, and its files by name. `own`: the settings of the run."""
    conditions = pairs(options["cond"])
    count = options["count"] or max([1, *map(len, conditions.values()), 5 if options["interpolate"] else 1])
    rows = [{name: values[i % len(values)] for name, values in conditions.items()} for i in range(count)]
    request: dict[str, Any] = {"run": run, "conditions": rows if conditions else {}, "count": count}
    request |= {"seed": options["seed"]} if options["seed"] else {}
    request |= {"negative": single(options["negative"], "--negative")} if options["negative"] else {}
    request |= {"normalise": True} if options["normalise"] else {}
    request |= {"format": options["output"].suffix.lstrip(".").lower()} if options["output"] else {}
    request |= {"seconds": options["seconds"]} if options["seconds"] is not None else {}
    request |= {"settings": settings} if (settings := _settings(options, own)) else {}
    way, files = _way(options)
    return {**request, **way}, files


def _way(options: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Path]]:
    """The fields of one way of sampling, and its files."""
    if options["continued"]:
        return {"way": "continue", "clip": "clip"}, {"clip": options["continued"]}
    if options["long"]:
        return {"way": "long", "seconds": options["long"]}, {}
    if options["inpaint"]:
        how = {"start_s": options["from_s"], "end_s": options["to_s"], "method": options["method"]}
        how |= {"particles": options["particles"], "mask": "mask" if options["mask"] else None}
        files = {"clip": options["inpaint"], **({"mask": options["mask"]} if options["mask"] else {})}
        return {"way": "inpaint", "clip": "clip", **{k: v for k, v in how.items() if v is not None}}, files
    if options["given"]:
        given = given_files(options["given"])
        if several := [name for name, own in given.items() if len(own) > 1]:
            raise UsageError(f"--given {several[0]}: a server takes one file of a stream; ask once for each")
        return {"way": "given", "given": {name: name for name in given}}, {n: Path(own[0]) for n, own in given.items()}
    if options["vary"]:
        return {"way": "vary", "clip": "clip", "strength": options["strength"]}, {"clip": options["vary"]}
    if options["interpolate"]:
        a, b = options["interpolate"]
        return {"way": "interpolate", "a": "a", "b": "b"}, {"a": a, "b": b}
    first, last = options["between"] or (options["first"], options["last"])
    if first or last:
        files = {name: path for name, path in (("first", first), ("last", last)) if path}
        return {"way": "animate", **{name: name for name in files}}, files
    return {}, {}


def _settings(options: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """--steps, --solver, --guidance and --set as keys of the `sample` section, on the run's own."""
    found: dict[str, Any] = {}
    if options["steps"] is not None:
        found["steps"] = options["steps"]
    if options["solver"] is not None:
        found["solver"] = options["solver"]
    if options["guidance"] is not None:
        found["guidance"] = {**(own["guidance"] or {"type": "cfg"}), "scale": options["guidance"]}
    for setting in options["settings"]:
        key, equals, text = setting.partition("=")
        section, dot, option = key.partition(".")
        if not equals or "." in option:
            raise UsageError(f"--set {setting!r}: expected KEY=VALUE, as in guidance.scale=2")
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError:
            raise UsageError(f"--set {setting!r}: the value cannot be read") from None
        if not dot:
            found[section] = value
            continue
        before = found.get(section, own.get(section)) or {}
        found[section] = {**({"type": before} if isinstance(before, str) else before), option: value}
    return found


def _parted(address: str) -> tuple[str, str]:
    """The address of the server, and the name of the run."""
    parts = urlsplit(address)
    run = parts.path.strip("/")
    if not parts.netloc or not run or "/" in run or parts.query or parts.fragment:
        raise UsageError(f"{address}: give the server and the name of a run, as in http://localhost:8000/notes")
    return f"{parts.scheme}://{parts.netloc}", run


def _names(path: Path, count: int) -> list[Path]:
    digits = len(str(count - 1))
    return [path] if count == 1 else [path.with_name(f"{path.stem}-{i:0{digits}d}{path.suffix}") for i in range(count)]

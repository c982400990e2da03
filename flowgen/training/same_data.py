"""Whether a resumed run sees the data that it began with: `data.json` in the run folder."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from flowgen.config import ComponentConfig, Config
from flowgen.data.items import named
from flowgen.errors import FlowgenError
from flowgen.files import replacing
from flowgen.media.interfaces import Dataset, Fingerprinted

_LISTED = 100_000
"""Items that are listed one by one; of more there are number and hash."""
ALLOW = "data"
"""`--allow data` resumes over data that have changed."""


def write_data(folder: Path, dataset: Dataset) -> None:
    """Write down what the data set is made of, where it can say so."""
    if isinstance(dataset, Fingerprinted):
        with replacing(folder / "data.json") as path:
            path.write_text(json.dumps(_summary(dataset.fingerprints()), ensure_ascii=False), encoding="utf-8")


def with_places(config: Config, dataset: Dataset) -> Config:
    """The config with absolute paths to its data, so that it is understood from any folder."""
    if not isinstance(dataset, Fingerprinted):
        return config
    data = ComponentConfig(type=config.data.type, **{**config.data.options, **dataset.places})
    return config.model_copy(update={"data": data})


def changes(folder: Path, dataset: Dataset) -> str | None:
    """What differs from the data that the run began with, in a few words; empty: nothing; None: it is not known."""
    path = folder / "data.json"
    if not isinstance(dataset, Fingerprinted) or not path.is_file():
        return None
    try:
        old: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        before, count, whole = old.get("items"), int(old["count"]), str(old["hash"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise FlowgenError(
            f"{path} cannot be read ({error}); remove it to resume without comparing the data"
        ) from error
    prints = dataset.fingerprints()
    now = _summary(prints)
    if now["hash"] == whole:
        return ""
    if before is None or now.get("items") is None:
        return f"{count} items before, {now['count']} now, or other content"
    kinds = {
        "added": [key for key in prints if key not in before],
        "gone": [key for key in before if key not in prints],
        "with other values or content": [key for key in prints if before.get(key, prints[key]) != prints[key]],
    }
    found = [f"{len(keys)} {what} ({named(keys, 3)})" for what, keys in kinds.items() if keys]
    return ", ".join(found) or "the same items come in another order"


def _summary(prints: dict[str, str]) -> dict[str, Any]:
    digest = hashlib.sha256()
    for key, value in prints.items():  # their order is that of the batches
        digest.update(f"{key}\x1f{value}\x1e".encode())
    out: dict[str, Any] = {"count": len(prints), "hash": digest.hexdigest()}
    return out | ({"items": prints} if len(prints) <= _LISTED else {})

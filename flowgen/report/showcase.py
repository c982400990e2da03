"""Clips of a run to look at and listen to: media files with what was asked and what was found in each."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from flowgen import __version__
from flowgen.core.random import seed_of
from flowgen.data.loader import Order
from flowgen.data.order import full_size
from flowgen.errors import UsageError
from flowgen.evaluation import readings
from flowgen.files import read_json, write_json
from flowgen.media.clip import Clip
from flowgen.media.interfaces import Dataset, DrawsFound, Modality
from flowgen.runs.generator import Generator
from flowgen.runs.requests import request_like
from flowgen.runs.run import Run
from flowgen.training.watch import caption

_POOL = 400
"""Held-out clips from which those with the most varied conditions are taken."""
_POINTS = 5000
"""Clips in one plot, where a file shows all clips together."""
_SHEET = 25


@dataclass(frozen=True)
class Shown:
    """One media file of the report. Paths are relative to the folder of the showcase."""

    file: str
    media_type: str
    picture: str | None
    """An image of it, where the medium itself cannot be seen, or with what a metric found in it."""
    asked: dict[str, str]
    found: dict[str, str]

    @property
    def label(self) -> str:
        return caption(self.asked) or self.file

    @property
    def rows(self) -> list[tuple[str, str, str, bool | None]]:
        """Name, asked, found, and whether they agree (None: only one of them is known)."""
        names = dict.fromkeys([*self.asked, *self.found])
        both = [(n, self.asked.get(n, ""), self.found.get(n, "")) for n in names]
        return [(n, a, f, a == f if n in self.asked and n in self.found else None) for n, a, f in both]


@dataclass(frozen=True)
class Showcase:
    """What `make_showcase` wrote into `folder`: generated clips, pairs of real clips and their round trips, sheets by name."""

    folder: Path
    generated: tuple[Shown, ...]
    pairs: tuple[tuple[Shown, Shown], ...]
    sheets: dict[str, str]


_SHOWCASE = TypeAdapter(Showcase)


def make_showcase(
    run: Run,
    folder: Path,
    *,
    clips: int = 12,
    seed: int = 0,
    overrides: Sequence[str] = (),
    on_step: Callable[[int, int], None] | None = None,
) -> Showcase:
    """Sample clips with conditions as varied as the data set's, and write them as media files into `folder`.

    What stands there from the same weights and settings is left as it is.
    """
    key = _key(run, clips, seed, overrides)
    found = _existing(folder, key)
    if found is not None:
        return found
    shutil.rmtree(folder, ignore_errors=True)  # of other weights or settings
    generator = Generator.load(run.folder, overrides=overrides)
    modality = generator.modality
    dataset = full_size(generator.experiment.dataset)
    together = modality.clips_per_file is None
    real = spread(dataset, tuple(generator.conditioners), _POINTS if together else clips, seed)
    asked = [{k: clip.conditions.get(k) for k in generator.conditioners} for clip in real]
    made = generator.sample(request_like(real, asked, seed=seed), on_step=on_step)
    kept = generator.reconstruct(real)
    metrics = generator.experiment.metrics if generator.config.eval.metrics else []
    drawing = next((metric for _, metric in metrics if isinstance(metric, DrawsFound)), None)
    writer = _Writer(modality, folder, generator.describe(run=str(run.folder), seed=seed), drawing)
    if together:
        generated = [writer.write(made, "generated", {}, {})]
        pairs = [(writer.write(real, "real", {}, {}), writer.write(kept, "round-trip", {}, {}))]
        sheets = {}
    else:
        texts = [{k: str(v) for k, v in values.items() if v is not None} for values in asked]
        heard = readings(metrics, made)
        generated = [
            writer.write([c], f"generated-{i:02d}", a, f)
            for i, (c, a, f) in enumerate(zip(made, texts, heard, strict=True))
        ]
        some = range(0, len(real), max(1, len(real) // 3))[:3]
        pairs = [
            (
                writer.write([real[i]], f"real-{i:02d}", texts[i], {}),
                writer.write([kept[i]], f"round-trip-{i:02d}", texts[i], {}),
            )
            for i in some
        ]
        sheets = {
            name: writer.sheet(some_clips[:_SHEET], name) for name, some_clips in (("generated", made), ("real", real))
        }
    showcase = Showcase(folder, tuple(generated), tuple(pairs), sheets)
    write_json({"key": key, **_as_json(showcase)}, folder / "showcase.json")
    return showcase


def spread(dataset: Dataset, names: Sequence[str], count: int, seed: int) -> list[Clip]:
    """Held-out clips whose conditions vary the most: each in turn has the values seen least so far. In the order of classes."""
    held_out = dataset.validation()
    order = Order(seed, len(held_out))
    pool: list[Clip] = []
    for i in range(min(max(_POOL, count), len(held_out))):
        index = order[i].index
        pool.append(held_out.clip(index, seed_of(seed, "showcase", index)))
    if len(pool) <= count or not names:
        return pool[:count]
    seen: Counter[tuple[str, Any]] = Counter()
    taken: list[Clip] = []
    for _ in range(count):
        repeats = [sum(seen[n, str(clip.conditions.get(n))] for n in names) for clip in pool]
        best = pool.pop(repeats.index(min(repeats)))
        seen.update((n, str(best.conditions.get(n))) for n in names)
        taken.append(best)
    ranks = {n: [str(v) for v in dataset.conditions[n].get("names", ())] for n in names}
    return sorted(taken, key=lambda clip: [_rank(ranks[n], clip.conditions.get(n)) for n in names])


def _rank(order: Sequence[str], value: Any) -> tuple[int, str]:
    return (order.index(str(value)), "") if str(value) in order else (len(order), str(value))


class _Writer:
    """Writes media files and pictures of one modality into one folder."""

    def __init__(
        self, modality: Modality, folder: Path, metadata: Mapping[str, Any], drawing: DrawsFound | None
    ) -> None:
        self.modality, self.folder, self.metadata, self.drawing = modality, folder, metadata, drawing
        self.suffix, self.media_type = next(iter(modality.formats.items()))

    def write(self, clips: Sequence[Clip], name: str, asked: dict[str, str], found: dict[str, str]) -> Shown:
        file = name + self.suffix
        self.modality.write(clips, self.folder / file, {**self.metadata, "conditions": asked})
        return Shown(file, self.media_type, self._picture(clips, f"{name}.png"), asked, found)

    def _picture(self, clips: Sequence[Clip], name: str) -> str | None:
        if self.drawing is not None and len(clips) == 1:
            self.drawing.draw(clips[0], self.folder / name)
        elif self.media_type.partition("/")[0] not in ("video", "image"):
            self.modality.sheet(clips, self.folder / name)
        else:
            return None
        return name

    def sheet(self, clips: Sequence[Clip], name: str) -> str:
        file = f"{name}-sheet.png"
        self.modality.sheet(clips, self.folder / file, [caption(c.conditions) for c in clips])
        return file


def _key(run: Run, clips: int, seed: int, overrides: Sequence[str]) -> dict[str, Any]:
    """All that the files of a showcase depend on."""
    manifest = run.newest_checkpoint().manifest
    return {
        "version": __version__,
        "weights": {k: v["sha256"] for k, v in manifest["files"].items() if "/" not in k},
        "encoder": manifest["encoder"],
        "sample": run.config(overrides).sample.model_dump(mode="json"),
        "clips": clips,
        "seed": seed,
    }


def _existing(folder: Path, key: Mapping[str, Any]) -> Showcase | None:
    path = folder / "showcase.json"
    if not path.is_file():
        return None
    try:
        value = read_json(path)
        if value.pop("key") != key:
            return None
        showcase = _SHOWCASE.validate_python({"folder": folder, **value})
    except (UsageError, LookupError, TypeError, AttributeError, ValueError):  # it is made again
        return None
    whole = all(Path(name).name == name and (folder / name).is_file() for name in _files(showcase))
    return showcase if whole else None


def _files(showcase: Showcase) -> list[str]:
    shown = [*showcase.generated, *(s for pair in showcase.pairs for s in pair)]
    return [*(s.file for s in shown), *(s.picture for s in shown if s.picture), *showcase.sheets.values()]


def _as_json(showcase: Showcase) -> dict[str, Any]:
    value = asdict(showcase)
    del value["folder"]
    return value

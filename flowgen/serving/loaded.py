"""The runs that a server samples from: loaded when they are asked for, within a budget of memory."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from flowgen.errors import FlowgenError, UsageError, unknown
from flowgen.runs.attached import Attachment
from flowgen.runs.generator import Generator
from flowgen.runs.run import Run


class Put(NamedTuple):
    """How an adapter is put on a run, see `flowgen.runs.attached.Attachment`."""

    weight: float = 1.0
    start: float = 0.0
    end: float = 1.0


@dataclass
class Loaded:
    """Runs by name. Those least recently used leave when others need their memory. Safe to use from several threads.

    Args:
        folders: of the runs, by the name that clients use.
        adapters: folders or files of those that clients may put on a run, by name.
        memory: bytes for parameters; the run that is sampled stays, whatever its size.
        device: where to sample.
    """

    folders: Mapping[str, Path]
    memory: float
    device: str | None = None
    adapters: Mapping[str, Path] = field(default_factory=dict)
    _held: OrderedDict[tuple[str, int | None, tuple[Attachment, ...]], Generator] = field(
        default_factory=OrderedDict, init=False
    )
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False)

    def get(self, name: str, step: int | None = None, adapters: Mapping[str, Put] | None = None) -> Generator:
        """The generator of a run, at a step of its training, with adapters. UsageError: there is none of that name or step."""
        if name not in self.folders:
            raise UsageError(unknown("run", name, self.folders))
        for own in adapters or {}:
            if own not in self.adapters:
                raise UsageError(unknown("adapter", own, self.adapters))
        put = tuple(Attachment(self.adapters[own], *how) for own, how in (adapters or {}).items())
        key = (name, step, put)
        with self._lock:
            if key not in self._held:
                self._held[key] = self._load(name, step, put)
            self._held.move_to_end(key)
            while len(self._held) > 1 and sum(map(size, self._held.values())) > self.memory:
                self._held.popitem(last=False)
            return self._held[key]

    def _load(self, name: str, step: int | None, put: Sequence[Attachment]) -> Generator:
        """Errors name runs and adapters as clients do, not by their places."""
        try:
            return Generator.load(self.folders[name], device=self.device, step=step, adapters=put)
        except FlowgenError as error:
            text = str(error)
            for own, place in {**self.folders, **self.adapters}.items():
                text = text.replace(str(place), own)
            raise type(error)(text) from error

    @property
    def held(self) -> Sequence[str]:
        """The names of those in memory, the least recently used first."""
        return [name for name, _, _ in self._held]


def size(generator: Generator) -> int:
    """Bytes of parameters and buffers."""
    modules = (generator.network, generator.encoder)
    return sum(t.nbytes for m in modules for t in (*m.parameters(), *m.buffers()))


def described(name: str, loaded: Loaded) -> dict[str, Any]:
    """What a client needs to know to ask for clips of a run."""
    from flowgen.media.interfaces import SeveralStreams, TakesFile, TimedModality
    from flowgen.plugins.media import Media

    generator = loaded.get(name)
    modality = generator.modality
    timed = isinstance(modality, TimedModality)
    ways = ["sample", "vary", "interpolate", *(["continue", "long", "animate", "inpaint"] if timed else [])]
    return {
        "name": name,
        "step": generator.step,
        "steps": [checkpoint.step for checkpoint in Run(loaded.folders[name]).checkpoints()],
        "adapters": list(loaded.adapters),
        "modality": generator.config.modality.type,
        "formats": list(Media(generator.config.modality.type, modality).formats),
        "conditions": {
            k: v.model_dump(mode="json", exclude_none=True) for k, v in (generator.config.conditions or {}).items()
        },
        "files": {k: c.file_kind for k, c in generator.conditioners.items() if isinstance(c, TakesFile)},
        "ways": ways + (["given"] if isinstance(modality, SeveralStreams) else []),
        "streams": list(modality.streams) if isinstance(modality, SeveralStreams) else [],
        "seconds": generator.lengths.window_s if generator.lengths.timed else None,
        "settings": generator.config.sample.model_dump(mode="json", exclude={"batch_size"}),
    }

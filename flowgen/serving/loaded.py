"""The runs that a server samples from: loaded when they are asked for, within a budget of memory."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flowgen.errors import UsageError, unknown
from flowgen.runs.generator import Generator


@dataclass
class Loaded:
    """Runs by name. Those least recently used leave when others need their memory. Safe to use from several threads.

    Args:
        folders: of the runs, by the name that clients use.
        memory: bytes for parameters; the run that is sampled stays, whatever its size.
        device: where to sample.
    """

    folders: Mapping[str, Path]
    memory: float
    device: str | None = None
    _held: OrderedDict[str, Generator] = field(default_factory=OrderedDict, init=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False)

    def get(self, name: str) -> Generator:
        """The generator of a run. UsageError: there is none of that name."""
        if name not in self.folders:
            raise UsageError(unknown("run", name, self.folders))
        with self._lock:
            if name not in self._held:
                self._held[name] = Generator.load(self.folders[name], device=self.device)
            self._held.move_to_end(name)
            while len(self._held) > 1 and sum(map(size, self._held.values())) > self.memory:
                self._held.popitem(last=False)
            return self._held[name]

    @property
    def held(self) -> Sequence[str]:
        """The names of those in memory, the least recently used first."""
        return list(self._held)


def size(generator: Generator) -> int:
    """Bytes of parameters and buffers."""
    modules = (generator.network, generator.encoder)
    return sum(t.nbytes for m in modules for t in (*m.parameters(), *m.buffers()))


def described(name: str, generator: Generator) -> dict[str, Any]:
    """What a client needs to know to ask for clips of a run."""
    from flowgen.media.interfaces import SeveralStreams, TakesFile, TimedModality
    from flowgen.plugins.media import Media

    modality = generator.modality
    timed = isinstance(modality, TimedModality)
    ways = ["sample", "vary", "interpolate", *(["continue", "long", "animate", "inpaint"] if timed else [])]
    return {
        "name": name,
        "step": generator.step,
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

"""A new run from the weights of another: `--init-from`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from flowgen.config import Config
from flowgen.core.interfaces import LossWithTeacher
from flowgen.errors import FlowgenError, UsageError
from flowgen.media.conditions import ClassCondition, Conditioner
from flowgen.media.encoder import Encoder
from flowgen.media.interfaces import Extensible
from flowgen.nn.embedding import ClassEmbedding, ConditionEmbedding
from flowgen.runs.adapted import base_run
from flowgen.runs.experiment import Experiment
from flowgen.runs.run import Checkpoint, Run
from flowgen.weights import load_allowing, load_strictly, read_tensors

ALLOW_ENCODER = "encoder"
"""With `--allow`: measure the statistics of the encoder on the new data, whatever those of the source are."""


@dataclass(frozen=True)
class Source:
    """The run or export whose averaged weights a new run starts from.

    Args:
        allow: patterns of weights that may differ, and `ALLOW_ENCODER`.
    """

    folder: Path
    allow: Sequence[str] = ()

    @cached_property
    def checkpoint(self) -> Checkpoint:
        return Run(self.folder).newest_checkpoint()

    @cached_property
    def config(self) -> Config:
        return Run(self.folder).config()

    def load_encoder(self, encoder: Encoder, config: Config) -> str:
        """Give an encoder the statistics of the source, which its weights are used to; returns a line about it.

        The line is empty where there are none to take: the encoder has no statistics. Where encoders differ, or `allow`
        says so, the encoder is left as it is, to be fitted.
        """
        if not encoder.state_dict():
            return ""
        if ALLOW_ENCODER in self.allow:
            return f"statistics measured on this data (--allow {ALLOW_ENCODER})"
        differ = _differing(self.config.encoder, config.encoder)
        if differ:
            return f"statistics measured on this data: encoder.{', encoder.'.join(differ)} differ from those of {self.folder}"
        path = self.folder / "encoder.safetensors"
        if _differing(
            self.config.modality, config.modality
        ):  # part of the identity, and no reason to shift the latents
            load_strictly(encoder, read_tensors(path), path)
        else:
            Run(self.folder).load_encoder(encoder, self.checkpoint)
        return f"statistics of {self.folder}"

    def load_network(self, network: nn.Module, experiment: Experiment) -> str:
        """Load the averaged weights; returns a line about them, and one for each condition that differs.

        Classes are compared by name: rows of a table go where the name stands now, and new names start as the network makes
        them. Modules that change nothing as they are made may be new.
        """
        checkpoint = self.checkpoint
        tensors = checkpoint.weights("ema")
        lines = self._map_classes(network, tensors, experiment)
        allow = [pattern for pattern in self.allow if pattern != ALLOW_ENCODER]
        new = [f"{name}.*" for name in network.neutral_at_start] if isinstance(network, Extensible) else []
        loaded = load_allowing(network, tensors, checkpoint.folder, allow, new)
        return "\n".join([f"from {checkpoint.folder} (averaged): {loaded}", *lines])

    def _map_classes(self, network: nn.Module, tensors: dict[str, Tensor], experiment: Experiment) -> list[str]:
        """Put the rows of `tensors` in the order of the new classes. UsageError: the network has no table by class."""
        old, new, lines = Experiment(self.config).conditioners, experiment.conditioners, []
        for name in old.keys() & new.keys():
            before, now = old[name], new[name]
            if before == now:
                continue
            if not (isinstance(before, ClassCondition) and isinstance(now, ClassCondition)):
                lines.append(f"condition {name}: was {_described(before)}, is {_described(now)}")
                continue
            tables = [key for key in _tables(network, name) if key in tensors]
            if not tables:
                raise UsageError(
                    f"--init-from {self.folder}: the classes of {name!r} are not the same ({', '.join(before.names)}; now "
                    f"{', '.join(now.names)}), and the network {experiment.config.network.type!r} keeps no "
                    f"flowgen.nn.ClassEmbedding of them that could be mapped; give conditions.{name}.names in the old order"
                )
            own = network.state_dict()
            for key in tables:
                tensors[key] = _mapped(tensors[key], own[key].to(tensors[key]), before.names, now.names)
            lines.append(f"condition {name}: {_mapping(before.names, now.names)}")
        return sorted(lines)


def kept_statistics(experiment: Experiment, encoder: Encoder, source: Source | None = None) -> str:
    """Give an encoder the statistics that a run has to keep: those of its source, else of the base of its adapter or of its teacher.

    Returns a line about them, empty where there are none. UsageError: the base or the teacher cannot be read.
    """
    config, loss = experiment.config, experiment.loss
    if source is not None:
        return source.load_encoder(encoder, config)
    if (base := base_run(config)) is not None:
        owner, folder = "network.run", base
    elif isinstance(loss, LossWithTeacher):
        owner, folder = "loss.teacher", Path(loss.teacher)
    else:
        return ""
    try:
        return Source(folder).load_encoder(encoder, config)
    except FlowgenError as error:
        raise UsageError(f"{owner}: the model cannot be loaded from {folder}: {error}") from error


def _tables(network: nn.Module, condition: str) -> list[str]:
    """The names of the tensors with a row for each class of a condition, and one for none."""
    return [
        f"{path}.embedders.{condition}.weight".removeprefix(".")
        for path, module in network.named_modules()
        if isinstance(module, ConditionEmbedding) and condition in module.embedders
        if isinstance(module.embedders[condition], ClassEmbedding)
    ]


def _mapped(old: Tensor, fresh: Tensor, before: Sequence[str], now: Sequence[str]) -> Tensor:
    """The rows [N + 1, width] of the names of now: of `old` where the name stood there, else of `fresh`; the last is none's."""
    if len(old) != len(before) + 1:
        return old  # not what its config says: loading will say so
    table = fresh.clone()
    for row, name in enumerate(now):
        if name in before:
            table[row] = old[before.index(name)]
    table[-1] = old[-1]
    return table


def _mapping(before: Sequence[str], now: Sequence[str]) -> str:
    kept, added = [n for n in now if n in before], [n for n in now if n not in before]
    gone = [n for n in before if n not in now]
    parts = [f"{len(kept)} of {len(now)} classes mapped by name"]
    parts += [f"new: {_some(added)}"] if added else []
    parts += [f"left out: {_some(gone)}"] if gone else []
    return "; ".join(parts)


def _described(conditioner: Conditioner) -> str:
    return f"{type(conditioner).__name__} ({conditioner.describe()})"


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")


def _differing(old: Any, new: Any) -> list[str]:
    """The keys in which two sections of a config differ."""
    a, b = old.model_dump(mode="json"), new.model_dump(mode="json")
    return sorted(key for key in a.keys() | b.keys() if a.get(key) != b.get(key))

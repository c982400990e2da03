"""Solvers that were fitted to one run, in its folder: `solvers/NAME.json`, see `flowgen distill-solver`."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor, nn

from flowgen.config.components import options_model
from flowgen.config.schema import ComponentConfig, Sample
from flowgen.core.interfaces import Cond, Flow, Noise
from flowgen.core.solvers.base import Stateless
from flowgen.core.solvers.table import NonStationary
from flowgen.core.tree import State
from flowgen.errors import FlowgenError, UsageError, shorten
from flowgen.files import read_json, write_json
from flowgen.plugins import registry
from flowgen.runs.sampling import chain

if TYPE_CHECKING:
    from flowgen.runs.generator import Generator

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,63}")
MOST_STEPS = 64


@dataclass(frozen=True)
class Learned(Stateless):
    """A solver of the run that is sampled, by its name in the folder `solvers` of the run.

    `Generator.solver` puts the table in its place. Without a run it takes no step: ValueError.
    """

    name: str
    order = 1
    evaluations = 1

    def __post_init__(self) -> None:
        check_name(self.name)

    def step(
        self, flow: Flow, x: State, t: Tensor, s: Tensor, state: Any, noise: Noise, cond: Cond | None
    ) -> tuple[State, Any]:
        raise ValueError(f"the solver {self.name!r} lies in the folder of a run; sample that run with it")


class _Table(BaseModel):
    """A file of a run folder may be a stranger's. Keys that this version does not know are of a later one."""

    model_config = ConfigDict(extra="allow", strict=True, allow_inf_nan=False)

    times: Annotated[list[Annotated[float, Field(ge=0, le=1)]], Field(min_length=2, max_length=MOST_STEPS + 1)]
    a: list[float]
    b: list[list[float]]
    weights: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    guidance: list[dict[str, Any]]
    path: dict[str, Any] | None


@dataclass(frozen=True)
class LearnedTable:
    """A table with what it was fitted to: the checksum of the weights, the guidance and the path of sampling."""

    table: NonStationary
    weights: str
    guidance: list[dict[str, Any]]
    path: dict[str, Any] | None

    @classmethod
    def of(cls, table: NonStationary, generator: Generator) -> LearnedTable:
        """A table that was fitted to this generator, under its `sample` section."""
        settings = generator.config.sample
        return cls(table, generator.weights_checksum, _guidance(settings), _path(settings))

    def write(self, folder: Path, name: str, facts: Mapping[str, Any] | None = None) -> Path:
        """Write `solvers/NAME.json` below a run folder, with further facts. UsageError: the name cannot be one."""
        check_name(name)
        path = file_of(folder, name)
        table = {"times": self.table.times.tolist(), "a": self.table.a.tolist(), "b": self.table.b.tolist()}
        value = {**(facts or {}), **table, "weights": self.weights, "guidance": self.guidance, "path": self.path}
        write_json(value, path)
        return path

    @classmethod
    def read(cls, folder: Path, name: str) -> LearnedTable:
        """UsageError: the run has no such solver. FlowgenError: its file is damaged."""
        path = file_of(folder, name)
        if not path.is_file():
            there = ", ".join(names(folder)) or "none"
            raise UsageError(
                f"sample.solver: {folder} has no learned solver {name!r} (there: {there}); make one with: "
                f"flowgen distill-solver {folder} --name {name}"
            )
        try:
            found = _Table.model_validate(read_json(path))
            times, a, b = (torch.tensor(v, dtype=torch.float64) for v in (found.times, found.a, found.b))
            if not bool((times.diff() > 0).all()):
                raise ValueError("times must increase")
            return cls(NonStationary(times, a, b), found.weights, found.guidance, found.path)
        except (UsageError, ValueError, TypeError) as error:
            first = error.errors()[0] if isinstance(error, ValidationError) else None
            said = str(error) if first is None else f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
            raise FlowgenError(
                f"{path} is no learned solver ({shorten(said)}); make it again with: flowgen distill-solver {folder}"
            ) from None

    def check(self, name: str, generator: Generator, settings: Sample) -> None:
        """UsageError: it was fitted to other weights, another number of steps, another guidance or path."""
        again = f"make another with: flowgen distill-solver {generator.folder}"
        if self.weights != generator.weights_checksum:
            raise UsageError(
                f"sample.solver: {name!r} was fitted to other weights than those that are sampled (another run, checkpoint, "
                f"average or adapter); {again}"
            )
        if settings.steps != self.table.evaluations:
            raise UsageError(
                f"sample.steps: {name!r} takes {self.table.evaluations} steps, not {settings.steps}; "
                f"give --steps {self.table.evaluations}"
            )
        if self.guidance != _guidance(settings):
            raise UsageError(
                f"sample.guidance: {name!r} was fitted under {_said(self.guidance)}, not {_said(_guidance(settings))}; "
                f"sample with that, or {again}"
            )
        if self.path != _path(settings):
            raise UsageError(f"sample.path: {name!r} was fitted on another path; leave sample.path, or {again}")


def learned_table(name: str, generator: Generator, settings: Sample) -> NonStationary:
    """The table of a learned solver of the run that is sampled. Raises as `LearnedTable.read` and `check`."""
    if generator.folder is None:
        raise UsageError(
            f"sample.solver: {name!r} lies beside a trained run; take a fixed solver here, such as dpm++2m"
        )
    found = LearnedTable.read(generator.folder, name)
    found.check(name, generator, settings)
    return found.table


def names(folder: Path) -> list[str]:
    """The learned solvers of a run folder."""
    return sorted(path.stem for path in (folder / "solvers").glob("*.json") if _NAME.fullmatch(path.stem))


def file_of(folder: Path, name: str) -> Path:
    return folder / "solvers" / f"{name}.json"


def check_name(name: str) -> None:
    """UsageError: a learned solver cannot be called this."""
    if not _NAME.fullmatch(name):
        raise UsageError(
            f"--name: {shorten(name)!r} cannot be a solver's name; take letters, digits and - . _ + (at most 64)"
        )
    if name in {component.name for component in registry().components("solver")}:
        raise UsageError(f"--name: {name!r} is a solver of flowgen; choose another name, such as {name}-learned")


def checksum_of(network: nn.Module) -> str:
    """SHA-256 of weights by name; where they lie plays no part."""
    digest = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().contiguous().flatten().view(torch.uint8).cpu().numpy())
    return digest.hexdigest()


def _guidance(settings: Sample) -> list[dict[str, Any]]:
    return [_whole("guidance", rule) for rule in chain(settings)]


def _path(settings: Sample) -> dict[str, Any] | None:
    return None if settings.path is None else _whole("path", settings.path)


def _whole(kind: str, component: ComponentConfig) -> dict[str, Any]:
    """A component with all of its options, as JSON values."""
    options = options_model(kind, component.type)(**component.options).model_dump(mode="json")
    whole: dict[str, Any] = json.loads(json.dumps({"type": component.type, **options}))
    return whole


def _said(guidance: list[dict[str, Any]]) -> str:
    return shorten(json.dumps(guidance)) if guidance else "none"

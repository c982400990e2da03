"""What is checked of a component that needs no clips of its own: a solver, a loss, a metric, and the like."""

from __future__ import annotations

import contextlib
import inspect
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol, get_type_hints

import numpy as np
import torch
from torch import Tensor

from flowgen.config import ComponentConfig, build, options_model, recipes
from flowgen.config.components import takes
from flowgen.core.couplings import Independent
from flowgen.core.paths import Linear
from flowgen.core.sampler import sample
from flowgen.core.times import Uniform
from flowgen.errors import FlowgenError
from flowgen.plugins import Plugin, registry
from flowgen.testing.contract import Checked, NotBuilt
from flowgen.testing.oracle import GaussianMixture
from flowgen.testing.subject import Subject

SMOOTH: Any = GaussianMixture(
    torch.tensor([[-0.6], [0.8]], dtype=torch.float64),
    torch.tensor([0.7, 0.5], dtype=torch.float64),
    torch.tensor([0.4, 0.6], dtype=torch.float64),
)
"""A target in one dimension, smooth enough that orders show at a few steps. Its flow map is known in closed form."""
GAUSSIAN: Any = GaussianMixture(
    torch.tensor([[0.7]], dtype=torch.float64), *torch.tensor([[0.5], [1.0]], dtype=torch.float64)
)


_USUAL: dict[str, dict[str, Any]] = {
    "loss": {"teacher": "oracle"},
    "region": {"probability": 0.5, "low": 0.25, "high": 0.75},
    "conditioner": {"names": ("a", "b", "c"), "low": 0.0, "high": 2.0},
}
"""Options without a default that components of a kind usually have."""


@dataclass
class Part(Checked):
    """A component by kind and name, with options, built again whenever it is asked for.

    Args:
        values: of a conditioner, some values that it takes.
        host: of a metric or a writer, the config it works in; that of points by default.
    """

    kind: str
    name: str
    options: Mapping[str, Any] = field(default_factory=dict)
    values: Sequence[Any] = ()
    host: Subject | None = None
    measured: dict[Any, float] = field(default_factory=dict, init=False, repr=False)
    """What several checks measure, by what it is."""

    def complete_options(self) -> dict[str, Any]:
        """The options, with usual ones where one has no default. NotBuilt: an option is missing."""
        fields = options_model(self.kind, self.name).model_fields
        usual = _USUAL.get(self.kind, {})
        filled = {name: usual[name] for name, info in fields.items() if name in usual and info.is_required()}
        options = {**filled, **self.options}
        missing = [name for name, info in fields.items() if info.is_required() and name not in options]
        if missing:
            raise NotBuilt(
                f"the option {missing[0]!r} has no default: check it with options, by "
                "flowgen.testing.ComponentConformance"
            )
        return options

    def new(self, **given: Any) -> Any:
        """Build it. NotBuilt: an option has no default, and none is given here."""
        mathematics = {"path": Linear(), "times": Uniform(), "coupling": Independent(), "shift": 1.0}
        if self.kind == "loss":
            given = {
                **mathematics,
                **({"modality": self.medium.modality} if takes("loss", self.name, "modality") else {}),
                **given,
            }
        return build(self.kind, ComponentConfig(type=self.name, **self.complete_options()), **given)

    @cached_property
    def built(self) -> Any:
        """One that the checks share; of kinds that need nothing else."""
        return self.new()

    @property
    def plugins(self) -> list[Plugin]:
        """The plugin that brings it, where that is not flowgen itself."""
        owner = registry().owner(self.kind, self.name)
        return [] if owner.name == "flowgen" else [owner]

    @property
    def target(self) -> Any:
        """The class or function itself."""
        return registry().get(self.kind, self.name).load()

    @cached_property
    def medium(self) -> Subject:
        """The config in which it is used: the one given, or the first recipe of the modality that it asks for."""
        return self.host or recipe_for(self.target)


def is_protocol(target: type) -> bool:
    return Protocol in target.__mro__ and Protocol in target.__bases__


def recipe_for(target: Any) -> Subject:
    """The first recipe whose modality is what a component's parameter `modality` is typed as, and whose data are there;
    that of points, if there is none."""
    wanted: Any = get_type_hints(target.__init__ if inspect.isclass(target) else target).get("modality")
    for name in recipes() if inspect.isclass(wanted) and not is_protocol(wanted) else ():
        with contextlib.suppress(FlowgenError):  # a recipe for files of one's own
            subject = Subject.of(name)
            if isinstance(subject.modality, wanted) and len(subject.dataset):
                return subject
    return Subject.of("points/checkerboard")


def normal(*shape: int, seed: int = 0) -> Tensor:
    """Standard normal numbers, float64."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def solved(flow: Any, x: Any, grid: Tensor, **options: Any) -> Any:
    """`sample`, of states whose structure the caller knows."""
    return sample(flow, x, grid, **options)


def global_state() -> tuple[Any, ...]:
    """The state of every global generator, for comparison."""
    numpy: Any = np.random.get_state()
    return random.getstate(), numpy[0], numpy[1].tobytes(), numpy[2:], torch.get_rng_state().numpy().tobytes()


@contextmanager
def shaken(seed: int) -> Iterator[None]:
    """A block in which the global generators have another seed; afterwards they are as they were."""
    kept = random.getstate(), np.random.get_state(), torch.get_rng_state()
    try:
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)
        yield
    finally:
        random.setstate(kept[0])
        np.random.set_state(kept[1])
        torch.set_rng_state(kept[2])


def touches_global_generators(run: Callable[[], Any]) -> bool:
    """Whether something draws from a global generator, or seeds one."""
    with shaken(3):
        before = global_state()
        run()
        return global_state() != before

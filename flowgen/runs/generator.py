"""A trained generator: what a run folder holds, ready to sample."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, overload

import torch
from torch import Tensor, nn

from flowgen import __version__
from flowgen.config import Config, build
from flowgen.config.schema import Sample
from flowgen.core.interfaces import MASK, Flow, KnowsDensity, Loss, Paths, Solver, SourceCoupling
from flowgen.core.likelihood import log_prob, rademacher
from flowgen.core.random import Randomness
from flowgen.core.rows import Rows
from flowgen.core.sampler import check_grid
from flowgen.core.solvers.ode import has_velocity
from flowgen.core.solvers.table import NonStationary
from flowgen.core.times import make_grid, shift_factor
from flowgen.core.tree import State, tree_map
from flowgen.device import default_device
from flowgen.errors import FlowgenError, UsageError
from flowgen.media.clip import Clip
from flowgen.media.conditions import Conditioner, encode_conditions
from flowgen.media.encoder import Encoder, Latents
from flowgen.media.interfaces import Modality, OwnTimes
from flowgen.runs.attached import Attachment, attach
from flowgen.runs.experiment import Experiment
from flowgen.runs.given import Given
from flowgen.runs.learned import Learned, checksum_of, learned_table
from flowgen.runs.lengths import Lengths
from flowgen.runs.requests import Continue, FromNoise, Inpaint, Interpolate, Long, SampleRequest
from flowgen.runs.run import Run
from flowgen.runs.sampling import Watch, settings_of
from flowgen.runs.ways import make, parts_of

Weights = Literal["ema", "raw"]


@dataclass
class Generator:
    """Encoder, network and everything between, with one `sample`: the command line, previews and evaluation all call it."""

    experiment: Experiment
    network: nn.Module
    device: torch.device
    step: int = 0
    adapters: tuple[Attachment, ...] = ()
    folder: Path | None = None
    """The run folder, where it was loaded from one."""

    @property
    def config(self) -> Config:
        return self.experiment.config

    @property
    def modality(self) -> Modality:
        return self.experiment.modality

    @property
    def encoder(self) -> Encoder:
        return self.experiment.encoder

    @property
    def conditioners(self) -> dict[str, Conditioner]:
        return self.experiment.conditioners

    @property
    def loss(self) -> Loss:
        return self.experiment.loss

    @classmethod
    def load(
        cls,
        folder: Path | str,
        *,
        weights: Weights = "ema",
        device: str | None = None,
        overrides: Sequence[str] = (),
        adapters: Sequence[str | Attachment] = (),
        step: int | None = None,
    ) -> Generator:
        """Load a checkpoint of a run, by default the newest.

        Args:
            weights: the averaged weights, or those of the last step.
            device: where to sample; the first GPU where there is one.
            overrides: changes to the run's config such as "sample.steps=8".
            adapters: `PATH[:WEIGHT][@START-END]` each, see `flowgen.runs.attached`.
            step: of the checkpoint.

        Raises UsageError where there is no checkpoint of this step, FlowgenError where there is none at all, or weights or
        encoder do not match the config.
        """
        run = Run(Path(folder))
        experiment = Experiment(run.config(overrides))
        run.refuse_earlier(experiment.encoder)  # before weights that do not fit are compared
        if step is None:
            checkpoint = run.read_newest(lambda c: c.load_weights(experiment.network, weights))
        else:
            checkpoint = run.checkpoint_at(step)
            checkpoint.load_weights(experiment.network, weights)
        run.load_encoder(experiment.encoder, checkpoint)
        attached = tuple(Attachment.parse(own) if isinstance(own, str) else own for own in adapters)
        if attached:
            attach(experiment.network, attached)
        place = device_named(device or str(default_device()))
        experiment.encoder.to(place)
        return cls(experiment, experiment.network.to(place).eval(), place, checkpoint.step, attached, run.folder)

    @cached_property
    def pairs(self) -> str | None:
        """What clips are paired with in training, where that is given: noise of their own, or clips to start from (a bridge)."""
        coupling = self.experiment.coupling
        return coupling.start if isinstance(coupling, SourceCoupling) else None

    def noise(self, n: int, seed: int) -> State:
        """The standard normal noise that `sample` makes n clips of at this seed (on VE it is scaled first, see `prior`)."""
        return Rows(seed, range(n), [self.lengths.trained] * n, self.device).noise("sample")

    @overload
    def sample(
        self,
        request: SampleRequest,
        *,
        on_step: Callable[[int, int], None] | None = None,
        on_state: Callable[[float, list[Clip]], None] | None = None,
    ) -> list[Clip]: ...

    @overload
    def sample(
        self,
        request: Sequence[Mapping[str, Any]],
        *,
        seed: int = 0,
        settings: Sample | None = None,
        negative: Mapping[str, Any] | None = None,
        seconds: float | Sequence[float] | None = None,
        given: Sequence[Given] = (),
        on_step: Callable[[int, int], None] | None = None,
        on_state: Callable[[float, list[Clip]], None] | None = None,
    ) -> list[Clip]: ...

    def sample(
        self,
        request: SampleRequest | Sequence[Mapping[str, Any]],
        *,
        on_step: Callable[[int, int], None] | None = None,
        on_state: Callable[[float, list[Clip]], None] | None = None,
        **plain: Any,
    ) -> list[Clip]:
        """The clips that a request asks for, see `flowgen.runs.requests`; a sequence of conditions asks for plain samples.

        Clip i is a function of (seed, i, its conditions and length, settings): bit for bit in a batch of the same shape,
        and up to the rounding of matrix kernels (1e-5 in the latent) whatever else is sampled with it. Lengths
        that the model does not take are rounded up, said, and cut back.

        Args:
            on_step: called with the number of solver steps done and their total.
            on_state: called with the time and the decoded state, at the start and after each step (for animations).
            plain: with a sequence of conditions, the fields of `FromNoise`.

        Raises UsageError for an unknown condition or value, and for what this run could only ignore; FlowgenError for a
        file that cannot be read and a setting that this flow cannot follow.
        """
        self._generates()
        if not isinstance(request, SampleRequest):
            request = FromNoise(conditions=request, **plain)
        elif plain:
            raise TypeError(f"with a request, {', '.join(plain)} belong into it")
        decoded = None if on_state is None else lambda t, decode: on_state(t, decode())
        return make(self, request, Watch(on_step, decoded))

    def stream(
        self, request: Long | Continue, *, on_step: Callable[[int, int], None] | None = None
    ) -> Iterator[list[Clip]]:
        """The parts of the clips of a request, in order, each as soon as it is made; no more is held than one window.

        Joined they are what `sample` gives. The first part of `Continue` is the clip that is continued. Raises as `sample`.
        """
        self._generates()
        return parts_of(self, request, Watch(on_step))

    def describe(self, request: SampleRequest | None = None, **facts: Any) -> dict[str, Any]:
        """What was asked and the settings of a sample, for the metadata of its file: JSON values."""
        used = self.config.sample if request is None else settings_of(self, request)
        settings = used.model_dump(mode="json", exclude={"batch_size"})
        if isinstance(request, Interpolate):
            settings["guidance"] = None
        if isinstance(request, Inpaint) and request.method == "guided":
            settings["solver"] = None  # it has steps of its own
        asked = {} if request is None else request.facts()
        made = {"generator": f"flowgen {__version__}", "name": self.config.name, "step": self.step}
        attached = {"adapters": [str(own) for own in self.adapters]} if self.adapters else {}
        return {**made, **facts, **attached, **asked, **settings}

    @cached_property
    def lengths(self) -> Lengths:
        """The lengths that this run can sample."""
        return Lengths(self.modality, self.encoder, self.network)

    @torch.no_grad()
    def velocity(self, clips: Sequence[Clip], t: float, conditions: Mapping[str, Any] | None = None) -> State:
        """Where the flow carries the latents of clips at time t, under one mapping of conditions: of their structure."""
        cond = encode_conditions(self.conditioners, [conditions or {}])
        cond = self.on_device(
            {k: tree_map(lambda v: v.repeat(len(clips), *[1] * (v.ndim - 1)), c) for k, c in cond.items()}
        )
        x = self.encoder.encode(clips).x
        self._generates()
        with self.refusals():
            return tree_map(lambda v: v.cpu(), self.flow(x)(x, torch.tensor(t, dtype=torch.float64), cond).velocity)

    def log_prob(
        self,
        clips: Sequence[Clip],
        conditions: Sequence[Mapping[str, Any]] | None = None,
        *,
        exact: bool = False,
        seed: int = 0,
    ) -> Tensor:
        """log p of the latents of clips, in nats [B]: along the ODE of the flow, by its exact trace or one probe a clip. A
        flow that knows its density (a normalising flow) is asked for it, and is exact always.

        A network that predicts something else than a velocity gives a bound from below, at the noise of the last sampling
        step (see `flowgen.log_prob`). Without conditions it is that of the unconditional model.
        """
        self._generates()
        self._from_noise("a likelihood")
        asked = conditions or [{}] * len(clips)
        cond = self.on_device(encode_conditions(self.conditioners, asked))
        x, mask = self.encoder.encode(clips)
        if mask is not None:
            raise UsageError("a likelihood compares latents of one size; give clips of one length, with all streams")
        probe = None if exact else rademacher(x, seed)
        with self.refusals():
            flow = self.flow(x)
            if isinstance(flow, KnowsDensity):
                return flow.log_prob(x, cond).detach()
            times, noise = self.grid(self.config.sample, x), None
            if not has_velocity(flow, times[-1]):  # an error of its estimate would be divided by 1 - t
                times, noise = times[:-1], Randomness(seed, 0, len(clips)).normal(x)
            return log_prob(flow, x, times[[0, -1]], cond=cond, probe=probe, noise=noise).log_prob

    def _from_noise(self, what: str) -> None:
        if self.pairs == "clips":
            raise UsageError(f"this run is a bridge from clips to clips; {what} wants one that starts from noise")

    def _generates(self) -> None:
        """UsageError: this is an autoencoder."""
        if self.experiment.reconstructs:
            raise UsageError(
                f"{self.config.name} is an autoencoder and generates nothing; train a generator on its latents with "
                f"encoder={{type: trained, run: FOLDER}}, or measure it with flowgen eval"
            )

    @torch.no_grad()
    def reconstruct(self, clips: Sequence[Clip]) -> list[Clip]:
        """Clips as an autoencoder gives them back, with the conditions that they had; of a generator, as its encoder does."""
        out: list[Clip] = []
        size = self.config.sample.batch_size
        for start in range(0, len(clips), size):
            x, mask = self.encoder.encode(clips[start : start + size])
            if self.experiment.reconstructs:
                x = self.network(x, torch.zeros((), device=self.device), {} if mask is None else {MASK: mask})
            out += self.encoder.decode(Latents(x, mask))
        return [Clip(new.data, new.rate, old.conditions, old.source) for new, old in zip(out, clips, strict=True)]

    @contextmanager
    def refusals(self) -> Iterator[None]:
        """What the mathematics refuses (a singular grid, values that are not finite) as an error of the request."""
        try:
            yield
        except ValueError as error:
            raise FlowgenError(f"cannot sample {self.config.name}: {error}") from error

    def path(self, settings: Sample) -> Paths:
        """The path that is sampled on: the one trained on, unless settings say otherwise."""
        return self.loss.path if settings.path is None else build("path", settings.path)

    @cached_property
    def weights_checksum(self) -> str:
        """SHA-256 of the network's weights, adapters included: what a learned solver belongs to."""
        return checksum_of(self.network)

    def solver(self, settings: Sample) -> Solver:
        """The solver of a sample. UsageError: it was learned for another run, or other settings (see `flowgen.runs.learned`)."""
        solver: Solver = build("solver", settings.solver)
        return learned_table(solver.name, self, settings) if isinstance(solver, Learned) else solver

    def grid(self, settings: Sample, x: State) -> Tensor:
        """The times of the solver; ValueError where the path or the network does not have them."""
        if isinstance(solver := self.solver(settings), NonStationary):
            return solver.grid  # a table has its own times
        if settings.grid == "model":
            if not isinstance(self.network, OwnTimes):
                raise ValueError(
                    f"sample.grid: model is for networks with times of their own, as pretrained ones; the network "
                    f"{self.config.network.type!r} has none: take uniform"
                )
            return check_grid(self.network.sampling_times(settings.steps, x))
        path = self.path(settings)
        single = None if isinstance(path, Mapping) else path
        shift = self.experiment.shift
        if isinstance(shift, Mapping):  # each stream has a clock of its own, see `Experiment.flow`
            return make_grid(settings.grid, settings.steps, single)
        return make_grid(settings.grid, settings.steps, single, shift_factor(shift, x))

    def flow(self, x: State) -> Flow:
        """The flow of this run's network, for states like x."""
        return self.experiment.flow(self.network, x)

    def on_device(self, cond: Mapping[str, Any]) -> dict[str, Any]:
        return tree_map(lambda v: v.to(self.device), dict(cond))


def device_named(name: str) -> torch.device:
    """A device that tensors can be put on. UsageError: there is none of that name."""
    try:
        device = torch.device(name)
        if device.type == "meta":
            raise RuntimeError("it holds no values")
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError, ImportError) as error:
        reason = str(error).partition("\n")[0].partition(". ")[0]
        raise UsageError(
            f"the device {name!r} cannot be used ({reason}); give cpu, or one that flowgen doctor lists"
        ) from None
    return device

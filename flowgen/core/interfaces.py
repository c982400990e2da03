"""The protocols of the mathematics, in full. Everything else in the core implements or composes these.

Conventions: t = 0 is the source (noise) x0 and t = 1 is the data x1; times are float32 or float64 of any shape and meet a
state from the left ([], [B], [B, T] all meet [B, T, ..., C]). Wherever one path, time, shift or prediction is asked for, a
dict of them by stream may stand: one for all streams, or one a stream.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol, TypeAlias, get_args, runtime_checkable

from torch import Tensor

from flowgen.core.tree import State

if TYPE_CHECKING:
    from flowgen.core.estimate import Estimate
    from flowgen.core.random import Randomness

Prediction: TypeAlias = Literal["velocity", "data", "noise", "score", "v"]
"""What a network outputs. "v" is the v-prediction of diffusion models, alpha x0 - sigma x1 (Salimans and Ho 2022, section 4)."""
PREDICTIONS: tuple[str, ...] = get_args(Prediction)
Predictions: TypeAlias = Prediction | Mapping[str, Prediction]
"""One prediction, or one a stream."""

Cond: TypeAlias = Mapping[str, Any]
"""Conditions as a network takes them: batch-first tensors (or trees of them) by name. See `flowgen.media.conditions`."""

MASK = "mask"
"""The reserved key under which a mask of valid positions travels with the conditions."""
SOURCE = "source"
"""The reserved key under which the source of each clip travels with the conditions, for the coupling `given-pairs`."""
REJECTED = "rejected"
"""The reserved key under which the rejected clip of each pair travels with the conditions: {"x": states [B, ...], MASK: mask}."""
STREAM_LOSSES = "stream_losses"
"""The reserved key under which moving averages of the losses of streams travel with the conditions: [B] by stream."""
END_TIME = "end_time"
"""The reserved key under which the time s of a flow map travels with the conditions: [B], or left-aligned with the state."""


class NetworkInput(NamedTuple):
    """A number that a loss shows the network beside x and t: `cond[name]`, [B] or left-aligned with the state."""

    name: str
    frequency: float = 16.0
    """The highest angular frequency at which the network sees it; 256 tells apart what differs by a thousandth."""


SECOND_TIME = NetworkInput(END_TIME, 256.0)
"""The second time of a flow map."""
GUIDANCE_SCALE = NetworkInput("guidance_scale", 8.0)
"""The scale of the guidance that a distilled network has learned to follow in one evaluation."""


class Coefficients(NamedTuple):
    """alpha, sigma and their derivatives at t, each of the shape of t."""

    alpha: Any
    sigma: Any
    dalpha: Any
    dsigma: Any

    @property
    def det(self) -> Any:
        """D = dalpha sigma - alpha dsigma = sigma^2 d(alpha/sigma)/dt, positive where the signal-to-noise ratio rises."""
        return self.dalpha * self.sigma - self.alpha * self.dsigma

    @property
    def snr(self) -> Any:
        """rho = alpha/sigma, inf where sigma = 0."""
        if isinstance(self.sigma, float):
            return self.alpha / self.sigma if self.sigma else math.inf
        return self.alpha / self.sigma


class Path(Protocol):
    """An affine probability path. One path, or a dict of paths with one a stream, goes wherever a path is asked for."""

    def __call__(self, t: Tensor) -> Coefficients:
        """Coefficients at t in [0, 1], any shape."""

    def time_of_snr(self, rho: Tensor) -> Tensor:
        """The t at which alpha/sigma = rho."""


Paths: TypeAlias = Path | Mapping[str, Path]


@runtime_checkable
class BoundsVelocity(Protocol):
    """A path that says whether its velocity is bounded; one that does not say is taken to be.

    A loss on a velocity without bound is infinite in the mean, and is refused by this word alone: nothing is computed.
    """

    @property
    def velocity_bounded(self) -> bool:
        """Whether dalpha and dsigma are finite on [0, 1], both ends included."""


class Times(Protocol):
    def __call__(self, u: Tensor) -> Tensor:
        """Times in (0, 1) at the quantiles u in (0, 1)."""


@runtime_checkable
class LeavesOutEnds(Protocol):
    """Times that say whether they leave out both ends; those that do not say are taken to reach them."""

    @property
    def leaves_out_ends(self) -> bool:
        """Whether their density vanishes at 0 and 1, like a power of the distance or faster: there a loss may be infinite."""


class Coupling(Protocol):
    def __call__(self, x0: State, x1: State, group: Tensor | None = None) -> Tensor | None:
        """A permutation p of the noise, int64 [B]: x0[p[i]] goes with x1[i]; None leaves it as it is.

        `group` [B]: only like may be permuted with like. Across conditions the noise of each would no longer be normal.
        """


@runtime_checkable
class SourceCoupling(Coupling, Protocol):
    """The source of each clip is given, in place of drawn noise: reflow and bridges."""

    start: str
    """What the sources are: "noise" of each clip's own, or "clips" (a bridge, which samples from clips, too)."""

    def source(self, cond: Cond) -> State:
        """The sources [B, ...], from the conditions. ValueError: they are not there."""


class Pairs(NamedTuple):
    """Which source goes with each clip, int64 [B] (some with none, some with several), and the weight of each pair's loss."""

    order: Tensor
    weight: Tensor | None
    """[B], in the mean about 1; None where all count alike."""


@runtime_checkable
class DrawsPairs(SourceCoupling, Protocol):
    """A source coupling that draws which of the given sources goes with each clip: transport between two sets of clips."""

    @property
    def weighted(self) -> bool:
        """Whether pairs count differently in the loss."""

    def draw_pairs(self, x0: State, x1: State, group: Tensor | None, random: Randomness) -> Pairs:
        """Pairs among sources x0 and clips x1 [B, ...] of like `group` [B], drawn from `random`. x1 stays as it is."""


@runtime_checkable
class Bridge(SourceCoupling, Protocol):
    """A source coupling whose x_t is a Brownian bridge between its ends, of variance sigma^2 t (1 - t)."""

    @property
    def sigma(self) -> float:
        """Standard deviation of the motion over all of the way."""


@runtime_checkable
class Flow(Protocol):
    """`flow(x, t, cond)` -> Estimate. Guidance wraps a Flow and is a Flow; `flowgen.NetworkFlow` makes one of a network.

    `path` and `predicts` say how its estimates are read, so that singular readings are refused before sampling begins.
    """

    @property
    def path(self) -> Paths:
        """The path it was trained on, one for all streams or one a stream."""

    @property
    def predicts(self) -> Predictions:
        """What its estimates hold, wherever (t, x) it is asked."""

    def __call__(self, x: State, t: Tensor | dict[str, Tensor], cond: Cond | None = None) -> Estimate: ...


@runtime_checkable
class Breaks(Protocol):
    """A flow whose estimates jump at some times: a solver keeps its order where no step goes over one (`sample` sees to it)."""

    @property
    def breaks(self) -> tuple[float, ...]:
        """Those times, in [0, 1]."""


@runtime_checkable
class KnowsDensity(Protocol):
    """A flow, or the network of one, that knows its density without an ODE, as a normalising flow does."""

    def log_prob(self, x: State, cond: Cond) -> Tensor:
        """log p(x | cond) of each sample, in nats [B]."""


@runtime_checkable
class FlowMap(Protocol):
    """Where the flow leads: X_{t->s}, which carries x_t to x_s in one evaluation (Boffi et al. 2024, definition 2.1).

    `sample` takes one as it takes a flow, on any grid. `flowgen.core.flow_map.MapFlow` makes it a flow.
    """

    @property
    def path(self) -> Paths: ...

    def __call__(self, x: State, t: Any, s: Any, cond: Cond | None = None) -> State:
        """X_{t->s}(x) = x + (s - t) u(x, t, s) for times t <= s, [] or [B]."""

    def average(self, x: State, t: Any, s: Any, cond: Cond | None = None) -> State:
        """u(x, t, s), the average velocity on the way from t to s; the velocity itself where s = t."""


@runtime_checkable
class GuidedFlow(Flow, Protocol):
    """A flow that follows guidance in one evaluation: it reads the scale from `cond["guidance_scale"]`."""

    @property
    def scales(self) -> tuple[float, float]:
        """The lowest and the highest scale that it was trained with."""


class LossOutput(NamedTuple):
    """Per-sample losses: `total` [B], the times [B] they were taken at, and one [B] for each stream.

    The times are a dict by stream where streams have times of their own, and None where the loss is taken at no times. A loss
    by stream is not-a-number for a clip in which nothing of that stream counts (it is absent, or given); `total` takes it for 0.
    `parts` are further figures [B] by name, such as the terms that the total is a sum of.
    """

    total: Tensor
    t: Tensor | dict[str, Tensor] | None
    by_stream: dict[str, Tensor]
    parts: Mapping[str, Tensor] = MappingProxyType({})


class Loss(Protocol):
    path: Paths
    predicts: Predictions

    def __call__(
        self, network: Callable[..., State], x1: State, cond: Cond, random: Randomness, known: State | None = None
    ) -> LossOutput:
        """The loss of `network` on data x1 [B, ...].

        `cond` may hold a mask of valid positions; `known` (bool, left-aligned with x1) marks positions that are given,
        not generated: they are shown at t = 1 and carry no loss.
        """

    def flow(self, network: Callable[..., State]) -> Flow:
        """The flow that `network` is once trained by this loss: what sampling integrates."""


@runtime_checkable
class LossWithInputs(Protocol):
    """A loss that shows the network more than x, t and the conditions: the network is built with these inputs."""

    @property
    def inputs(self) -> tuple[NetworkInput, ...]: ...


@runtime_checkable
class LossWithTeacher(Protocol):
    """A loss that asks another run, which is loaded frozen; conditions and encoder must be those of this run."""

    @property
    def teacher(self) -> str:
        """The folder of that run, an option of the loss."""

    def with_teacher(self, flow: Flow, null: Cond) -> Loss:
        """The loss that asks `flow`. `null`: null conditions [1, ...] by name, for guidance of the teacher."""


@runtime_checkable
class LossWithPairs(Protocol):
    """A loss of pairs, of which x1 is what was preferred: each training clip comes with a rejected one (`Clip.rejected`)."""

    def rejected(self, cond: Cond) -> tuple[State, State | None]:
        """The states [B, ...] of the rejected clips and which positions are real, by `cond[REJECTED]`. ValueError: none there."""


@runtime_checkable
class LossWithAverage(Protocol):
    """A loss that asks the averaged weights of its own run (train.ema), as they are at the beginning of each step."""

    def with_average(self, network: Callable[..., State]) -> Loss:
        """The loss that asks `network(x, t, cond)`, which has no parameters to train."""


@runtime_checkable
class LossWithLimits(Protocol):
    """A loss that some options make untrainable, while a network that was trained so can still be sampled."""

    def check_limits(self) -> None:
        """ValueError: its mean over the times is infinite. Asked before training, and by every call of the loss."""


@runtime_checkable
class LossWithBalance(Protocol):
    """A loss of several streams that may divide the loss of each by a moving average of its own.

    The trainer keeps the averages over all ranks and steps and shows them as `cond["stream_losses"]`, [B] by stream; a stream
    that has had no loss so far is missing there. Without the key, as in validation, nothing is divided.
    """

    @property
    def balance(self) -> float | None:
        """The decay of the averages in a step; None: the streams are not balanced."""


class Group(NamedTuple):
    """How a part of a loss is trained: at `rate` times the learning rate, and from step `start` on."""

    rate: float = 1.0
    start: int = 0


@runtime_checkable
class LossWithGroups(Protocol):
    """An `nn.Module` of a loss whose own modules or parameters are trained otherwise than the network.

    What it does not name is trained as the network is. All are saved and resumed with the run.
    """

    def groups(self) -> Mapping[str, Group]:
        """By the name of a module or parameter of the loss."""


@runtime_checkable
class NamesStreams(Protocol):
    """A loss with options by stream: a config that names other streams than the latents have is refused."""

    def streams_named(self) -> Mapping[str, Collection[str]]:
        """By option, the streams that it names."""


@runtime_checkable
class HasNoiseLevels(Protocol):
    """A loss that may draw the times of streams independently: then each is also learned from the others, whole."""

    noise_levels: Any
    """See `flowgen.core.losses.base.NoiseLevels`."""


class Code(NamedTuple):
    """What a bottleneck makes of features: the latent z, and by sample what it adds to the loss, `penalty` [B]."""

    z: Tensor
    penalty: Tensor


class Bottleneck(Protocol):
    """What an autoencoder's latent is made by: an `nn.Module` built with `channels`, the channels of the latent.

    Samples of a batch do not see each other, and whatever it averages over a run is a parameter: ranks share it.
    """

    features: int
    """Channels of the features that it takes."""

    def __call__(self, h: Tensor, random: Randomness | None = None, mask: Tensor | None = None) -> Code:
        """The latent [B, *axes, channels] of features [B, *axes, features]: as the decoder is given it in training, or without
        `random` as it is read afterwards, the same every time. `mask` [B, T]: the steps that count in the penalty."""


@runtime_checkable
class Quantised(Protocol):
    """A bottleneck of few values: its latents are integers."""

    def codes(self, z: Tensor) -> Tensor:
        """The integers of latents, int64 of their shape; any numbers are taken to the nearest."""

    def latents(self, codes: Tensor) -> Tensor:
        """The latents of integers. ValueError: one of them is no code."""


class Reconstruction(NamedTuple):
    """A state as an autoencoder gives it back in training, and by sample what its bottleneck adds to the loss [B]."""

    x: Tensor
    penalty: Tensor


@runtime_checkable
class Autoencoder(Protocol):
    """A network that is trained to give back its state [B, T, C] through a latent of as many steps.

    Called as a network is, it gives the state back, whatever the time.
    """

    channels: int
    """Of the latent."""
    context: int
    """On how many latent steps to each side a step depends, in encoding and in decoding."""

    def reconstruct(self, x: Tensor, random: Randomness, mask: Tensor | None = None) -> Reconstruction:
        """As in training: with what the bottleneck draws. What `mask` [B, T] leaves out is not seen."""

    def encode(self, x: Tensor) -> Tensor:
        """Latents [B, T, channels], the same every time."""

    def decode(self, z: Tensor) -> Tensor:
        """States [B, T, C]."""


@runtime_checkable
class CausalAutoencoder(Autoencoder, Protocol):
    """An autoencoder of states [B, T, *axes, C] that looks back in time alone, with fewer latent steps and positions.

    The first step is coded alone, each later latent step codes `factors[0]` of them: T = 1 + factors[0] (t - 1).
    """

    factors: tuple[int, ...]
    """How many positions of each axis make one of the latent."""

    def latent_sizes(self, sizes: Sequence[int]) -> tuple[int, ...]:
        """The axes of the latent of a state with axes of these sizes; a last latent step that is not full is filled."""

    def split(self, x: Tensor) -> Tensor:
        """What each position of the latent codes, [B, t, *latent axes, numbers]."""

    def join(self, parts: Tensor) -> Tensor:
        """The states [B, T, *axes, C] of what `split` gives."""

    def encode_in_parts(self, x: Tensor, steps: int) -> Tensor:
        """`encode`, so many latent steps at a time: equal to the whole, in memory that does not grow with T."""

    def decode_in_parts(self, z: Tensor, steps: int) -> Tensor:
        """`decode`, likewise."""


@runtime_checkable
class StartsFromData(Protocol):
    """A network whose first weights are measured on the data."""

    def start_from(self, states: Iterable[State]) -> None:
        """Set them from states of training clips. Called once, before the first step of a run that does not resume."""


@runtime_checkable
class ReconstructionLoss(Protocol):
    """A loss that trains an `Autoencoder`: such a run is no generator, and is sampled by none."""

    def reconstruction_loss(self, x: Tensor, made: Tensor, mask: Tensor | None = None) -> dict[str, Tensor]:
        """By name, each part of the loss [B] of states x that were given back as `made`, unweighted."""


Noise: TypeAlias = Callable[[State, Tensor, Tensor], State]
"""noise(x, t, s): standard normal noise with the structure of x for the step from t to s; another one for every (t, s)."""


@runtime_checkable
class Solver(Protocol):
    @property
    def order(self) -> int:
        """Order of convergence of the error at t = 1 in the step size (of expectations, for a stochastic solver)."""

    @property
    def evaluations(self) -> int:
        """Evaluations of the flow in one step."""

    def init(self, x: State) -> Any:
        """What the first step starts from besides x."""

    def step(
        self, flow: Flow, x: State, t: Tensor, s: Tensor, state: Any, noise: Noise, cond: Cond | None
    ) -> tuple[State, Any]:
        """The state at s given x at t (scalars, float64), and what the next step wants to know. s < t runs backwards."""


class Guidance(Protocol):
    def __call__(self, flow: Flow, null: Cond) -> Flow:
        """`flow`, guided away from the conditions `null` ([B, ...] by name; what it lacks stays as given).

        Null conditions say 'nothing given', or what is not wanted (a negative prompt).
        """

"""The loop over batches that every way of sampling runs, see `flowgen.runs.ways`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from torch import Tensor

from flowgen.config import ComponentConfig, build
from flowgen.config.schema import Sample
from flowgen.core.editing import Replaced, vary
from flowgen.core.flow import OnPath
from flowgen.core.guidance import check_folded
from flowgen.core.inpainting import inpaint
from flowgen.core.interfaces import MASK, Bridge, HasNoiseLevels
from flowgen.core.losses.base import level_of
from flowgen.core.rows import Rows
from flowgen.core.sampler import prior, sample
from flowgen.core.transports import check_motion
from flowgen.core.tree import State, tree_map
from flowgen.media.clip import Clip
from flowgen.media.conditions import encode_conditions
from flowgen.media.encoder import Latents
from flowgen.media.regions import KnownFlow, Whole, holds
from flowgen.media.streams import StreamSpec
from flowgen.runs.given import Given, clips_of, place, source_latents
from flowgen.runs.idle import warn_idle_guidance
from flowgen.runs.requests import Completion, FromNoise, SampleRequest

if TYPE_CHECKING:
    from flowgen.runs.generator import Generator


@dataclass(frozen=True)
class Watch:
    """Who is told how sampling goes.

    Args:
        on_step: called with the number of solver steps done, and their total.
        on_state: called with the time and what decodes the state, at the start and after each step.
    """

    on_step: Callable[[int, int], None] | None = None
    on_state: Callable[[float, Callable[[], list[Clip]]], None] | None = None

    def part(self, index: int, count: int) -> Watch:
        """Of one of several calls of the same size."""
        on_step = self.on_step
        if on_step is None:
            return self
        return replace(self, on_step=lambda done, total: on_step(index * total + done, count * total))


@dataclass(frozen=True)
class Around:
    """What samples are made from besides noise: clips that are parts of them, a clip to vary, or clips to start from."""

    given: Sequence[Given] = ()
    completion: Completion | None = None
    varied: Clip | None = None
    from_t: float = 0.0
    sources: Sequence[Clip] = ()

    @property
    def guided(self) -> int | None:
        """The number of particles, where gradients lead to what is given."""
        return self.completion.particles if self.completion and self.completion.method == "guided" else None


def solve_rows(
    generator: Generator,
    request: SampleRequest,
    asked: Sequence[Mapping[str, Any]],
    watch: Watch,
    around: Around,
    lengths: Sequence[float | None] | None = None,
    cut_to: float | None = None,
) -> list[Clip]:
    """Clips under the conditions `asked`, one for each chosen row.

    Args:
        lengths: in seconds of each clip, None: as trained.
        cut_to: the length of all clips, where they are made longer than it.
    """
    settings, rows = settings_of(generator, request), request.chosen
    cond = encode_conditions(generator.conditioners, asked)
    null = encode_conditions(generator.conditioners, [request.negative or {}] * len(rows))
    shapes = _shapes(generator, len(rows), lengths, around)
    batches = list(parts(range(len(rows)), settings.batch_size))
    clips: list[Clip] = []
    for index, here in enumerate(batches):
        own = slice(here.start, here.stop)
        there = range(rows.start + here.start, rows.start + here.stop)
        drawn = request.draws if isinstance(request, FromNoise) else None
        draws = None if drawn is None else drawn[there.start : there.stop]
        noise = Rows(request.seed, there, shapes[own], generator.device, draws)
        conds = [generator.on_device(tree_map(lambda v, own=own: v[own], c)) for c in (cond, null)]
        if noise.mask is not None:
            conds[0][MASK] = noise.mask
        local = replace(around, sources=clips_of(around.sources, here))
        x = _batch(generator, settings, noise, conds[0], conds[1], local, watch.part(index, len(batches)))
        clips += generator.encoder.decode(Latents(x, noise.mask))
    wanted = [cut_to] * len(rows) if lengths is None else lengths
    clips = [generator.lengths.cut_back(clip, seconds) for clip, seconds in zip(clips, wanted, strict=True)]
    return described(clips, asked)


def _batch(
    generator: Generator,
    settings: Sample,
    batch: Rows,
    cond: dict[str, Any],
    null: dict[str, Any],
    around: Around,
    watch: Watch,
) -> State:
    """The state at t = 1 of one batch."""
    n, guided = len(batch.rows), around.guided
    x0 = source_latents(generator.encoder, around.sources, n) if around.sources else batch.noise("sample")

    def show(t: float, x: State) -> None:
        if watch.on_state is not None:
            seen = kept.restore(x) if isinstance(kept, KnownFlow) else x
            watch.on_state(t, lambda: generator.encoder.decode(Latents(seen, batch.mask)))

    def on_step(i: int, t: float, x: State) -> None:
        if watch.on_step is not None:
            watch.on_step(i + 1, len(grid) - 1)
        show(t, x)

    def noise_fn(x: State, t: Tensor, s: Tensor) -> State:
        if around.sources and not isinstance(generator.experiment.coupling, Bridge):
            raise ValueError("a bridge starts from no noise, and knows no score: take a solver of the ODE, as heun")
        return batch.noise(f"solver {float(t)!r}")

    with generator.refusals():
        grid = generator.grid(settings, x0)
        x = prior(generator.path(settings), x0, float(grid[0]))
        replaced = () if guided is not None else around.given
        flow, kept = sampled_flow(generator, settings, grid, null, replaced, x, x0, batch.rows)
        solver = generator.solver(settings)
        check_motion(generator.experiment.coupling, solver)
        show(0.0, x)
        if guided is not None:
            known = place(generator.encoder, around.given, x, batch.rows)
            x = inpaint(flow, *known, x0, grid, particles=guided, cond=cond, draws=noise_fn, on_step=on_step)
        elif around.varied is None:
            warn_idle_guidance(flow, grid, solver)
            x = sample(flow, x, grid, solver=solver, cond=cond, noise=noise_fn, on_step=on_step)
        else:
            x1 = tree_map(lambda v, x: v.expand_as(x), generator.encoder.encode([around.varied]).x, x)
            x = vary(flow, x1, x0, around.from_t, grid, solver=solver, cond=cond, draws=noise_fn)
            if watch.on_step is not None:
                watch.on_step(len(grid) - 1, len(grid) - 1)
    return kept.restore(x) if kept is not None else x


def sampled_flow(
    generator: Generator,
    settings: Sample,
    grid: Tensor,
    null: dict[str, Any],
    given: Sequence[Given],
    x: State,
    noise: State,
    rows: range,
) -> tuple[Any, KnownFlow | Replaced | None]:
    """The flow that is sampled: the network's, on its path, with guidance and given parts; and what restores these."""
    flow: Any = generator.flow(x)
    rules = [build("guidance", guidance, encoder=generator.encoder) for guidance in chain(settings)]
    check_folded(flow, rules)
    kept: KnownFlow | Replaced | None = None
    x1, known = place(generator.encoder, given, x, rows) if given else (x, None)
    learned = known is not None and _learned(generator, known)
    if known is not None and learned:
        flow = kept = KnownFlow(flow, x1, known)
    if settings.path is not None:
        flow = OnPath(flow, build("path", settings.path), float(grid[0]), float(grid[-1]))
    for guidance in rules:
        flow = guidance(flow, null)
    if known is not None and not learned:  # a network that has never seen a known region
        flow = kept = Replaced(flow, x1, noise, known)
    return flow, kept


def _learned(generator: Generator, known: State) -> bool:
    """Whether the network was shown in training, at t = 1, what is known here, bool [B, *axes]: a region (of each stream of
    which a part is known), or a whole stream whose time is drawn independently of those that are generated."""
    spec, regions = generator.encoder.spec, generator.experiment.regions
    if not isinstance(known, Mapping) or isinstance(spec, StreamSpec):
        return bool(regions)
    loss = generator.loss
    levels: Any = loss.noise_levels if isinstance(loss, HasNoiseLevels) else "shared"
    others = {level_of(levels, name) for name, leaf in known.items() if not bool(leaf.all())}

    def learned(name: str, leaf: Tensor) -> bool:
        own = [region for region in regions if holds(region, name, spec[name])]
        if bool(leaf.all()):
            return any(isinstance(r, Whole) for r in own) or level_of(levels, name) not in others
        return any(not isinstance(r, Whole) for r in own)

    return all(learned(name, leaf) for name, leaf in known.items() if bool(leaf.any()))


def _shapes(generator: Generator, n: int, lengths: Sequence[float | None] | None, around: Around) -> list[Any]:
    """The latent shape of each clip (by stream, where there are several)."""
    first = [around.varied] if around.varied is not None else around.sources[:1]
    if first:
        shape = tree_map(lambda x: tuple(x.shape[1:]), generator.encoder.encode(first).x)
        return [shape] * n
    if lengths is None:
        return [generator.lengths.trained] * n
    found = {s: generator.lengths.at_least(s)[1] for s in dict.fromkeys(lengths) if s is not None}
    return [generator.lengths.trained if s is None else found[s] for s in lengths]


def settings_of(generator: Generator, request: SampleRequest) -> Sample:
    return request.settings or generator.config.sample


def accurate(settings: Sample, steps: int) -> Sample:
    """The settings in so many steps; a grid of given times, or a solver with a grid of its own, does not go on to them."""
    changed: dict[str, Any] = {"steps": steps}
    if not isinstance(settings.grid, str):
        changed["grid"] = "uniform"
    if settings.solver.type in ("learned", "table"):
        changed["solver"] = ComponentConfig(type="dpm++2m")
    return settings.model_copy(update=changed)


def chain(settings: Sample) -> list[ComponentConfig]:
    """The guidance of a sample, each one wrapped by the next."""
    guidance = settings.guidance
    return guidance if isinstance(guidance, list) else [guidance] if guidance is not None else []


def asked_conditions(request: SampleRequest) -> list[Mapping[str, Any]]:
    """The conditions of the chosen rows."""
    return [request.conditions[i] for i in request.chosen]


def described(clips: Sequence[Clip], conditions: Sequence[Mapping[str, Any]]) -> list[Clip]:
    """Clips with the conditions they were made under."""
    return [Clip(clip.data, clip.rate, dict(asked), clip.source) for clip, asked in zip(clips, conditions, strict=True)]


def parts(rows: range, size: int) -> Iterator[range]:
    for start in range(rows.start, rows.stop, size):
        yield range(start, min(start + size, rows.stop))

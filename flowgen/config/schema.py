"""The fixed part of a config. Sections that name a component are checked against that component's own signature."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    PositiveInt,
    Tag,
)
from pydantic_core import PydanticCustomError


class Section(BaseModel):
    """Unknown keys are errors, and nothing changes after validation."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False)


class ComponentConfig(BaseModel):
    """A component by its name, with the options of its own signature. A bare name stands for {type: name}."""

    model_config = ConfigDict(extra="allow", frozen=True)
    type: str

    @property
    def options(self) -> dict[str, Any]:
        return dict(self.model_extra or {})


class Slot(str):
    """Marks a field that holds a component of this kind (or a list of them)."""

    def __get_pydantic_json_schema__(self, core: Any, handler: Any) -> Any:
        """In a JSON schema, the sections of components are those of this kind (see `flowgen.config.json_schema`)."""
        return _of_kind(handler(core), str(self))


COMPONENT = "x-component"
"""In a JSON schema that pydantic makes, the kind of component that belongs here."""


def _of_kind(schema: Any, kind: str) -> Any:
    if isinstance(schema, dict):
        if "ComponentConfig" in str(schema.get("$ref", "")):
            return {**{k: v for k, v in schema.items() if k != "$ref"}, COMPONENT: kind}
        return {key: value if key == "default" else _of_kind(value, kind) for key, value in schema.items()}
    return [_of_kind(part, kind) for part in schema] if isinstance(schema, list) else schema


def _component(value: Any) -> Any:
    return {"type": value} if isinstance(value, str) else value


Named = Annotated[ComponentConfig, BeforeValidator(_component)]
"""A component section. `Annotated[Named, Slot(kind)]` marks one in the config, and among the options of a component."""


class StreamSlot(Slot):
    """Marks a field that holds a component for all streams, or one a stream: {sound: cosine, picture: {type: linear}}."""


def _of_stream(value: Any) -> Any:
    if not isinstance(value, (str, Mapping, ComponentConfig)):
        raise PydanticCustomError(
            "stream",
            "expected the name of a component, or a section with a type: in a section without one, each key is a stream",
        )
    return _component(value)


OnePerStream: TypeAlias = dict[str, Annotated[ComponentConfig, BeforeValidator(_of_stream)]]
"""Component sections by stream; to be marked by a `StreamSlot`."""
NamedByStream: TypeAlias = Annotated[
    Annotated[Named, Tag("component")] | Annotated[OnePerStream, Tag("streams")],
    Discriminator(lambda value: "streams" if isinstance(value, Mapping) and "type" not in value else "component"),
]
"""A component section, or one a stream; to be marked by a `StreamSlot`."""


class ConditionConfig(BaseModel):
    """A condition the network takes. The data set says of which type; options of the conditioner may be given here."""

    model_config = ConfigDict(extra="allow", frozen=True)
    type: str | None = None
    dropout: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Probability that a training sample does not see this condition."""

    @property
    def options(self) -> dict[str, Any]:
        return dict(self.model_extra or {})


class Schedule(Section):
    """Learning rate over the run: linear warm-up over `warmup` steps, then decay to `floor` times the peak."""

    warmup: Annotated[int, Field(ge=0)] = 100
    decay: Literal["constant", "linear", "cosine"] = "cosine"
    floor: Annotated[float, Field(ge=0, le=1)] = 0.0


class EMA(Section):
    """Exponential moving average of the weights, in float32; its decay ramps up as min(decay, (1 + step)/(10 + step))."""

    decay: Annotated[float, Field(ge=0, lt=1)] = 0.999
    profiles: tuple[Annotated[float, Field(gt=0, lt=0.28)], ...] = ()
    """Power-function averages beside it, each by its width relative to the length of the run: ema-0.1.safetensors."""


class Checkpoints(Section):
    """A checkpoint every `every` steps (and at the end), of which the newest `keep` stay."""

    every: PositiveInt = 500
    keep: PositiveInt = 2
    background: bool = False
    """Write while training goes on, from a copy in the memory of the host."""
    on_damage: Literal["refuse", "previous"] = "refuse"
    """What --resume does with a checkpoint whose files are damaged: refuse, or go on from the one before."""
    mirror: Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9+.:-]*://.+$")] | None = None
    """The URL of a folder, as in s3://bucket/runs/mine, that keeps a copy of the run: --resume on an empty machine goes on from it."""


class Validation(Section):
    """Loss of the averaged weights on held-out clips at fixed times and noise. every 0: never."""

    every: Annotated[int, Field(ge=0)] = 500
    clips: PositiveInt = 64
    quantiles: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = (0.1, 0.3, 0.5, 0.7, 0.9)


class Previews(Section):
    """Clips sampled as `flowgen sample` does it, at fixed seeds, from the averaged and the raw weights. every 0: never."""

    every: Annotated[int, Field(ge=0)] = 1000
    clips: PositiveInt = 4


class Train(Section):
    steps: PositiveInt
    batch_size: PositiveInt = 32
    """Clips in one optimizer step, over all ranks and micro-batches; of full size, where the data set has buckets."""
    micro_batch_size: PositiveInt | None = None
    """Clips in one forward pass of one rank; by default a rank's whole share."""
    precision: Literal["float32", "bfloat16"] = "float32"
    optimizer: Annotated[Named, Slot("optimizer")] = ComponentConfig(type="adamw")
    """Its `lr` is the peak of the schedule."""
    schedule: Schedule = Schedule()
    clip: Annotated[float, Field(ge=0)] = 1.0
    """Largest norm of the gradient; 0: no clipping."""
    ema: EMA = EMA()
    condition_dropout: Annotated[float, Field(ge=0, le=1)] = 0.1
    """Probability that a sample sees no condition at all (what classifier-free guidance needs)."""
    seed: int = 0
    workers: Annotated[int, Field(ge=0)] = 0
    """Processes that load data; 0: the training process itself."""
    cache: str | None = None
    """The folder of a latent cache that `flowgen data cache` made of this config: training reads latents and encodes nothing."""
    log_every: PositiveInt = 20
    max_skipped: Annotated[int, Field(ge=0)] = 20
    """Steps whose loss or gradient is not finite are skipped; after this many in a row the run stops."""
    max_loss: Annotated[float, Field(gt=0)] = 1e4
    """A step in which the loss of a sample is above this is skipped as well."""
    activation_checkpointing: bool = False
    """Recompute the network's repeated blocks in the backward pass instead of keeping what they made."""
    sequence_parallel: PositiveInt = 1
    """Ranks that share each clip: its tokens, and the heads of attention, are divided among them (Ulysses)."""
    compile: str | None = None
    """A backend of torch.compile ("inductor") for the network's repeated blocks."""
    timeout_s: Annotated[float, Field(gt=0)] = 600.0
    """After this long, a rank that waits for another gives up."""
    watchdog_s: Annotated[float, Field(ge=0)] = 300.0
    """A rank that stands still for this long says where; 0: never."""
    checkpoint: Checkpoints = Checkpoints()
    validation: Validation = Validation()
    preview: Previews = Previews()


class Sample(Section):
    """Defaults of `flowgen sample`, previews and evaluation."""

    steps: PositiveInt = 16
    """Solver steps; a grid that is a list of times has its own."""
    solver: Annotated[Named, Slot("solver")] = ComponentConfig(type="dpm++2m")
    guidance: Annotated[Named | list[Named] | None, Slot("guidance")] = None
    """One guidance, or a chain of which each wraps those before it."""
    grid: Literal["uniform", "eased", "karras", "model"] | tuple[float, ...] = "uniform"
    """Where the solver stops: evenly in time or closer at both ends (then shifted), at the noise levels of Karras et al.,
    at the times of a pretrained model's own scheduler (never shifted), or at these times."""
    path: Annotated[Named | None, Slot("path")] = None
    """A path to sample on, where it is not the one trained on."""
    batch_size: PositiveInt = 64


class Eval(Section):
    """What `flowgen eval` measures."""

    clips: PositiveInt = 100
    seed: int = 1
    metrics: Annotated[list[Named], Slot("metric")] = []


class TokenShiftConfig(Section):
    """A shift that grows with the size of a latent: (positions / base)^power."""

    base: PositiveInt
    power: float = 0.5


def _run_folder(value: str) -> str:
    if ".." in value.split("/") or value.strip("./") == "":
        raise ValueError("a run folder is written without '..', as in runs/mine")
    return value


OneShift: TypeAlias = Annotated[float, Field(gt=0)] | TokenShiftConfig


class Config(Section):
    """A whole run."""

    name: Annotated[str, Field(pattern=r"^[\w+-][\w.+-]*$", max_length=100)]
    run: Annotated[str, AfterValidator(_run_folder)] | None = None
    """The run folder; runs/NAME by default."""
    modality: Annotated[Named, Slot("modality")]
    data: Annotated[Named, Slot("dataset")]
    encoder: Annotated[Named, Slot("encoder")]
    network: Annotated[Named, Slot("network")]
    conditions: dict[str, ConditionConfig] | None = None
    """Conditions by name; all that the data set offers where the key is left out."""
    known: Annotated[list[Named], Slot("region")] = []
    """Known regions: parts of a clip that some training samples are given, each with its probability."""
    path: Annotated[NamedByStream, StreamSlot("path")] = ComponentConfig(type="linear")
    """The probability path; of several streams, also one a stream: {sound: cosine, picture: {type: linear}}."""
    times: Annotated[NamedByStream, StreamSlot("times")] = ComponentConfig(type="uniform")
    """The distribution of training times, or one a stream (then `loss.noise_levels` says which streams share a draw)."""
    shift: Annotated[OneShift | dict[str, OneShift], Field(union_mode="left_to_right")] = 1.0
    """Shift of the times, in training and in sampling alike; above 1 spends more of them near the noise. Or one a stream."""
    coupling: Annotated[Named, Slot("coupling")] = ComponentConfig(type="independent")
    loss: Annotated[Named, Slot("loss")] = ComponentConfig(type="flow-matching")
    train: Train
    sample: Sample = Sample()
    eval: Eval = Eval()
    loggers: Annotated[list[Named], Slot("logger")] = [
        ComponentConfig(type="jsonl"),
        ComponentConfig(type="tensorboard"),
    ]
    deepspeed: dict[str, Any] | str = {}
    """A DeepSpeed config to merge, or the path of its JSON file."""

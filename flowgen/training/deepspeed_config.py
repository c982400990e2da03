"""The DeepSpeed config: ours, derived from the `train` section, merged with the user's, contradictions refused."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flowgen.config.schema import Config
from flowgen.errors import UsageError, unknown
from flowgen.files import read_json

# DeepSpeed ignores an unknown top-level key in silence, so the list is ours to keep (0.19, sections not removed).
KNOWN_KEYS = frozenset(
    [
        "activation_checkpointing",
        "aio",
        "bf16",
        "checkpoint",
        "comms_logger",
        "communication_data_type",
        "compile",
        "csv_monitor",
        "data_efficiency",
        "data_types",
        "dataloader_drop_last",
        "disable_allgather",
        "disable_python_gc",
        "dump_state",
        "flops_profiler",
        "fp16",
        "gradient_accumulation_steps",
        "gradient_allreduce_op",
        "gradient_clipping",
        "gradient_predivide_factor",
        "hybrid_engine",
        "memory_breakdown",
        "prescale_gradients",
        "seq_parallel_communication_data_type",
        "sequence_parallel_size",
        "steps_per_print",
        "tensor_parallel",
        "timers",
        "torch_autocast",
        "train_batch_size",
        "train_micro_batch_size_per_gpu",
        "use_node_local_storage",
        "wall_clock_breakdown",
        "zero_allow_untested_optimizer",
        "zero_force_ds_cpu_optimizer",
        "zero_optimization",
    ]
)
_OURS = {
    "train_batch_size": "train.batch_size",
    "train_micro_batch_size_per_gpu": "train.micro_batch_size",
    "gradient_accumulation_steps": "train.micro_batch_size",
    "gradient_clipping": "train.clip",
}
_ELSEWHERE = {
    "optimizer": "it is set by train.optimizer",
    "sequence_parallel_size": "it is set by train.sequence_parallel",
    "scheduler": "it is set by train.schedule",
    "tensorboard": "figures are logged by the 'loggers' section",
    "wandb": "figures are logged by the 'loggers' section",
}


def user_config(config: Config) -> dict[str, Any]:
    """The user's DeepSpeed section, read from its JSON file where the config names one."""
    if isinstance(config.deepspeed, Mapping):
        return dict(config.deepspeed)
    path = Path(config.deepspeed)
    try:
        value = read_json(path)
    except UsageError as error:
        raise UsageError(f"deepspeed: {error}") from None
    if not isinstance(value, dict):
        raise UsageError(f"deepspeed: {path} must hold a JSON object")
    return value


def data_ranks(config: Config, ranks: int) -> int:
    """Ranks, or groups of ranks, that hold clips of their own. UsageError: the ranks do not divide."""
    shared = config.train.sequence_parallel
    if shared > 1 and config.train.compile is not None:
        raise UsageError("train.compile does not compile the exchanges of train.sequence_parallel; use one of the two")
    if ranks % shared:
        raise UsageError(
            f"train.sequence_parallel={shared} needs a number of ranks that is a multiple of it, got {ranks}"
        )
    return ranks // shared


def micro_batch_size(config: Config, ranks: int) -> int:
    """Clips in one forward pass of one rank. UsageError: the global batch does not divide."""
    batch, ranks = config.train.batch_size, data_ranks(config, ranks)
    if batch % ranks:
        raise UsageError(f"train.batch_size={batch} does not divide among {ranks} ranks; choose a multiple of {ranks}")
    micro = config.train.micro_batch_size or batch // ranks
    if batch % (micro * ranks):
        raise UsageError(
            f"train.batch_size={batch} is not a multiple of train.micro_batch_size={micro} times {ranks} ranks; "
            f"global batch = micro-batch x accumulation steps x ranks"
        )
    return micro


def deepspeed_config(config: Config, ranks: int) -> dict[str, Any]:
    """What `deepspeed.initialize` gets. UsageError names a key that is unknown or contradicts the config."""
    micro = micro_batch_size(config, ranks)
    ours: dict[str, Any] = {
        "train_batch_size": config.train.batch_size * config.train.sequence_parallel,  # it knows of no sharing
        "train_micro_batch_size_per_gpu": micro,
        "gradient_accumulation_steps": config.train.batch_size // (micro * data_ranks(config, ranks)),
        "gradient_clipping": config.train.clip,
        "zero_optimization": {"stage": 1 if ranks > 1 else 0},  # alone, there is nothing to shard
        "zero_allow_untested_optimizer": True,
        "steps_per_print": 1 << 40,
    }
    if config.train.precision == "bfloat16":
        ours["torch_autocast"] = {"enabled": True, "dtype": "bfloat16"}
    user = user_config(config)
    for key, value in user.items():
        if key in _ELSEWHERE:
            raise UsageError(f"deepspeed.{key}: {_ELSEWHERE[key]}; remove it here")
        if key not in KNOWN_KEYS:
            raise UsageError(f"deepspeed: {unknown('key', key, KNOWN_KEYS)}")
        if key in _OURS and value not in (ours[key], "auto"):
            raise UsageError(
                f"deepspeed.{key}={value} contradicts {_OURS[key]} (which gives {ours[key]}); remove one of the two"
            )
    merged = _merge(ours, {k: v for k, v in user.items() if v != "auto"})
    _refuse_unsound(merged)
    if config.network.type == "lora" and config.network.options.get("swap_blocks"):
        _refuse_swapping(config, merged)
    if merged["zero_optimization"].get("stage", 0) == 0:
        merged["gradient_clipping"] = 0.0  # the trainer clips: it needs the norm, to skip what is not finite
    if "offload_optimizer" in merged["zero_optimization"]:
        merged.setdefault("zero_force_ds_cpu_optimizer", False)  # AdamW of torch runs there too, without a compiler
    return merged


def _refuse_unsound(merged: Mapping[str, Any]) -> None:
    """What DeepSpeed 0.19 accepts and computes wrongly."""
    zero = merged["zero_optimization"]
    half = [key for key in ("bf16", "fp16") if merged.get(key, {}).get("enabled")]
    if half and "torch_autocast" in merged:
        raise UsageError(
            f"deepspeed.{half[0]} contradicts train.precision=bfloat16, which autocasts; use one of the two"
        )
    if half and zero.get("stage", 0) == 0:
        raise UsageError(
            f"deepspeed.{half[0]} with zero_optimization.stage=0 lets Adam take a step of zeros first (its bias correction "
            f"is off by one for the whole run); use stage 1, or train.precision=bfloat16"
        )
    if merged.get("torch_autocast", {}).get("dtype") in ("float16", "fp16"):
        raise UsageError(
            "deepspeed.torch_autocast.dtype=float16 needs a loss scaler, and DeepSpeed clips the gradients while they are scaled; "
            "use bfloat16, or fp16 with zero_optimization.stage=1"
        )
    for key in ("offload_optimizer", "offload_param"):
        if zero.get(key, {}).get("device") == "nvme":
            raise UsageError(
                f"deepspeed.zero_optimization.{key}.device=nvme keeps weights where checkpoints and averages cannot reach them; "
                f"use cpu"
            )
    if zero.get("round_robin_gradients"):
        raise UsageError(
            "deepspeed.zero_optimization.round_robin_gradients makes DeepSpeed return wrong weights for "
            "checkpoints and averages; remove it"
        )


def _refuse_swapping(config: Config, merged: Mapping[str, Any]) -> None:
    """What does not go with weights that come and go."""
    half = [key for key in ("bf16", "fp16") if merged.get(key, {}).get("enabled")]
    if merged["zero_optimization"].get("stage", 0) == 3:
        raise UsageError(
            "network.swap_blocks does not go with deepspeed.zero_optimization.stage=3, which moves weights itself; use stage 0 to 2"
        )
    if half:
        raise UsageError(
            f"network.swap_blocks does not go with deepspeed.{half[0]}, which casts the weights that are there; "
            f"set network.precision=bfloat16 instead"
        )
    if config.train.compile is not None:
        raise UsageError("network.swap_blocks does not go with train.compile; use one of the two")


def _merge(base: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    out = dict(base)
    for key, value in new.items():
        old = out.get(key)
        out[key] = _merge(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return out

"""What flowgen uses of DeepSpeed and torch beyond their public names: all of it, and nowhere else.

DeepSpeed: where each ZeRO stage keeps what a rank updates (the float32 master shards), its loss scale, its skipped steps.
Everything that is saved, averaged or moved to another number of ranks goes through `Fragment`, so that the stages differ
in this module alone.
"""

from __future__ import annotations

import atexit
import datetime
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from flowgen.core.flow_map import FORWARD_CONTEXTS
from flowgen.training.ranks import Ranks
from flowgen.weights import PRETENDED

__all__ = ["TorchDispatchMode", "tree_leaves"]


@dataclass(frozen=True)
class Fragment:
    """Elements [start, start + length) of a flattened parameter, at `offset` of shard `shard` of this rank."""

    name: str
    start: int
    length: int
    shard: int
    offset: int

    def of(self, shards: Sequence[Tensor]) -> Tensor:
        """The fragment within shards laid out as the master shards are, as a flat view."""
        return shards[self.shard].view(-1).narrow(0, self.offset, self.length)


def master_shards(engine: Any) -> list[Tensor]:
    """The float32 tensors this rank's optimizer updates: flat shards under ZeRO 1 to 3, parameters under ZeRO 0."""
    optimizer = engine.optimizer
    for name in ("fp32_partitioned_groups_flat", "single_partition_of_fp32_groups", "fp32_groups_flat_partition"):
        if hasattr(optimizer, name):
            return [t.data for t in getattr(optimizer, name)]
    return [t.data for group in optimizer.param_groups for t in group["params"]]


def optimizer_states(engine: Any) -> list[dict[str, Any]]:
    """AdamW's state of each master shard (a live dict, empty before the first step)."""
    optimizer = engine.optimizer
    for name in ("fp32_partitioned_groups_flat", "single_partition_of_fp32_groups", "fp32_groups_flat_partition"):
        if hasattr(optimizer, name):
            return [optimizer.optimizer.state[t] for t in getattr(optimizer, name)]
    return [optimizer.state[t] for group in optimizer.param_groups for t in group["params"]]


def fragments(engine: Any, ranks: Ranks) -> list[Fragment]:
    """What of the trained parameters this rank holds. Over all ranks, each element is listed once (at stage 0 by the first)."""
    names = {id(p): name for name, p in engine.module.named_parameters()}
    optimizer = engine.optimizer
    found: list[Fragment] = []
    if hasattr(
        optimizer, "fp32_partitioned_groups_flat"
    ):  # stage 3: an equal piece of every parameter, the last one padded
        for p in (p for group in optimizer.fp16_groups for p in group):
            group, offset, size = optimizer.grad_position[optimizer.get_param_id(p)]
            start = size * torch.distributed.get_rank(group=p.ds_process_group)
            length = min(size, p.ds_numel - start)
            if length > 0:
                found.append(Fragment(names[id(p)], start, length, group, offset))
        return found
    if hasattr(optimizer, "bit16_groups") or hasattr(
        optimizer, "bf16_groups"
    ):  # stages 1 and 2: one flat partition a group
        groups = getattr(optimizer, "bit16_groups", None) or optimizer.bf16_groups
        for p in (p for group in groups for p in group):
            mapping = p._hp_mapping
            if mapping is not None:
                here, there = mapping.lp_fragment_address, mapping.hp_fragment_address
                found.append(Fragment(names[id(p)], here.start, here.numel, mapping.param_group_index, there.start))
        return found
    if ranks.first:
        trained = (p for group in optimizer.param_groups for p in group["params"])
        found = [Fragment(names[id(p)], 0, p.numel(), i, 0) for i, p in enumerate(trained)]
    return found


def shapes(engine: Any) -> dict[str, torch.Size]:
    """The whole shape of every trained parameter, in the module's order."""
    return {n: getattr(p, "ds_shape", p.shape) for n, p in engine.module.named_parameters() if p.requires_grad}


def whole(parameter: Tensor) -> Tensor:
    """A parameter on the CPU, gathered where ZeRO 3 has divided it. All ranks must call it."""
    if not hasattr(parameter, "ds_id"):
        return parameter.detach().cpu()
    import deepspeed

    with deepspeed.zero.GatheredParameters([parameter]):
        return parameter.detach().cpu().clone()


def skipped_its_step(engine: Any) -> bool:
    """Whether ZeRO 1 to 3 left out the last step, whose gradients were not finite."""
    return bool(getattr(engine.optimizer, "overflow", False))


def forget_gradients(engine: Any) -> None:
    """ZeRO 3 would apply the gradient of the step before to a module that is not used in this one."""
    engine.optimizer.grad_partitions_flat_buffer.zero_()


_SCALER = ("cur_scale", "cur_iter", "last_overflow_iter", "cur_hysteresis")


def scaler_state(engine: Any) -> dict[str, float] | None:
    """Where the dynamic loss scale of fp16 stands; None: there is none."""
    scaler = getattr(engine.optimizer, "loss_scaler", None)
    return {name: getattr(scaler, name) for name in _SCALER} if getattr(scaler, "dynamic", False) else None


def load_scaler(engine: Any, state: Mapping[str, float] | None) -> None:
    for name, value in (state or {}).items():
        setattr(engine.optimizer.loss_scaler, name, value)


def set_timeouts(timeout: datetime.timedelta) -> None:
    """DeepSpeed makes groups of its own without the timeout given to `init_distributed`."""
    from torch.distributed import distributed_c10d as c10d

    for group in list(c10d._world.pg_map):
        c10d.set_timeout(timeout, group)


def store() -> Any:
    """The key-value store through which the ranks found each other."""
    return torch.distributed.distributed_c10d._get_default_store()


def never_compile_for_one_machine(deepspeed: Any) -> None:
    """Without this DeepSpeed compiles a C++ extension for two minutes on the first CPU run."""
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False


CAST = torch.ops.aten._to_copy.default
"""The operation that makes a tensor in another precision."""
CPU_ATTENTION = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
CPU_ATTENTION_BACKWARD = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


@contextmanager
def fake_tensors() -> Iterator[None]:
    """Tensors made in this block have shapes and no memory. Undecided: something depends on their values."""
    from torch._subclasses.fake_tensor import (
        DataDependentOutputException,
        DynamicOutputShapeException,
        FakeTensorMode,
        unset_fake_temporarily,
    )

    token = PRETENDED.set(unset_fake_temporarily)
    try:
        with FakeTensorMode(allow_non_fake_inputs=True):
            yield
    except (DataDependentOutputException, DynamicOutputShapeException) as error:
        raise Undecided(str(error)) from None
    finally:
        PRETENDED.reset(token)


class Undecided(Exception):
    """A computation on fake tensors that depends on the values they do not have."""


def run_exit_functions() -> None:
    """Those registered with atexit, now."""
    atexit._run_exitfuncs()


def lerp_(into: list[Tensor], toward: list[Tensor], weight: float) -> None:
    """Move tensors toward others in place, by one kernel launch where the device has it."""
    torch._foreach_lerp_(into, toward, weight)


_linear = F.linear


@contextmanager
def plain_linear() -> Iterator[None]:
    """torch's own linear function, in whose place ZeRO 3 puts one that keeps no gathered weights, for the whole process."""
    current, F.linear = F.linear, _linear
    try:
        yield
    finally:
        F.linear = current


def differentiate_forward(module: nn.Module) -> None:
    """Make what ZeRO 3 does to a module and to torch differentiable forward.

    The functions that it puts around every module change nothing, and so pass on a derivative as it is.
    """
    if plain_linear not in FORWARD_CONTEXTS:
        FORWARD_CONTEXTS.append(plain_linear)
    for owner in module.modules():
        for name in ("pre_bwd_fn", "post_bwd_fn"):
            function = vars(owner).get(name)
            if function is not None:
                function.jvp = staticmethod(lambda ctx, tangent: tangent.clone())

"""What this machine can compute in: asked of DeepSpeed and torch in one place, before anything is built."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from flowgen.errors import UsageError

_SECTIONS = {"fp16": torch.float16, "bf16": torch.bfloat16}
"""The sections of a DeepSpeed config that keep weights in half precision."""


def precision_gap(dtype: torch.dtype) -> str | None:
    """Why DeepSpeed cannot train in `dtype` on this machine, as a part of a sentence; None: it can."""
    from deepspeed.accelerator import get_accelerator

    accelerator = get_accelerator()
    if dtype in accelerator.supported_dtypes():
        return None
    kind = "processor" if accelerator.device_name() == "cpu" else f"{accelerator.device_name()} device"
    return f"this {kind} has no instructions for {str(dtype).removeprefix('torch.')}"


def check_precision(config: Mapping[str, Any]) -> None:
    """UsageError: a DeepSpeed config keeps weights in a precision that this machine does not have."""
    for section, dtype in _SECTIONS.items():
        gap = precision_gap(dtype) if config.get(section, {}).get("enabled") else None
        if gap is not None:
            raise UsageError(
                f"deepspeed.{section}: {gap}; train with train.precision=bfloat16 or float32 in its place, "
                f"or on a machine that has them"
            )

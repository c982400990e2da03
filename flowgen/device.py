"""Where tensors are computed. No other file names a kind of accelerator: torch says which one is there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

CPU = torch.device("cpu")

_COUNTS_MEMORY = ("cuda", "xpu")
"""Kinds whose module of torch has names of devices and the largest memory so far; `mps` has neither."""

_PINS = ("cuda", "xpu")
"""Kinds to which page-locked memory of the host is copied while the host goes on."""


def accelerator() -> torch.device | None:
    """The kind of accelerator that torch has on this machine, without an index; None: it has none."""
    return torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None


def device_count() -> int:
    """Accelerators that this process sees; 0: it computes on the CPU."""
    return torch.accelerator.device_count() if torch.accelerator.is_available() else 0


def default_device() -> torch.device:
    """The accelerator that this process has made its own, or the first one; the CPU where there is none."""
    kind = accelerator()
    return CPU if kind is None else torch.device(kind.type, torch.accelerator.current_device_index())


def device_of_process(number: int) -> torch.device:
    """The accelerator of process `number` of several on this machine, which share them in turn; the CPU where there is none."""
    kind = accelerator()
    return CPU if kind is None else torch.device(kind.type, number % device_count())


def claim_device(number: int) -> torch.device:
    """Make accelerator `number` the one on which this process computes; the CPU where there is none.

    Whatever asks for `default_device` from now on is given this one: else the text encoders of all ranks would meet on the
    first. ValueError: the machine has fewer.
    """
    kind = accelerator()
    if kind is None:
        return CPU
    if not 0 <= number < device_count():
        raise ValueError(f"process {number} of this machine has no accelerator of its own: torch sees {device_count()}")
    torch.accelerator.set_device_index(number)
    return torch.device(kind.type, number)


def device_name(device: torch.device) -> str:
    """What the maker calls it; the kind where torch does not tell."""
    if device.type in _COUNTS_MEMORY:
        return str(torch.get_device_module(device).get_device_name(device))
    return device.type


def peak_memory(device: torch.device) -> int | None:
    """Largest number of bytes that tensors have held on it; None: torch does not count them there."""
    if device.type in _COUNTS_MEMORY:
        return int(torch.get_device_module(device).max_memory_allocated(device))
    return None


def seed_device(device: torch.device, seed: int) -> None:
    """Seed torch's own generator of an accelerator; of the CPU, that of the CPU."""
    if device.type == "cpu":
        torch.default_generator.manual_seed(seed)
    else:
        torch.get_device_module(device).manual_seed(seed)


def synchronize(device: torch.device) -> None:
    """Wait until the device has done what it was asked."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def pins(device: torch.device) -> bool:
    """Whether memory of the host is page-locked before it is copied there."""
    return device.type in _PINS


def pin(value: Any) -> Any:
    """A tensor in page-locked memory; what is no tensor of the host, as it is."""
    host = isinstance(value, Tensor) and value.device.type == "cpu"
    return value.pin_memory() if host and not value.is_pinned() else value


def send(value: Tensor, device: torch.device) -> Tensor:
    """A tensor on a device. From the host to an accelerator it is copied while the host goes on, out of page-locked memory.

    `Tensor.to` would wait for the copy, and with it for everything that the device has still to do.
    """
    if value.device.type == "cpu" and pins(device):
        return pin(value).to(device, non_blocking=True)
    return value.to(device)


class Copies:
    """Copies from the host to a device, beside what it computes where its memory is page-locked, else at once."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._module = torch.get_device_module(device) if pins(device) else None
        self._stream = None if self._module is None else self._module.Stream(device)

    def start(self, pairs: Sequence[tuple[Tensor, Tensor]]) -> Callable[[], None]:
        """Begin to copy each second tensor into its first; returns what makes later computation wait for that."""
        if self._module is None or self._stream is None:
            for there, host in pairs:
                there.copy_(host)
            return lambda: None
        module = self._module
        # the memory may be in use by what the device has still to do
        self._stream.wait_stream(module.current_stream(self.device))
        with module.stream(self._stream):
            for there, host in pairs:
                there.copy_(host, non_blocking=True)
        done = self._stream.record_event()
        return lambda: module.current_stream(self.device).wait_event(done)


def collective_backend(device: torch.device) -> str:
    """The backend of torch.distributed in which ranks on such devices speak: nccl, xccl or gloo."""
    return torch.distributed.get_default_backend_for_device(device)

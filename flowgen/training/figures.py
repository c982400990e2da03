"""The figures of a run between two lines of its log."""

from __future__ import annotations

import resource
import time
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from flowgen.core.interfaces import LossOutput
from flowgen.core.tree import tree_map
from flowgen.device import peak_memory
from flowgen.training.ranks import Ranks, gather_objects
from flowgen.training.stages import Stages

_BINS = 5
_FOLD = 128


class Figures:
    """Mean losses over all ranks, by time and by stream; gradient norm; speed, memory, and shares of time by stage.

    What a step adds stays on its device until a line is due, so that logging never waits for the GPU.
    """

    def __init__(self, ranks: Ranks, stages: Stages) -> None:
        self.ranks, self.stages = ranks, stages
        self._reset()

    def _reset(self) -> None:
        self._kept: list[LossOutput] = []
        self._extents: list[tuple[Any, Any]] = []
        self._sums: dict[str, Tensor] = {}
        self._norms: list[Any] = []
        self._clips = self._steps = self._skipped = 0
        self._positions = self._seconds = 0.0
        self._began = time.monotonic()

    def add(self, output: LossOutput, positions: Any, seconds: Any) -> None:
        """positions, seconds: of these clips' latents, for the throughput."""
        self._kept.append(LossOutput(*(_detached(part) for part in output)))
        self._extents.append((positions, seconds))
        if len(self._kept) >= _FOLD:
            self._fold()

    def add_step(self, norm: Any, skipped: bool) -> None:
        self._steps += 1
        self._skipped += skipped
        if norm is not None and not skipped:
            self._norms.append(norm)

    def _fold(self) -> None:
        """Sums and counts of what is kept: of all, of each bin of times, of each stream. Skipped samples are left out."""
        if not self._kept:
            return
        kept, self._kept = self._kept, []
        extents, self._extents = self._extents, []
        self._positions += sum(float(positions) for positions, _ in extents)
        self._seconds += sum(float(seconds) for _, seconds in extents)
        losses = torch.cat([k.total for k in kept]).double().cpu()
        each = {name: torch.cat([k.by_stream[name] for k in kept]).double().cpu() for name in kept[0].by_stream}
        good = losses.isfinite()
        self._clips += len(losses)
        self._sum("loss", losses[good])
        for name in kept[0].parts:
            values = torch.cat([k.parts[name] for k in kept]).double().cpu()
            self._sum(f"loss/{name}", values[good & ~values.isnan()])
        times = None if kept[0].t is None else tree_map(lambda *parts: torch.cat(parts), *(k.t for k in kept))
        if isinstance(times, Tensor):
            self._by_time("loss_by_time", losses, times, good)
        for name, values in each.items():
            there = good & ~values.isnan()  # without the clips that lack this stream
            self._sum(f"loss_by_stream/{name}", values[there])
            if isinstance(times, dict):
                self._by_time(f"loss_by_time/{name}", values, times[name], there)

    def _by_time(self, name: str, losses: Tensor, times: Tensor, good: Tensor) -> None:
        bins = (times.cpu() * _BINS).long().clamp(0, _BINS - 1)
        for i in range(_BINS):
            self._sum(f"{name}/{i / _BINS:.1f}-{(i + 1) / _BINS:.1f}", losses[good & (bins == i)])

    def _sum(self, name: str, values: Tensor) -> None:
        new = torch.stack([values.sum(), torch.tensor(float(len(values)), dtype=torch.float64)])
        self._sums[name] = self._sums.get(name, torch.zeros(2, dtype=torch.float64)) + new

    def take(self) -> dict[str, float]:
        """A line of the log. All ranks must call it."""
        self._fold()
        now, by_stage = time.monotonic(), self.stages.take()  # at one moment, so that shares add up
        elapsed = max(now - self._began, 1e-9)
        mine = ({k: v.tolist() for k, v in self._sums.items()}, (self._clips, self._positions, self._seconds))
        gathered = gather_objects(mine, self.ranks)
        everyone = [sums for sums, _ in gathered]
        figures: dict[str, float] = {}
        for name in self._sums:
            total = sum(part[name][0] for part in everyone)
            count = sum(part[name][1] for part in everyone)
            if count:
                figures[name] = total / count
        if self._norms:
            norms = torch.stack([torch.as_tensor(n).float().cpu() for n in self._norms])
            figures["gradient_norm"] = float(norms.mean())
            figures["gradient_norm_max"] = float(norms.max())
        if self._skipped:
            figures["skipped_steps"] = self._skipped
        clips, positions, seconds = (
            sum(done) / elapsed / self.ranks.sharing for done in zip(*(done for _, done in gathered), strict=True)
        )
        figures["clips_per_second"] = clips
        figures["positions_per_second"] = positions
        if seconds:
            figures["media_seconds_per_second"] = seconds
        figures["memory_gb"] = _memory_gb(self.ranks.device)
        for stage, seconds in by_stage.items():
            figures[f"share_of_time/{stage}"] = seconds / elapsed
        self._reset()
        self._began = now
        return figures

    def state(self) -> dict[str, Any]:
        """What the next line will be made of, as JSON; a resumed run writes the same line."""
        self._fold()
        norms = [float(n) for n in self._norms]
        return {"sums": {k: v.tolist() for k, v in self._sums.items()}, "norms": norms, "skipped": self._skipped}

    def load(self, state: dict[str, Any]) -> None:
        self._sums = {k: torch.tensor(v, dtype=torch.float64) for k, v in state["sums"].items()}
        self._norms = [torch.tensor(n) for n in state["norms"]]
        self._skipped = state["skipped"]


def _detached(part: Any) -> Any:
    if isinstance(part, Mapping):
        return {k: v.detach() for k, v in part.items()}
    return None if part is None else part.detach()


def _memory_gb(device: torch.device) -> float:
    """Largest so far: of the GPU, or of this process."""
    counted = peak_memory(device)
    if counted is not None:
        return counted / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20

"""Checkpoints: written aside, completed by a manifest, renamed, rotated; read back on any number of ranks and ZeRO stage.

network.safetensors, ema.safetensors   whole weights in float32, for sampling and for starting from
optimizer/rank-0000.safetensors ...    the optimizer's state, each rank its own share, as pieces of named parameters
manifest.json                          step, facts of the run, and size and checksum of every file

DeepSpeed's own state files are not used: they are pickles, bound to a number of ranks and a stage, and hold nothing else.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from flowgen.errors import FlowgenError
from flowgen.files import errors_named, write_json
from flowgen.runs.run import Checkpoint, Run, checksum
from flowgen.training.ema import Average
from flowgen.training.internals import fragments, master_shards, optimizer_states, store, whole
from flowgen.training.ranks import Ranks, agree, share, together
from flowgen.training.shards import collect, fill
from flowgen.weights import write_tensors

_NETWORK, _LOSS = "network.", "loss."
_STEP = "step"
_PARTIAL, _OLD = ".{}.partial", ".{}.old"
"""Names of a checkpoint that is being written, and of one that is being removed."""
_turns = itertools.count()
"""Numbers what is saved while this process group lives, the same on all ranks: a run may follow a run."""


def network_weights(engine: Any, parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Parameters and buffers of the network alone, by their names in it. `parameters`: the trained ones, by name in the engine."""
    return {k.removeprefix(_NETWORK): v for k, v in _complete(engine, parameters).items() if k.startswith(_NETWORK)}


def _complete(engine: Any, parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """With what is not trained: frozen parameters and buffers."""
    kept = engine.module.state_dict()
    frozen = {n: whole(p) for n, p in engine.module.named_parameters() if not p.requires_grad and n in kept}
    buffers = {n: b.detach().cpu() for n, b in engine.module.named_buffers() if n in kept}
    return {**parameters, **frozen, **buffers}


class Saver:
    """Writes the checkpoints of a run. All ranks must call `save` and `wait`.

    In the background, training goes on as soon as everything has been copied to the host, into memory that is kept for
    the next time; what goes wrong while writing is raised by the next `save` or `wait`.
    """

    def __init__(
        self,
        run: Run,
        engine: Any,
        averages: Mapping[str, Average],
        ranks: Ranks,
        *,
        keep: int,
        background: bool = False,
    ) -> None:
        self.run, self.engine, self.averages, self.ranks = run, engine, averages, ranks
        self.keep, self.background = keep, background
        self._thread: threading.Thread | None = None
        self._error: FlowgenError | None = None
        self._kept: dict[str, dict[int, Tensor]] = {}
        self._kept_moments: dict[str, Tensor] = {}
        with together(ranks):
            if ranks.first:  # what a run that was killed while writing left behind
                for pattern in (_PARTIAL, _OLD):
                    for left in run.checkpoints_folder.glob(pattern.format("step-*")):
                        shutil.rmtree(left)

    def save(self, step: int, facts: Mapping[str, Any]) -> Path:
        """Write a checkpoint of this step, and remove those beyond the newest `keep`.

        A reader sees it whole or not at all: it is renamed into place after its manifest is on the disk.
        """
        self.wait()
        final = self.run.checkpoints_folder / f"step-{step:08d}"
        if share(final.is_dir(), self.ranks):
            return final
        partial = final.with_name(_PARTIAL.format(final.name))
        with together(self.ranks):
            if self.ranks.first:
                with errors_named(partial):
                    (partial / "optimizer").mkdir(parents=True)
        files = self._snapshot()
        turn = next(_turns)
        manifest = {
            "step": step,
            "ranks": self.ranks.count,
            "zero_stage": self.engine.zero_optimization_stage(),
            **facts,
        }
        self._thread = threading.Thread(target=self._write, args=(partial, final, files, manifest, turn))
        self._thread.start()
        if not self.background:
            self.wait()
        return final

    def wait(self) -> None:
        """Until what is being written is complete. FlowgenError: it could not be written."""
        if self._thread is None:
            return
        self._thread.join()
        self._thread = None
        error, self._error = self._error, None
        agree(self.ranks, error)

    def _snapshot(self) -> dict[str, dict[str, Tensor]]:
        """What this rank writes, by file; on the host, and not shared with what training goes on to change."""
        copy = self.background or self.ranks.device.type != "cpu"
        kept = {
            name: self._kept.setdefault(name, {}) if self.background else None for name in ("network", *self.averages)
        }
        whole = {"network": collect(self.engine, master_shards(self.engine), self.ranks, kept["network"])}
        whole |= {name: average.collect(kept[name]) for name, average in self.averages.items()}
        files: dict[str, dict[str, Tensor]] = {}
        for name, trained in whole.items() if self.ranks.first else ():
            complete = _complete(self.engine, trained)
            files[name] = {k.removeprefix(_NETWORK): v for k, v in complete.items() if k.startswith(_NETWORK)}
            extra = {k.removeprefix(_LOSS): v for k, v in complete.items() if k.startswith(_LOSS)}
            if extra:
                files[f"{name}.loss"] = extra
        files[f"optimizer/rank-{self.ranks.rank:04d}"] = self._moments(copy)
        return files

    def _moments(self, copy: bool) -> dict[str, Tensor]:
        states = optimizer_states(self.engine)
        held: dict[str, Tensor] = {}
        for fragment in fragments(self.engine, self.ranks):
            state = states[fragment.shard]
            if state:
                key = f"{fragment.name}@{fragment.start}"
                if _STEP in state:
                    held[f"{key}/{_STEP}"] = torch.as_tensor(float(state[_STEP]))
                for moment in _moments_in(state):
                    piece = state[moment].detach().view(-1).narrow(0, fragment.offset, fragment.length)
                    name = f"{key}/{moment}"
                    if name in self._kept_moments:
                        held[name] = self._kept_moments[name].copy_(piece)
                    else:
                        held[name] = piece.to("cpu", copy=copy)
        self._kept_moments = held if self.background else {}
        return held

    def _write(
        self, partial: Path, final: Path, files: dict[str, dict[str, Tensor]], manifest: dict[str, Any], turn: int
    ) -> None:
        """Write this rank's files; the first rank completes the checkpoint when all have."""
        written: dict[str, Any] = {}
        try:
            for name, tensors in files.items():
                path = partial / f"{name}.safetensors"
                write_tensors(tensors, path)
                written[f"{name}.safetensors"] = {"bytes": path.stat().st_size, "sha256": checksum(path)}
        except FlowgenError as error:
            self._error = error
        if self.ranks.count > 1:
            own = json.dumps(None if self._error else written)
            store().set(f"flowgen/saved/{turn}/{self.ranks.rank}", own)
        if not self.ranks.first:
            return
        others = [f"flowgen/saved/{turn}/{rank}" for rank in range(1, self.ranks.count)]
        while others and not store().check(others):
            time.sleep(0.02)
        parts = [json.loads(store().get(key)) for key in others]
        if self._error or any(part is None for part in parts):
            shutil.rmtree(partial, ignore_errors=True)
            return
        try:
            for part in parts:
                written |= part
            write_json({**manifest, "files": written}, partial / "manifest.json")
            with errors_named(final):
                for folder in (partial / "optimizer", partial):
                    _flush(folder)
                os.replace(partial, final)
                _flush(final.parent)
                for old in self.run.checkpoints()[: -self.keep]:
                    aside = old.folder.with_name(_OLD.format(old.folder.name))
                    old.folder.rename(aside)  # whole or gone, for one who reads it now
                    shutil.rmtree(aside)
        except FlowgenError as error:
            self._error = error
            shutil.rmtree(partial, ignore_errors=True)


def _flush(folder: Path) -> None:
    """The folder and the files in it are on the disk when this returns."""
    for path in (*(p for p in folder.iterdir() if p.is_file()), folder):
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def choose_checkpoint(run: Run, ranks: Ranks, on_damage: str, say: Callable[..., None]) -> Checkpoint:
    """The newest checkpoint whose files are what its manifest says. All ranks must call it.

    FlowgenError: it is damaged and `on_damage` is "refuse", or none is whole. With "previous", a damaged one is put aside.
    """
    chosen: str | None = None
    with together(ranks):
        for checkpoint in reversed(run.checkpoints()) if ranks.first else ():
            try:
                checkpoint.verify()
            except FlowgenError as error:
                if on_damage == "refuse":
                    raise FlowgenError(
                        f"{error}; go on from the one before with train.checkpoint.on_damage=previous"
                    ) from None
                aside = checkpoint.folder.with_name(f"damaged-{checkpoint.folder.name}")
                shutil.rmtree(aside, ignore_errors=True)
                checkpoint.folder.rename(aside)
                say(f"{error}; put aside as {aside.name}")
            else:
                chosen = checkpoint.folder.name
                break
        if ranks.first and chosen is None:
            raise FlowgenError(f"{run.folder} has no checkpoint that is whole; start again in another folder")
    return Checkpoint(run.checkpoints_folder / str(share(chosen, ranks)))


def load_before(checkpoint: Checkpoint, network: torch.nn.Module, loss: Any) -> None:
    """The weights, into the modules of which an engine is then made."""
    checkpoint.load_weights(network, "raw")
    if isinstance(loss, torch.nn.Module) and loss.state_dict():
        checkpoint.load_weights(loss, "raw", suffix=".loss")


def load_after(checkpoint: Checkpoint, engine: Any, averages: Mapping[str, Average], ranks: Ranks) -> None:
    """Masters, averages and moments, into an engine made of the loaded weights; whatever ranks and stage they were saved by."""
    try:
        _load_after(checkpoint, engine, averages, ranks)
    except (SafetensorError, OSError, ValueError, LookupError, RuntimeError, StopIteration) as error:
        raise FlowgenError(
            f"{checkpoint.folder} does not hold what this run saves ({type(error).__name__}: {error}); start from its weights "
            f"with --init-from"
        ) from error


def _load_after(checkpoint: Checkpoint, engine: Any, averages: Mapping[str, Average], ranks: Ranks) -> None:
    with _whole_reader(checkpoint.folder, "network") as read:
        fill(engine, master_shards(engine), ranks, read)
    for name, average in averages.items():
        if not (checkpoint.folder / f"{name}.safetensors").is_file():
            raise FlowgenError(
                f"{checkpoint.folder} has no average {name!r}; resume with the train.ema it was begun with"
            )
        with _whole_reader(checkpoint.folder, name) as read:
            average.load(read)
    _load_optimizer(_Pieces(checkpoint.folder), engine, ranks)


def _load_optimizer(pieces: _Pieces, engine: Any, ranks: Ranks) -> None:
    """The state of each shard, made again: what the pieces of its parameters hold, 0 where there was no step yet."""
    masters, states = master_shards(engine), optimizer_states(engine)
    for state in states:
        for moment in _moments_in(state):
            state[moment].zero_()
        if _STEP in state:
            state[_STEP] = _count(engine, state, masters[0].device, 0.0)
    everyone = Ranks(0, 1, ranks.device) if engine.zero_optimization_stage() == 0 else ranks
    for fragment in fragments(engine, everyone):
        state, span = states[fragment.shard], (fragment.name, fragment.start, fragment.length)
        shard = masters[fragment.shard]
        for moment in pieces.moments(fragment.name):
            if moment not in state:
                state[moment] = torch.zeros_like(shard)
            pieces.read(moment, *span, into=state[moment].view(-1).narrow(0, fragment.offset, fragment.length))
        if pieces.counted(fragment.name):
            before = float(state[_STEP]) if _STEP in state else 0.0
            state[_STEP] = _count(engine, state, shard.device, max(before, pieces.step(*span)))


def _moments_in(state: Mapping[str, Any]) -> list[str]:
    """What an optimizer keeps for each element of a shard."""
    return [name for name, value in state.items() if name != _STEP and isinstance(value, Tensor)]


def _count(engine: Any, state: Mapping[str, Any], device: torch.device, steps: float) -> Any:
    """A number of steps as the optimizer counts them: a fused one where its moments are, DeepSpeed's own as an integer."""
    optimizer = getattr(engine.optimizer, "optimizer", engine.optimizer)
    if isinstance(state.get(_STEP), int) or type(optimizer).__module__.startswith("deepspeed.ops"):
        return int(steps)
    fused = any(group.get("fused") for group in optimizer.param_groups)
    return torch.tensor(steps, device=device if fused else "cpu")


@contextlib.contextmanager
def _whole_reader(folder: Path, name: str) -> Iterator[Callable[[str, int, int], Tensor]]:
    """Reads pieces of whole tensors out of NAME.safetensors (and NAME.loss.safetensors)."""
    with contextlib.ExitStack() as stack:
        files = {_NETWORK: stack.enter_context(safe_open(folder / f"{name}.safetensors", "pt"))}
        if (folder / f"{name}.loss.safetensors").is_file():
            files[_LOSS] = stack.enter_context(safe_open(folder / f"{name}.loss.safetensors", "pt"))

        def read(key: str, start: int, length: int) -> Tensor:
            prefix = next(p for p in files if key.startswith(p))
            return files[prefix].get_tensor(key.removeprefix(prefix)).view(-1)[start : start + length]

        yield read


class _Pieces:
    """What the optimizer keeps, as the ranks of the run that saved them held them."""

    def __init__(self, folder: Path) -> None:
        self._found: dict[tuple[str, str], list[tuple[int, Any, str]]] = {}
        for path in sorted((folder / "optimizer").glob("rank-*.safetensors")):
            file = safe_open(path, "pt")
            for key in file.keys():  # noqa: SIM118, it is no mapping
                name, _, rest = key.rpartition("@")
                start, _, moment = rest.partition("/")
                self._found.setdefault((name, moment), []).append((int(start), file, key))

    def moments(self, name: str) -> list[str]:
        return [moment for owner, moment in self._found if owner == name and moment != _STEP]

    def counted(self, name: str) -> bool:
        return (name, _STEP) in self._found

    def step(self, name: str, start: int, length: int) -> float:
        return max((float(file.get_tensor(key)) for _, file, key in self._found.get((name, _STEP), ())), default=0.0)

    def read(self, moment: str, name: str, start: int, length: int, *, into: Tensor) -> None:
        """Copy elements [start, start + length) from the pieces that overlap it; zero where there was no step yet."""
        for at, file, key in self._found.get((name, moment), ()):
            piece = file.get_slice(key)
            low, high = max(start, at), min(start + length, at + piece.get_shape()[0])
            if low < high:
                into[low - start : high - start] = piece[low - at : high - at]

"""Where the figures of a run go. A logger is built with the run folder and gets (step, figures)."""

from __future__ import annotations

import json
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol, TextIO

from flowgen.config import ComponentConfig, build
from flowgen.errors import UsageError
from flowgen.files import replacing
from flowgen.media.interfaces import Rewinds
from flowgen.runs.run import Run


class Logger(Protocol):
    def log(self, step: int, figures: Mapping[str, float]) -> None: ...

    def close(self) -> None: ...


class JSONL:
    """One JSON object a line in log.jsonl."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "log.jsonl"
        self._file: TextIO = self._path.open("a", buffering=1)

    def rewind(self, step: int) -> None:
        keep_steps(self._path, step)
        self._file.close()
        self._file = self._path.open("a", buffering=1)

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        self._file.write(json.dumps({"step": step, **figures}) + "\n")

    def close(self) -> None:
        self._file.close()


class TensorBoard:
    """Scalars under tensorboard/; look at them with: tensorboard --logdir runs."""

    def __init__(self, folder: Path) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._folder = str(folder / "tensorboard")
        self._writer: Any = SummaryWriter(self._folder)

    def rewind(self, step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer.close()
        self._writer = SummaryWriter(self._folder, purge_step=step + 1)

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        for name, value in figures.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        self._writer.close()


class WandB:
    """Figures and config for Weights & Biases, as one run there, which a resumed run goes on with (extra: wandb).

    Args:
        project: where the run appears.
        entity: the user or team it belongs to; your default one where left out.
        mode: "offline" needs no network and no account: `wandb sync RUN/wandb/offline-run-*` sends it later.
    """

    def __init__(
        self,
        folder: Path,
        project: str = "flowgen",
        entity: str | None = None,
        mode: Literal["online", "offline"] = "online",
    ) -> None:
        try:
            import wandb
        except ImportError:
            raise UsageError("the wandb logger needs its library: pip install 'flowgen[wandb]'") from None
        known = folder / "wandb" / "id"
        self._run: Any = wandb.init(
            project=project,
            entity=entity,
            mode=mode,
            dir=str(folder),
            name=folder.name,
            id=known.read_text() if known.is_file() else None,
            resume="allow",
            config=Run(folder).config().model_dump(mode="json"),
            settings=wandb.Settings(silent=True, console="off"),
        )
        known.write_text(self._run.id)
        # not wandb's own step: that only grows, and a run that was killed goes over some steps again
        self._run.define_metric("*", step_metric="step")

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        self._run.log({"step": step, **figures})

    def close(self) -> None:
        self._run.finish()


class Loggers:
    """The loggers of a config, of which one that fails is named in a warning and costs nothing else.

    Args:
        step: the last step that the run keeps of what was done before.
    """

    def __init__(self, configs: Sequence[ComponentConfig], folder: Path, step: int) -> None:
        self._loggers: list[tuple[str, Logger]] = []
        self._failures: Counter[str] = Counter()
        for config in configs:
            logger = build("logger", config, folder=folder)
            self._loggers.append((config.type, logger))
            if isinstance(logger, Rewinds):
                self._try(config.type, logger.rewind, step)

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        for name, logger in self._loggers:
            self._try(name, logger.log, step, figures)

    def close(self) -> None:
        for name, logger in self._loggers:
            self._try(name, logger.close)
        for name, count in self._failures.items():
            if count > 1:
                warnings.warn(f"logger {name!r} failed {count} times in all", stacklevel=2)

    def _try(self, name: str, call: Callable[..., None], *arguments: Any) -> None:
        try:
            call(*arguments)
        except (Exception, SystemExit) as error:
            self._failures[name] += 1
            if self._failures[name] == 1:
                warnings.warn(
                    f"logger {name!r} failed, and training goes on: {type(error).__name__}: {error}", stacklevel=3
                )


def keep_steps(path: Path, last: int) -> None:
    """Of a file of JSON objects with a "step", keep the lines up to that step; half a line, by a run that was killed, goes too."""
    if not path.is_file():
        return
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
    kept = [line for line in lines if line.endswith("\n") and (_step(line) or 0) <= last]
    if kept != lines:
        with replacing(path) as temporary:
            temporary.write_text("".join(kept), encoding="utf-8")


def _step(line: str) -> int | None:
    """The step of a line; None: it is no line of a log."""
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError):
        return None
    step = entry.get("step") if isinstance(entry, dict) else None
    return step if isinstance(step, int) else None


def read_log(folder: Path) -> list[dict[str, float]]:
    """The lines of log.jsonl, by step; of a step that stands there twice the later. What is no line of a log is left out."""
    path = folder / "log.jsonl"
    if not path.is_file():
        return []
    by_step: dict[int, dict[str, float]] = {}
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        step = _step(line)
        if step is not None:
            by_step[step] = {k: v for k, v in json.loads(line).items() if isinstance(v, int | float)}
    return [by_step[step] for step in sorted(by_step)]

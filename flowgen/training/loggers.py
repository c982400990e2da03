"""Where the figures of a run go. A logger is built with the run folder and gets (step, figures)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Protocol

from flowgen.errors import UsageError
from flowgen.runs.run import Run


class Logger(Protocol):
    def log(self, step: int, figures: Mapping[str, float]) -> None: ...

    def close(self) -> None: ...


class JSONL:
    """One JSON object a line in log.jsonl."""

    def __init__(self, folder: Path) -> None:
        path = folder / "log.jsonl"
        if path.is_file():  # a run that was killed may have left half a line
            whole = path.read_bytes()
            path.write_bytes(whole[: whole.rfind(b"\n") + 1])
        self._file = path.open("a", buffering=1)

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        self._file.write(json.dumps({"step": step, **figures}) + "\n")

    def close(self) -> None:
        self._file.close()


class TensorBoard:
    """Scalars under tensorboard/; look at them with: tensorboard --logdir runs."""

    def __init__(self, folder: Path) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer: Any = SummaryWriter(str(folder / "tensorboard"))

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


def read_log(folder: Path) -> list[dict[str, float]]:
    """The lines of log.jsonl; of a step that was logged twice (before and after a resume) the later."""
    path = folder / "log.jsonl"
    if not path.is_file():
        return []
    by_step: dict[int, dict[str, float]] = {}
    for line in path.read_text().splitlines():
        try:
            entry = json.loads(line)
        except ValueError:  # half a line, by a run that was killed
            continue
        by_step[entry["step"]] = entry
    return [by_step[step] for step in sorted(by_step)]

"""Every hook a plugin can implement: the plugin author's table of contents.

A plugin is a module named by an entry point of the group `flowgen`. It implements hooks with `@flowgen.hookimpl` and
imports nothing heavy at its top: what it brings is named by import strings. It may say for which version of these hooks
it is made, `FLOWGEN_API = 2`; another version is refused by name. An implementation takes those arguments of a hook that
it needs, by name. Plugins are called in the order of their names.

Commands of its own are no hook but entry points of the group `flowgen.commands`, so that `flowgen --help` need not import
anything to list them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pluggy

from flowgen.plugins.component import Component

if TYPE_CHECKING:
    from flowgen.config import Config

API = 2
"""The version of these hooks and of the contracts in `flowgen.core.interfaces` and `flowgen.media.interfaces`.

It rises when a plugin has to change.
"""

GROUP = "flowgen"
hookspec = pluggy.HookspecMarker(GROUP)
hookimpl = pluggy.HookimplMarker(GROUP)


class Hooks:
    """The hooks, in the order in which they are called."""

    @hookspec
    def flowgen_components(self) -> Iterable[Component]:  # type: ignore[empty-body]
        """The components a plugin brings, each by kind, name and import string.

        @hookimpl
        def flowgen_components():
            return [Component("encoder", "tone", "flowgen_tone.encoder:ToneEncoder", "sine tones as phase and pitch")]
        """

    @hookspec
    def flowgen_recipes(self) -> Path:  # type: ignore[empty-body]
        """The folder of the plugin's recipes: `NAME.yaml` in it is found as PLUGIN/NAME, as in `flowgen train tone/small`.

        @hookimpl
        def flowgen_recipes():
            return Path(__file__).parent / "recipes"
        """

    @hookspec
    def flowgen_defaults(self, config: Mapping[str, Any]) -> Mapping[str, Any]:  # type: ignore[empty-body]
        """Values for keys that a config leaves out, by dotted key. `config` is what is written in the file, nested.

        A key that two plugins set to different values is an error that names both.

        @hookimpl
        def flowgen_defaults(config):
            return {"train.workers": 4, "train.checkpoint.keep": 5}
        """

    @hookspec
    def flowgen_run_started(self, folder: Path, config: Config, step: int) -> None:
        """Training begins at `step` (0, or where it is resumed) in the run folder.

        This and the following events are called in the first process of a run alone. A plugin that fails in one of them
        is named in a warning and not called again; the run goes on.

        @hookimpl
        def flowgen_run_started(folder, config, step):
            print(f"{config.name} begins at step {step} in {folder}")
        """

    @hookspec
    def flowgen_step_done(self, folder: Path, step: int, figures: Mapping[str, float]) -> None:
        """So many steps are done. `figures` are those of the loggers, empty at steps that log nothing.

        @hookimpl
        def flowgen_step_done(step, figures):
            if "loss" in figures:
                print(f"step {step}: loss {figures['loss']:.4f}")
        """

    @hookspec
    def flowgen_preview_made(self, folder: Path, step: int, weights: str, sheet: Path) -> None:
        """A preview of the averaged ("ema") or the last ("raw") weights was written; its clips lie beside the sheet.

        @hookimpl
        def flowgen_preview_made(sheet):
            print(f"look at {sheet}")
        """

    @hookspec
    def flowgen_checkpoint_saved(self, folder: Path, step: int, checkpoint: Path) -> None:
        """A checkpoint is complete on the disk.

        @hookimpl
        def flowgen_checkpoint_saved(checkpoint):
            shutil.copytree(checkpoint, Path("/backup") / checkpoint.name, dirs_exist_ok=True)
        """

    @hookspec
    def flowgen_run_ended(self, folder: Path, step: int, finished: bool) -> None:
        """The run is over at `step`: its last one (`finished`), or because it was asked to stop, or by an error.

        @hookimpl
        def flowgen_run_ended(folder, finished):
            print(f"{folder} is {'done' if finished else 'stopped'}")
        """

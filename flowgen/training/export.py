"""A run reduced to what sampling needs: config, encoder, and one set of weights in one precision."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from flowgen.config import Config, dumps, in_force
from flowgen.errors import UsageError
from flowgen.files import errors_named, write_json
from flowgen.media.interfaces import KeepsFloat32
from flowgen.plugins import registry
from flowgen.runs.adapted import BASE, is_correction, merged, with_options
from flowgen.runs.attached import corrections
from flowgen.runs.base_error import BASE_FILE
from flowgen.runs.experiment import Experiment
from flowgen.runs.layouts import Layout, write_layout
from flowgen.runs.run import Run, checksum
from flowgen.training.posthoc import average_of_width
from flowgen.weights import load_strictly, write_tensors

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def export(
    source: Path,
    folder: Path,
    *,
    weights: str = "ema",
    ema_width: float | None = None,
    dtype: str = "float32",
    merge: bool = False,
) -> dict[str, Any]:
    """Write `folder`, which `flowgen sample` and `--init-from` take as they take a run; returns what its manifest says.

    Args:
        weights: "ema", "raw", or a further average of the run such as "ema-0.1".
        ema_width: an average of this relative width instead, combined from the averages in the checkpoints (see `posthoc`).
        dtype: of the floating-point weights, but for the modules that the network keeps in float32.
        merge: of an adapter, write its base with the corrections added, which needs the adapter no more.

    Raises UsageError where `folder` exists, FlowgenError where the checkpoint is damaged or the folder cannot be written.
    """
    if dtype not in DTYPES:
        raise UsageError(f"dtype is one of {', '.join(DTYPES)}, got {dtype!r}")
    if folder.exists():
        raise UsageError(f"{folder} exists; export to a new folder")
    run = Run(source)
    config, checkpoint = run.config(), run.newest_checkpoint()
    checkpoint.verify()
    if merge and config.network.type != "lora":
        raise UsageError(
            f"--merge: {source} has no adapter to merge (its network is {config.network.type!r}); leave it out"
        )
    network = registry().get("network", config.network.type).load()
    kept = tuple(f"{name}." for name in (network.keep_float32 if isinstance(network, KeepsFloat32) else ()))
    exported: dict[str, Any] = {"weights": weights, "dtype": dtype}
    if ema_width is None:
        chosen = checkpoint.weights(weights)
    else:
        chosen, missed = average_of_width(run, ema_width)
        exported |= {"weights": f"ema-width-{ema_width:g}", "profile_missed": missed}
    if merge:
        config, chosen = _merged(config, chosen, checkpoint.folder)
        exported["merged"] = True
    tensors = {k: _cast(k, v, kept, DTYPES[dtype]) for k, v in chosen.items()}

    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    place = partial / "checkpoints" / checkpoint.folder.name
    try:
        with errors_named(folder):
            place.mkdir(parents=True)
            (partial / "config.yaml").write_text(dumps(in_force(config.model_copy(update={"run": None}))))
            for name in ("encoder.safetensors", "levels.json", *(() if merge else (BASE_FILE,))):
                if (run.folder / name).is_file():
                    shutil.copy2(run.folder / name, partial)
        path = place / "weights.safetensors"
        write_tensors(tensors, path)
        manifest = {
            "step": checkpoint.step,
            "name": checkpoint.manifest["name"],
            "encoder": checkpoint.manifest["encoder"],
            "exported": exported,
            "files": {path.name: {"bytes": path.stat().st_size, "sha256": checksum(path)}},
        }
        write_json(manifest, place / "manifest.json")
        with errors_named(folder):
            partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return manifest


def _merged(config: Config, adapter: dict[str, Tensor], place: Path) -> tuple[Config, dict[str, Tensor]]:
    """The config with the network of the base in place of the adapter, and its weights with the corrections added."""
    network = Experiment(with_options(config, precision="float32", swap_blocks=False)).network
    load_strictly(network, adapter, place)
    options = config.network.options
    section = Run(Path(options["run"])).config().network if options.get("run") else options["network"]
    return Config.model_validate({**config.model_dump(), "network": section}), merged(network)


def _cast(name: str, tensor: Tensor, kept: tuple[str, ...], dtype: torch.dtype) -> Tensor:
    return tensor.to(dtype) if tensor.is_floating_point() and not name.startswith(kept) else tensor


def export_adapter(source: Path, path: Path, layout: Layout, *, weights: str = "ema") -> int:
    """Write the corrections of an adapter as a file of another program; returns their number.

    `adapter_config.json` goes beside a file of peft, as it holds the scale. Raises UsageError for a run that is no adapter, or
    one that trains parameters as a whole, which these layouts do not hold.
    """
    run = Run(source)
    config = run.config()
    if config.network.type != "lora":
        raise UsageError(f"--layout: {source} is no adapter (its network is {config.network.type!r}); leave it out")
    if path.suffix != ".safetensors":
        raise UsageError(f"{path}: a file of an adapter is named *.safetensors")
    if path.exists():
        raise UsageError(f"{path} exists; export to a new file")
    tensors = {k: v for k, v in run.newest_checkpoint().weights(weights).items() if k != BASE}
    if whole := [name for name in tensors if not is_correction(name)]:
        raise UsageError(
            f"{source} trains {whole[0]} as a whole, which --layout {layout} cannot hold; export it with --merge"
        )
    options = config.network.options
    rank = int(options["rank"])
    alpha = float(options["alpha"] or rank)
    layers = corrections(tensors, alpha)
    write_tensors(write_layout(layers, layout), path)
    if layout == "peft":
        facts = {"peft_type": "LORA", "r": rank, "lora_alpha": alpha, "use_dora": bool(options["dora"])}
        write_json({**facts, "target_modules": list(layers), "bias": "none"}, path.with_name("adapter_config.json"))
    return len(layers)

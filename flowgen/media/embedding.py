"""Pretrained embeddings of clips for metrics: models of the `transformers` library in local folders (extra: text)."""

from __future__ import annotations

from functools import lru_cache
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

from flowgen.errors import FlowgenError, UsageError, unknown
from flowgen.media.pretrained import find, weight_files

Medium = Literal["audio", "video"]
_PROCESSORS: dict[Medium, str] = {"audio": "AutoFeatureExtractor", "video": "AutoImageProcessor"}


def find_embedding(name: str, built_in: tuple[str, ...]) -> Path | Any:
    """What an embedding that is not built in is: the folder of a model, or what "package.module:attribute" makes.

    UsageError: it is neither.
    """
    try:
        return find(name)
    except UsageError as error:
        module, colon, attribute = name.partition(":")
        if not colon:
            raise UsageError(
                f"{unknown('embedding', name, built_in)}; other embeddings are the folder of a transformers model "
                f"or 'package.module:attribute'"
            ) from None
        try:
            return getattr(import_module(module), attribute)()
        except (ImportError, AttributeError) as cause:
            raise UsageError(f"the embedding {name!r} cannot be loaded: {type(cause).__name__}: {cause}") from error


@lru_cache(maxsize=4)
def load_model(folder: Path, medium: Medium) -> tuple[Any, Any]:
    """A model and what prepares its inputs, on the CPU in float32. FlowgenError: they are incomplete or of another medium."""
    try:
        import transformers
    except ImportError:
        raise FlowgenError(
            "an embedding by a transformers model needs the library: pip install 'flowgen[text]'"
        ) from None
    weight_files(folder)
    try:
        processor = getattr(transformers, _PROCESSORS[medium]).from_pretrained(str(folder), local_files_only=True)
        model, info = transformers.AutoModel.from_pretrained(
            str(folder), local_files_only=True, use_safetensors=True, output_loading_info=True
        )
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise FlowgenError(
            f"cannot load the {medium} model in {folder}: {reason}; give a folder that save_pretrained of model and processor wrote"
        ) from error
    missing = [key for key in info["missing_keys"] if "pooler" not in key]
    if missing or info["mismatched_keys"]:
        names = ", ".join(sorted([*missing, *map(str, info["mismatched_keys"])])[:3])
        raise FlowgenError(f"the weights in {folder} do not fit {type(model).__name__} ({names}); use a complete copy")
    return model.eval().requires_grad_(False), processor

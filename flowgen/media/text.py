"""Captions read by a pretrained language model of the `transformers` library (extra: text)."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from flowgen.core.ranges import Count, NonNegative
from flowgen.device import default_device
from flowgen.errors import FlowgenError, UsageError
from flowgen.media.pretrained import DTYPES, Frozen, Kept, Precision, find, fingerprint, weight_files

_HEADS = ("cls.*", "lm_head.*", "*prediction*", "decoder.*", "*position_ids")
"""What a checkpoint of a language model has beside the encoder."""


@dataclass(frozen=True)
class TextEncoderCondition:
    """A text as the last hidden states of a frozen language model (BERT, MiniLM, T5, ...), computed once for each text.

    Args:
        model: its folder, PACKAGE:FOLDER, or id in the hub cache (see `flowgen.media.pretrained`). Nothing is downloaded.
        max_tokens: room for the tokens of a text, the model's own markers included.
        truncate: cut a longer text off, which otherwise is refused.
        pooled: one vector, the mean over tokens, in place of a sequence.
        null: what "not given" is: no token at all, or the text "".
        precision: of its weights and states.
        unused: patterns of tensors that its files may hold and the encoder does not take.
        cache_mb: memory for states of texts met before, the oldest leaving first.
        identity: a hash of its files. Written into the config of a run when it is trained; another model is refused then.

    UsageError: a text is too long. FlowgenError: weights do not match the model, or are not those of the run.
    """

    model: str
    max_tokens: Count = 128
    truncate: bool = False
    pooled: bool = False
    null_is: Literal["none", "empty"] = "none"
    precision: Precision = "float32"
    unused: tuple[str, ...] = _HEADS
    cache_mb: NonNegative = 1024.0
    identity: str | None = None

    is_text = True

    def __post_init__(self) -> None:
        if self.max_tokens < 2:
            raise ValueError(f"expected max_tokens of at least 2, got {self.max_tokens}")
        if self.cache_mb < 0:
            raise ValueError(f"expected cache_mb of at least 0, got {self.cache_mb:g}")

    @property
    def role(self) -> Literal["vector", "sequence"]:
        return "vector" if self.pooled else "sequence"

    @property
    def channels(self) -> int:
        """Width of the model's states; its config suffices to tell."""
        folder = find(self.model)
        if list(folder.glob("*.safetensors")):
            self.check(folder)
        return _channels(folder)

    def encode(self, value: Any) -> dict[str, Tensor]:
        """`states` float32 [max_tokens, channels] with `mask` bool [max_tokens]; pooled, [channels] with []."""
        states = _opened(self).states(str(value), None if self.truncate else self.max_tokens, self.max_tokens).float()
        if self.pooled:
            return {"states": states.mean(0), "mask": torch.tensor(True)}
        room = self.max_tokens - len(states)
        return {
            "states": nn.functional.pad(states, (0, 0, 0, room)),
            "mask": torch.arange(self.max_tokens) < len(states),
        }

    def null(self) -> dict[str, Tensor]:
        if self.null_is == "empty":
            return self.encode("")
        shape = () if self.pooled else (self.max_tokens,)
        return {"states": torch.zeros(*shape, self.channels), "mask": torch.zeros(shape, dtype=torch.bool)}

    def describe(self) -> str:
        return f"text of at most {self.max_tokens} tokens, read by {self.model}"

    def embedder(self, width: int) -> nn.Module:
        return _Pooled(self.channels, width) if self.pooled else _Projected(self.channels, width)

    def resolve(self) -> dict[str, Any]:
        """What the config of a run is to record of the model's files; nothing where the weights are not there yet."""
        folder = find(self.model)
        if not list(folder.glob("*.safetensors")):
            return {}
        self.check(folder)
        return {"identity": fingerprint(_files(folder))}

    def check(self, folder: Path) -> None:
        """FlowgenError: the folder does not hold the model that the run was trained with."""
        if self.identity is None:
            return
        weight_files(folder)
        found = fingerprint(_files(folder))
        if found != self.identity:
            raise FlowgenError(
                f"the text encoder in {folder} is not the one this run was trained with (identity {found}, expected "
                f"{self.identity}); give the folder of the same model under the name {self.model!r}"
            )


class _Projected(nn.Module):
    """States [B, L, channels] to the network's width by an MLP, with their mask."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.LayerNorm(channels), nn.Linear(channels, width), nn.GELU(), nn.Linear(width, width))

    def forward(self, value: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        return self.mlp(value["states"]), value["mask"]


class _Pooled(nn.Module):
    """A pooled state [B, channels] to the network's width; a learned vector where nothing is given."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.LayerNorm(channels), nn.Linear(channels, width), nn.SiLU(), nn.Linear(width, width))
        self.none = nn.Parameter(torch.randn(width) * 0.02)

    def forward(self, value: dict[str, Tensor]) -> Tensor:
        return torch.where(value["mask"][:, None], self.mlp(value["states"]), self.none)


class _Encoder:
    """Tokenizer and model in memory, and the states of the texts they have read."""

    def __init__(self, folder: Path, precision: Precision, unused: Sequence[str], cache_mb: float) -> None:
        self.folder = folder
        self.kept: Kept[tuple[str, int], Tensor] = Kept(cache_mb * 1e6)
        self.frozen = Frozen(folder, lambda: _load(folder, precision, unused), lambda: _files(folder))

    @cached_property
    def tokenizer(self) -> Any:
        try:
            return _transformers().AutoTokenizer.from_pretrained(str(self.folder), local_files_only=True)
        except (OSError, ValueError, ImportError) as error:
            raise FlowgenError(f"cannot read the tokenizer in {self.folder}: {_line(error)}") from error

    def states(self, text: str, limit: int | None, cut: int) -> Tensor:
        """The last hidden states [L, channels] of a text, L <= cut, on the CPU. A text is read by itself, so that they are
        the same in every batch and on every rank."""
        key = (text, cut)
        if (known := self.kept.get(key)) is not None:
            return known
        tokens = self.tokenizer(text, truncation=limit is None, max_length=cut, return_tensors="pt")["input_ids"]
        if limit is not None and tokens.shape[1] > limit:
            shown = text if len(text) <= 60 else text[:57] + "..."
            raise UsageError(
                f"text of {tokens.shape[1]} tokens is longer than max_tokens={limit}: {shown!r}; raise it, or set truncate"
            )
        device = default_device()
        model = self.frozen.on(device)
        with torch.inference_mode():
            states = model(input_ids=tokens.to(device)).last_hidden_state[0].cpu()
        states = states.clone()  # no inference tensor: what is trained on it asks for its gradient
        self.kept.put(key, states, states.nbytes)
        return states


@lru_cache(maxsize=16)
def _opened(condition: TextEncoderCondition) -> _Encoder:
    folder = find(condition.model)
    condition.check(folder)
    return _encoder(folder, condition.precision, condition.unused, condition.cache_mb)


@lru_cache(maxsize=4)
def _encoder(folder: Path, precision: Precision, unused: tuple[str, ...], cache_mb: float) -> _Encoder:
    return _Encoder(folder, precision, unused, cache_mb)


def _load(folder: Path, precision: Precision, unused: Sequence[str]) -> nn.Module:
    """The encoder with its weights. FlowgenError: one is missing, of another shape, or of no known use."""
    transformers = _transformers()
    config = _config(folder)
    kind = transformers.AutoModelForTextEncoding  # of an encoder and decoder, the encoder
    if type(config) not in kind._model_mapping:
        kind = transformers.AutoModel
    weight_files(folder)
    options = {"dtype": DTYPES[precision], "use_safetensors": True, "local_files_only": True}
    try:
        with _quiet(transformers):
            model, info = kind.from_pretrained(
                str(folder), config=config, output_loading_info=True, ignore_mismatched_sizes=True, **options
            )  # what does not match is reported below, all of it
    except (OSError, ValueError) as error:
        raise FlowgenError(f"cannot load the text encoder in {folder}: {_line(error)}") from error
    missing = [k for k in info["missing_keys"] if not k.startswith("pooler.")]  # of no use here
    unexpected = [k for k in info["unexpected_keys"] if not any(fnmatch.fnmatch(k, p) for p in unused)]
    shapes = [str(k[0] if isinstance(k, (tuple, list)) else k) for k in info["mismatched_keys"]]
    found = {"missing": missing, "unexpected": unexpected, "of another shape": shapes}
    if any(found.values()):
        parts = "; ".join(f"{what}: {', '.join(sorted(names))}" for what, names in found.items() if names)
        raise FlowgenError(
            f"the weights in {folder} do not fit {type(model).__name__}: {parts}; use a complete copy of the model, "
            f"or name what may be left over in 'unused'"
        )
    return model


@contextmanager
def _quiet(transformers: Any) -> Iterator[None]:
    """Without its bars and its own report of what did not match."""
    log, bars = transformers.utils.logging, transformers.utils.logging.is_progress_bar_enabled()
    level = log.get_verbosity()
    log.set_verbosity_error()
    log.disable_progress_bar()
    try:
        yield
    finally:
        log.set_verbosity(level)
        if bars:
            log.enable_progress_bar()


@lru_cache(maxsize=16)
def _channels(folder: Path) -> int:
    return int(_config(folder).hidden_size)


def _config(folder: Path) -> Any:
    try:
        config = _transformers().AutoConfig.from_pretrained(str(folder), local_files_only=True)
    except (OSError, ValueError) as error:
        raise FlowgenError(f"cannot read the text encoder's config in {folder}: {_line(error)}") from error
    return getattr(config, "text_config", config)


def _files(folder: Path) -> list[Path]:
    """What decides the states of a text."""
    names = ("config.json", "tokenizer.json", "tokenizer_config.json", "vocab.txt", "vocab.json", "merges.txt")
    return [
        p for p in (*map(folder.joinpath, names), *folder.glob("*.model"), *folder.glob("*.safetensors")) if p.is_file()
    ]


def _transformers() -> Any:
    try:
        import transformers
    except ImportError:
        raise FlowgenError("a text encoder needs the transformers library: pip install 'flowgen[text]'") from None
    return transformers


def _line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__

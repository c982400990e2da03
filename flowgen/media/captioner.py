"""A pretrained model that says in words what is seen or heard (extra: text). Nothing is downloaded, and no code of a model is run."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import torch

from flowgen.device import default_device
from flowgen.errors import FlowgenError, UsageError
from flowgen.media.pretrained import find, fingerprint, weight_files


class Captioner:
    """Captions by a model of the `transformers` library: pictures by any image-text-to-text model (BLIP, GIT, Qwen-VL, ...),
    of which one without a chat template is shown the middle picture alone; sounds by any speech recogniser (Whisper,
    wav2vec 2, ...).

    Args:
        model: its folder, PACKAGE:FOLDER, or id in the hub cache (see `flowgen.media.pretrained`).
        prompt: what a model of pictures is asked.
        max_tokens: of a caption of pictures.
        device: cpu, cuda, cuda:1; the first GPU where there is one.
    """

    def __init__(self, model: str, prompt: str = "", max_tokens: int = 64, device: str | None = None) -> None:
        self.name, self.prompt, self.max_tokens = model, prompt, max_tokens
        self.device = torch.device(device) if device else default_device()
        self.folder = find(model)
        files = [*weight_files(self.folder), *sorted(self.folder.glob("*.json"))]
        self.identity = hashlib.sha256(f"{fingerprint(files)} {prompt!r} {max_tokens}".encode()).hexdigest()[:16]

    def __call__(self, shown: Any) -> str:
        """The caption of a sequence of pictures, or of {"raw": mono samples, "sampling_rate": of them}."""
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            text = self._hear(shown) if isinstance(shown, Mapping) else self._see(shown)
        return " ".join(text.split())

    def _hear(self, sound: Mapping[str, Any]) -> str:
        return str(self._recogniser(dict(sound))["text"])

    def _see(self, pictures: Sequence[Any]) -> str:
        model, processor = self._describer
        if processor.chat_template:
            content = [{"type": "image"} for _ in pictures] + [
                {"type": "text", "text": self.prompt or "Describe this."}
            ]
            text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
            given = processor(images=list(pictures), text=text, return_tensors="pt")
        else:
            given = processor(images=pictures[len(pictures) // 2], text=self.prompt or None, return_tensors="pt")
        given = {name: value.to(self.device) for name, value in given.items()}
        made = model.generate(**given, max_new_tokens=self.max_tokens, do_sample=False)[0]
        asked = given.get("input_ids")
        if asked is not None and made[: asked.shape[1]].equal(asked[0]):  # a decoder repeats what it was asked
            made = made[asked.shape[1] :]
        return str(processor.decode(made, skip_special_tokens=True))

    @cached_property
    def _describer(self) -> tuple[Any, Any]:
        transformers = _transformers()
        try:
            processor = transformers.AutoProcessor.from_pretrained(self.folder, local_files_only=True)
            model = transformers.AutoModelForImageTextToText.from_pretrained(self.folder, local_files_only=True)
        except (ValueError, OSError, KeyError, ImportError) as error:
            raise self._unfit("that describes pictures", error) from error
        return model.to(self.device).eval(), processor

    @cached_property
    def _recogniser(self) -> Any:
        transformers = _transformers()
        try:
            return transformers.pipeline(
                "automatic-speech-recognition", model=str(self.folder), device=self.device, chunk_length_s=30
            )
        except (ValueError, OSError, KeyError, ImportError) as error:
            raise self._unfit("that recognises speech", error) from error

    def _unfit(self, what: str, error: Exception) -> FlowgenError:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        return UsageError(f"--model: {self.name} is no model of transformers {what} ({reason}); give the folder of one")


def _transformers() -> Any:
    try:
        import transformers
    except ImportError:
        raise FlowgenError("captions need the transformers library: pip install 'flowgen[text]'") from None
    transformers.utils.logging.disable_progress_bar()
    return transformers

"""Tiny random models in the file formats of the large ones, for tests that load them as users do."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import torch

_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def text_encoder(folder: Path, kind: Literal["bert", "t5"] = "t5", width: int = 16) -> Path:
    """A language model of two layers with a tokenizer of letters, saved as `transformers` saves them."""
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    letters = [*_SPECIAL, *map(chr, range(32, 127))]
    tokens = Tokenizer(models.WordLevel({c: i for i, c in enumerate(letters)}, unk_token="[UNK]"))
    tokens.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokens.model = models.BPE({c: i for i, c in enumerate(letters)}, [], unk_token="[UNK]")
    ends = [("[CLS]", 2), ("[SEP]", 3)]
    tokens.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokens, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
    )
    config: Any
    model: Any
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        if kind == "bert":
            config = transformers.BertConfig(
                vocab_size=len(letters),
                hidden_size=width,
                num_hidden_layers=2,
                num_attention_heads=2,
                intermediate_size=2 * width,
            )
            model = transformers.BertModel(config)
        else:
            config = transformers.T5Config(
                vocab_size=len(letters), d_model=width, d_kv=8, d_ff=2 * width, num_layers=2, num_heads=2
            )
            model = transformers.T5EncoderModel(config)
    model.save_pretrained(folder)
    fast.save_pretrained(folder)
    return folder

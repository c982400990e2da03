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


def embedding(folder: Path, kind: Literal["whisper", "clap", "videomae", "dinov2"]) -> Path:
    """A small model of sounds, videos or pictures with what prepares its inputs, saved as `transformers` saves them."""
    import transformers as t

    size: dict[str, Any] = {
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 32,
    }
    pictures = t.ViTImageProcessor(size={"height": 16, "width": 16})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        if kind == "whisper":
            whisper: dict[str, Any] = {"d_model": 16, "num_mel_bins": 20, "max_source_positions": 50, "vocab_size": 64}
            for side in ("encoder", "decoder"):
                whisper |= {f"{side}_layers": 1, f"{side}_attention_heads": 2}
            for token in ("pad", "bos", "eos", "decoder_start"):
                whisper[f"{token}_token_id"] = 0
            config: Any = t.WhisperConfig(**whisper)
            model: Any = t.WhisperModel(config)
            processor: Any = t.WhisperFeatureExtractor(feature_size=20, chunk_length=1)
        elif kind == "clap":
            sound = {
                "spec_size": 32,
                "num_mel_bins": 8,
                "patch_size": 4,
                "patch_stride": [4, 4],
                "patch_embeds_hidden_size": 16,
            }
            heads = {"depths": [1, 1], "num_attention_heads": [2, 2], "window_size": 4, "hidden_size": 32}
            text = {**size, "vocab_size": 64}
            config = t.ClapConfig(audio_config={**sound, **heads}, text_config=text, projection_dim=16)
            model = t.ClapModel(config)
            processor = t.ClapFeatureExtractor(
                feature_size=8, max_length_s=1, truncation="rand_trunc", padding="repeatpad"
            )
        elif kind == "videomae":
            config = t.VideoMAEConfig(image_size=16, patch_size=8, num_frames=4, tubelet_size=2, **size)
            model = t.VideoMAEModel(config)
            processor = t.VideoMAEImageProcessor(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16})
        else:
            config = t.Dinov2Config(image_size=16, patch_size=8, **size)
            model, processor = t.Dinov2Model(config), pictures
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def autoencoder(folder: Path, kind: str = "AutoencoderKLWan") -> Path:
    """A small autoencoder of `diffusers` of that class, saved as it saves them."""
    import diffusers

    options: dict[str, dict[str, Any]] = {
        "AutoencoderKL": {
            "block_out_channels": (8, 8, 8),
            "down_block_types": ("DownEncoderBlock2D",) * 3,
            "up_block_types": ("UpDecoderBlock2D",) * 3,
            "norm_num_groups": 4,
            "scaling_factor": 2.0,
            "shift_factor": 0.1,
        },
        "AutoencoderKLWan": {
            "base_dim": 8,
            "z_dim": 4,
            "dim_mult": [1, 1, 1],
            "num_res_blocks": 1,
            "temperal_downsample": [False, True],
            "latents_mean": [0.1, 0.0, -0.1, 0.2],
            "latents_std": [0.5, 0.4, 0.3, 0.6],
            "scale_factor_temporal": 2,
            "scale_factor_spatial": 4,
        },
        "AutoencoderKLLTXVideo": {
            "latent_channels": 8,
            "block_out_channels": (8, 8),
            "down_block_types": ("LTXVideoDownBlock3D",) * 2,
            "decoder_block_out_channels": (8, 8),
            "layers_per_block": (1, 1, 1),
            "decoder_layers_per_block": (1, 1, 1),
            "spatio_temporal_scaling": (True, False),
            "decoder_spatio_temporal_scaling": (True, False),
            "decoder_inject_noise": (False, False, False),
            "downsample_type": ("conv", "conv"),
            "upsample_residual": (False, False),
            "upsample_factor": (1, 1),
            "patch_size": 2,
        },
        "AutoencoderDC": {
            "latent_channels": 4,
            "encoder_block_out_channels": (8, 16, 16),
            "decoder_block_out_channels": (8, 16, 16),
            "encoder_layers_per_block": (1, 1, 1),
            "decoder_layers_per_block": (1, 1, 1),
            "encoder_block_types": "ResBlock",
            "decoder_block_types": "ResBlock",
            "encoder_qkv_multiscales": ((), (), ()),
            "decoder_qkv_multiscales": ((), (), ()),
            "attention_head_dim": 8,
        },
        "AutoencoderKLHunyuanVideo": {
            "block_out_channels": (8, 8, 8, 8),
            "layers_per_block": 1,
            "norm_num_groups": 4,
            "latent_channels": 4,
        },
        "AutoencoderKLCogVideoX": {
            "block_out_channels": (8, 8, 8, 8),
            "layers_per_block": 1,
            "norm_num_groups": 4,
            "latent_channels": 4,
        },
        "AutoencoderKLMochi": {
            "encoder_block_out_channels": (32, 32, 32, 32),
            "decoder_block_out_channels": (32, 32, 32, 32),
            "layers_per_block": (1, 1, 1, 1, 1),
            "latent_channels": 12,
        },
        "AutoencoderOobleck": {
            "encoder_hidden_size": 8,
            "downsampling_ratios": [2, 4, 8],
            "channel_multiples": [1, 2, 2],
            "decoder_channels": 8,
            "decoder_input_channels": 4,
            "audio_channels": 2,
            "sampling_rate": 44100,
        },
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        getattr(diffusers, kind)(**options[kind]).save_pretrained(folder)
    return folder


def vocoder(folder: Path, sample_rate: int = 8000, window: int = 256, hop: int = 64, bands: int = 20) -> Path:
    """A small Vocos in the files of the published ones."""
    import json

    mel = {"sample_rate": sample_rate, "n_fft": window, "hop_length": hop, "n_mels": bands, "padding": "center"}
    config = {
        "feature_extractor": {"class_path": "vocos.feature_extractors.MelSpectrogramFeatures", "init_args": mel},
        "backbone": {
            "class_path": "vocos.models.VocosBackbone",
            "init_args": {"input_channels": bands, "dim": 16, "intermediate_dim": 32, "num_layers": 2},
        },
        "head": {
            "class_path": "vocos.heads.ISTFTHead",
            "init_args": {"dim": 16, "n_fft": window, "hop_length": hop, "padding": "center"},
        },
    }
    shapes = {"backbone.embed.weight": (16, bands, 7), "backbone.embed.bias": (16,)}
    for norm in ("norm", "final_layer_norm", "convnext.0.norm", "convnext.1.norm"):
        shapes |= {f"backbone.{norm}.weight": (16,), f"backbone.{norm}.bias": (16,)}
    for block in ("backbone.convnext.0", "backbone.convnext.1"):
        shapes |= {f"{block}.gamma": (16,), f"{block}.dwconv.weight": (16, 1, 7), f"{block}.dwconv.bias": (16,)}
        shapes |= {f"{block}.pwconv1.weight": (32, 16), f"{block}.pwconv1.bias": (32,)}
        shapes |= {f"{block}.pwconv2.weight": (16, 32), f"{block}.pwconv2.bias": (16,)}
    shapes |= {"head.out.weight": (window + 2, 16), "head.out.bias": (window + 2,)}
    g = torch.Generator().manual_seed(0)
    tensors = {name: torch.randn(shape, generator=g) * 0.2 for name, shape in shapes.items()}
    tensors |= {"head.istft.window": torch.hann_window(window)}
    tensors |= {"feature_extractor.mel_spec.spectrogram.window": torch.hann_window(window)}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text(json.dumps(config))
    torch.save(tensors, folder / "pytorch_model.bin")
    return folder

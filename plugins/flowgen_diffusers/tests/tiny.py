"""Tiny pipelines of every family with random weights, saved as `save_pretrained` saves the published ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers

from flowgen.testing.models import autoencoder, text_encoder


def pipeline(folder: Path, kind: str) -> Path:
    """A pipeline of this class."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = MAKERS[kind](folder / "parts")
        for parameter in made.transformer.parameters():  # layers that start at zero would hide what goes wrong
            parameter.data.add_(0.05 * torch.randn_like(parameter))
    made.save_pretrained(folder)
    return folder


def _t5(folder: Path, kind: str = "T5") -> dict[str, Any]:
    text_encoder(folder, "t5")
    model = transformers.T5EncoderModel.from_pretrained(folder)
    if kind == "UMT5":
        config = transformers.UMT5Config(**{k: v for k, v in model.config.to_dict().items() if k in _SHAPE})
        model = transformers.UMT5EncoderModel(config)
    return {"text_encoder": model.eval(), "tokenizer": transformers.AutoTokenizer.from_pretrained(folder)}


_SHAPE = ("vocab_size", "d_model", "d_kv", "d_ff", "num_layers", "num_heads")


def _ltx(parts: Path) -> Any:
    vae = diffusers.AutoencoderKLLTXVideo.from_pretrained(autoencoder(parts / "vae", "AutoencoderKLLTXVideo"))
    vae.latents_mean += 0.1 * torch.randn(8)
    vae.latents_std += 0.1 * torch.rand(8)
    transformer = diffusers.LTXVideoTransformer3DModel(
        in_channels=8,
        out_channels=8,
        num_attention_heads=2,
        attention_head_dim=16,
        cross_attention_dim=32,
        num_layers=2,
        caption_channels=16,
    )
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(
        use_dynamic_shifting=True,
        base_image_seq_len=1024,
        max_image_seq_len=4096,
        base_shift=0.95,
        max_shift=2.05,
        shift_terminal=0.1,
    )
    return diffusers.LTXPipeline(scheduler=scheduler, vae=vae, transformer=transformer, **_t5(parts / "t5"))


def _wan(parts: Path) -> Any:
    transformer = diffusers.WanTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=12,
        in_channels=4,
        out_channels=4,
        text_dim=16,
        freq_dim=32,
        ffn_dim=32,
        num_layers=2,
        rope_max_seq_len=32,
    )
    return diffusers.WanPipeline(
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=diffusers.AutoencoderKLWan.from_pretrained(autoencoder(parts / "vae", "AutoencoderKLWan")),
        transformer=transformer,
        **_t5(parts / "t5", "UMT5"),
    )


def _cogvideox(parts: Path) -> Any:
    transformer = diffusers.CogVideoXTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=16,
        in_channels=4,
        out_channels=4,
        time_embed_dim=16,
        text_embed_dim=16,
        num_layers=2,
        sample_width=8,
        sample_height=6,
        sample_frames=9,
        max_text_seq_length=226,
        use_rotary_positional_embeddings=True,
    )
    scheduler = diffusers.CogVideoXDDIMScheduler(
        prediction_type="v_prediction",
        clip_sample=False,
        timestep_spacing="trailing",
        rescale_betas_zero_snr=True,
        snr_shift_scale=3.0,
    )
    vae = diffusers.AutoencoderKLCogVideoX.from_pretrained(autoencoder(parts / "vae", "AutoencoderKLCogVideoX"))
    return diffusers.CogVideoXPipeline(scheduler=scheduler, vae=vae, transformer=transformer, **_t5(parts / "t5"))


def _mochi(parts: Path) -> Any:
    transformer = diffusers.MochiTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=12,
        num_layers=2,
        pooled_projection_dim=16,
        text_embed_dim=16,
        time_embed_dim=16,
        max_sequence_length=256,
    )
    return diffusers.MochiPipeline(
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(invert_sigmas=True),
        vae=diffusers.AutoencoderKLMochi.from_pretrained(autoencoder(parts / "vae", "AutoencoderKLMochi")),
        transformer=transformer,
        force_zeros_for_empty_prompt=True,
        **_t5(parts / "t5"),
    )


def _hunyuan_video(parts: Path) -> Any:
    transformer = diffusers.HunyuanVideoTransformer3DModel(
        in_channels=4,
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=12,
        num_layers=1,
        num_single_layers=1,
        num_refiner_layers=1,
        text_embed_dim=16,
        pooled_projection_dim=16,
        rope_axes_dim=(4, 4, 4),
    )
    tokens = {"tokenizer": _words(parts / "words"), "tokenizer_2": _words(parts / "words")}
    size = {
        "vocab_size": len(tokens["tokenizer"]),
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_attention_heads": 2,
    }
    ends = {"bos_token_id": 2, "eos_token_id": 3, "pad_token_id": 0}
    return diffusers.HunyuanVideoPipeline(
        text_encoder=transformers.LlamaModel(transformers.LlamaConfig(**size, **ends, num_hidden_layers=3)).eval(),
        text_encoder_2=transformers.CLIPTextModel(
            transformers.CLIPTextConfig(**size, **ends, num_hidden_layers=1)
        ).eval(),
        **tokens,
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=7.0),
        vae=diffusers.AutoencoderKLHunyuanVideo.from_pretrained(
            autoencoder(parts / "vae", "AutoencoderKLHunyuanVideo")
        ),
        transformer=transformer,
    )


def _stable_audio(parts: Path) -> Any:
    from diffusers.pipelines.stable_audio import StableAudioProjectionModel

    transformer = diffusers.StableAudioDiTModel(
        sample_size=24,
        in_channels=4,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=4,
        num_key_value_attention_heads=2,
        out_channels=4,
        cross_attention_dim=16,
        time_proj_dim=16,
        global_states_input_dim=32,
        cross_attention_input_dim=16,
    )
    text = _t5(parts / "t5")
    text["tokenizer"].model_max_length = 128
    return diffusers.StableAudioPipeline(
        vae=diffusers.AutoencoderOobleck.from_pretrained(autoencoder(parts / "vae", "AutoencoderOobleck")),
        projection_model=StableAudioProjectionModel(16, 16, min_value=0, max_value=1),
        transformer=transformer,
        scheduler=cosine_scheduler(),
        **text,
    )


def cosine_scheduler() -> Any:
    """The scheduler of Stable Audio. Its library of noise is not installed: a test draws from noise of its own."""
    import sys
    from types import ModuleType

    sys.modules.setdefault("torchsde", ModuleType("torchsde"))
    from diffusers.schedulers.scheduling_cosine_dpmsolver_multistep import CosineDPMSolverMultistepScheduler

    return CosineDPMSolverMultistepScheduler()


def _flux(parts: Path) -> Any:
    transformer = diffusers.FluxTransformer2DModel(
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=12,
        num_attention_heads=2,
        joint_attention_dim=16,
        pooled_projection_dim=16,
        guidance_embeds=True,
        axes_dims_rope=(4, 4, 4),
    )
    words, letters = _words(parts / "words"), _t5(parts / "t5")
    words.model_max_length = 77
    size = {"vocab_size": len(words), "hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2}
    clip = transformers.CLIPTextConfig(**size, num_hidden_layers=1, bos_token_id=2, eos_token_id=3, pad_token_id=0)
    return diffusers.FluxPipeline(
        text_encoder=transformers.CLIPTextModel(clip).eval(),
        tokenizer=words,
        text_encoder_2=letters["text_encoder"],
        tokenizer_2=letters["tokenizer"],
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, max_image_seq_len=300),
        vae=diffusers.AutoencoderKL.from_pretrained(autoencoder(parts / "vae", "AutoencoderKL")),
        transformer=transformer,
    )


def _stable_diffusion_3(parts: Path) -> Any:
    transformer = diffusers.SD3Transformer2DModel(
        sample_size=8,
        in_channels=4,
        num_layers=2,
        attention_head_dim=12,
        num_attention_heads=2,
        joint_attention_dim=16,
        caption_projection_dim=24,
        pooled_projection_dim=16,
        out_channels=4,
        pos_embed_max_size=16,
        dual_attention_layers=(0,),
        qk_norm="rms_norm",
    )
    words, letters = _words(parts / "words"), _t5(parts / "t5")
    words.model_max_length = 77
    size = {"vocab_size": len(words), "hidden_size": 8, "intermediate_size": 16, "num_attention_heads": 2}
    ends = {"bos_token_id": 2, "eos_token_id": 3, "pad_token_id": 0}
    clip = transformers.CLIPTextConfig(**size, **ends, num_hidden_layers=2, projection_dim=8)
    return diffusers.StableDiffusion3Pipeline(
        text_encoder=transformers.CLIPTextModelWithProjection(clip).eval(),
        tokenizer=words,
        text_encoder_2=transformers.CLIPTextModelWithProjection(clip).eval(),
        tokenizer_2=words,
        text_encoder_3=letters["text_encoder"],
        tokenizer_3=letters["tokenizer"],
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=diffusers.AutoencoderKL.from_pretrained(autoencoder(parts / "vae", "AutoencoderKL")),
        transformer=transformer,
    )


def _words(folder: Path) -> Any:
    """A tokenizer of words: the template around a prompt has fewer of them than the letters that are cut off as it."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    known = ("a", "an", "and", "blurry", "eot_id", "fox", "in", "noise", "of", "red", "snow", "the", "video")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *known]
    tokens = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    tokens.pre_tokenizer = pre_tokenizers.Whitespace()
    ends = [("[CLS]", 2), ("[SEP]", 3)]
    tokens.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
    made = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokens, pad_token="[PAD]", unk_token="[UNK]", bos_token="[CLS]", eos_token="[SEP]"
    )
    made.save_pretrained(folder)
    return made


MAKERS = {
    "LTXPipeline": _ltx,
    "WanPipeline": _wan,
    "CogVideoXPipeline": _cogvideox,
    "MochiPipeline": _mochi,
    "HunyuanVideoPipeline": _hunyuan_video,
    "StableAudioPipeline": _stable_audio,
    "FluxPipeline": _flux,
    "StableDiffusion3Pipeline": _stable_diffusion_3,
}

"""The proof: from the same noise, steps and guidance flowgen samples what the pipeline of diffusers samples."""

import json
import shutil
import sys
from typing import ClassVar

import diffusers
import pytest
import torch
from einops import rearrange
from flowgen_diffusers.model import PretrainedModel
from flowgen_diffusers.text import PromptCondition
from tiny import cosine_scheduler

from flowgen.config import Config
from flowgen.core.guidance import CFG
from flowgen.core.rows import Rows
from flowgen.core.sampler import sample
from flowgen.errors import FlowgenError, UsageError
from flowgen.media.clip import Clip
from flowgen.media.conditions import encode_conditions
from flowgen.media.regions import KnownFlow
from flowgen.runs.experiment import Experiment
from flowgen.runs.generator import Generator

PROMPT, NEGATIVE = "a red fox in the snow", "blurry"
SIZES = {
    "LTXPipeline": {"fps": 25, "frames": 9, "height": 32, "width": 32},
    "WanPipeline": {"fps": 16, "frames": 9, "height": 32, "width": 32},
    "MochiPipeline": {"fps": 30, "frames": 13, "height": 32, "width": 48},
    "HunyuanVideoPipeline": {"fps": 24, "frames": 9, "height": 32, "width": 48},
    "CogVideoXPipeline": {"fps": 8, "frames": 9, "height": 32, "width": 48},
}
STEPS, SCALE = 4, 3.0


_PICTURE = {"fps": 1, "frames": 1, "height": 32, "width": 48}
PICTURES = {"FluxPipeline": _PICTURE, "StableDiffusion3Pipeline": _PICTURE}


def generator(folder, kind, told=None, **sample):
    config = Config.model_validate(
        {
            "name": "parity",
            "modality": {"type": "video", **(SIZES | PICTURES)[kind]},
            "data": {"type": "video-folder", "folder": "nowhere"},
            "encoder": {"type": f"{'image' if kind in PICTURES else 'video'}-autoencoder", "model": f"{folder}/vae"},
            "network": {"type": "diffusers", "model": str(folder), "guidance": told},
            "conditions": {"caption": {"type": "diffusers-text", "model": str(folder)}},
            "train": {"steps": 1},
            "sample": {
                "steps": STEPS,
                "solver": "euler",
                "grid": "model",
                "guidance": {"type": "cfg", "scale": SCALE, "start": 0.0},
                **sample,
            },
        }
    )
    experiment = Experiment(config)
    return Generator(experiment, experiment.network.eval(), torch.device("cpu"))


def latents_of(made, *, seed=0, negative=NEGATIVE):
    """What flowgen hands to its decoder."""
    caught = []
    decode = made.encoder.decode

    def keep(latents):
        caught.append(latents.x)
        return decode(latents)

    made.encoder.decode = keep
    clips = made.sample([{"caption": PROMPT}], seed=seed, negative={"caption": negative} if negative else None)
    return caught[-1], clips


def noise_for(pipe, noise):
    """Noise in the layout that the pipeline takes."""
    if kind_of(pipe) == "CogVideoXPipeline":
        return rearrange(noise, "b t h w c -> b t c h w")
    noise = rearrange(noise, "b t h w c -> b c t h w")
    return pipe._pack_latents(noise, 1, 1) if hasattr(pipe, "_pack_latents") else noise


def unpacked(pipe, latents, like):
    if latents.ndim == 3:
        _, t, h, w, _ = like.shape
        latents = pipe._unpack_latents(latents, t, h, w, 1, 1)
    axes = "b t c h w" if kind_of(pipe) == "CogVideoXPipeline" else "b c t h w"
    return rearrange(latents, f"{axes} -> b t h w c")


def kind_of(pipe):
    return type(pipe).__name__


def asked(pipe, noise, kind, **more):
    size = {k: v for k, v in SIZES[kind].items() if k != "fps"}
    rate = {"frame_rate": SIZES[kind]["fps"]} if kind.startswith("LTX") else {}
    return {
        "prompt": PROMPT,
        "negative_prompt": NEGATIVE,
        "num_frames": size["frames"],
        "height": size["height"],
        "width": size["width"],
        "num_inference_steps": STEPS,
        **({"true_cfg_scale": SCALE} if kind.startswith("Hunyuan") else {"guidance_scale": SCALE}),
        "latents": noise_for(pipe, noise),
        **rate,
        **more,
    }


@pytest.mark.parametrize("kind", list(SIZES))
def test_latents_and_clips_are_those_of_the_pipeline(kind, model, capsys):
    folder = model(kind)
    made = generator(folder, kind)
    latents, (clip,) = latents_of(made)
    pipe = getattr(diffusers, kind).from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    noise = made.noise(1, 0)
    theirs = pipe(**asked(pipe, noise, kind, output_type="latent")).frames
    theirs = unpacked(pipe, theirs, latents)
    moved = (latents - noise).abs().max()
    assert moved > 0.3
    assert (latents - theirs).abs().max() < 1e-4
    shown = pipe(**asked(pipe, noise, kind, output_type="np")).frames[0]
    ours = made.encoder.autoencoder.decode(_raw(made.encoder, latents))
    ours = rearrange((ours[0] / 2 + 0.5).clamp(0, 1), "c t h w -> t h w c")
    assert (ours - torch.as_tensor(shown)).abs().max() < 1e-3
    assert (clip.data.float() / 255 - torch.as_tensor(shown)).abs().max() < 0.5 / 255 + 1e-3
    apart = f"latents {(latents - theirs).abs().max():.1e}, frames {(ours - torch.as_tensor(shown)).abs().max():.1e}"
    with capsys.disabled():
        print(f"\n{kind}: {apart}, moved {moved:.2f}, std {theirs.std():.2f}")


@pytest.mark.parametrize("kind", list(SIZES))
def test_guidance_goes_from_the_empty_prompt_as_in_the_pipeline(kind, model):
    folder = model(kind)
    made = generator(folder, kind, steps=2)
    pipe = getattr(diffusers, kind).from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    call = asked(pipe, made.noise(1, 0), kind, output_type="latent", num_inference_steps=2)
    latents, _ = latents_of(made, negative=None)
    theirs = unpacked(pipe, pipe(**call | {"negative_prompt": ""}).frames, latents)
    assert (latents - theirs).abs().max() < 1e-4


def _raw(encoder, latents):
    mean, scale = (v.reshape(-1, 1, 1, 1) for v in encoder.autoencoder.normalisation(latents.device))
    return rearrange(latents, "b t h w c -> b c t h w") / scale + mean


def test_a_given_first_frame_is_that_of_the_image_to_video_pipeline(model):
    """What a pipeline does by a mask over tokens is flowgen's known region: given positions are at t = 1."""
    kind = "LTXPipeline"
    made = generator(model(kind), kind)
    frames = torch.randint(0, 256, (1, 32, 32, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    x1 = made.encoder.encode([Clip(frames, 25.0)]).x
    noise = made.noise(1, 0)
    known = torch.zeros(noise.shape[:-1], dtype=torch.bool)
    known[:, :1] = True
    cond = encode_conditions(made.conditioners, [{"caption": PROMPT}])
    null = encode_conditions(made.conditioners, [{"caption": NEGATIVE}])
    whole = torch.cat([x1, torch.zeros_like(noise[:, 1:])], 1)
    flow = CFG(scale=SCALE, start=0.0)(KnownFlow(made.flow(noise), whole, known), null)
    with torch.no_grad():
        x = sample(flow, noise, made.grid(made.config.sample, noise), solver="euler", cond=cond)
    ours = torch.where(known[..., None], whole, x)

    pipe = diffusers.LTXImageToVideoPipeline.from_pretrained(model(kind))
    pipe.set_progress_bar_config(disable=True)
    start = torch.where(known[..., None], whole, noise)
    picture = rearrange(frames[0], "h w c -> c h w")[None] / 255
    theirs = pipe(image=picture, **asked(pipe, start, kind, output_type="latent")).frames
    theirs = unpacked(pipe, theirs, noise)
    assert (ours[:, 1:] - noise[:, 1:]).abs().max() > 0.3
    assert (ours - theirs).abs().max() < 1e-4
    plain, _ = latents_of(made)
    assert (ours - plain)[:, 1:].abs().max() > 1e-2


def test_the_schedule_of_the_model_matters_and_is_its_own(model):
    kind = "LTXPipeline"
    made = generator(model(kind), kind)
    noise = made.noise(1, 0)
    own, even = latents_of(made)[0], latents_of(generator(model(kind), kind, grid="uniform"))[0]
    assert (own - even).abs().max() > 1e-2
    for steps in (3, 8):
        settings = made.config.sample.model_copy(update={"steps": steps})
        grid = made.grid(settings, noise)
        assert len(grid) == steps + 1
        assert float(1 - grid[-2]) == pytest.approx(0.1, abs=1e-6)  # shift_terminal


def test_unipc_of_published_wan_models_gives_its_times_and_shift(model, tmp_path):
    folder = tmp_path / "wan"
    shutil.copytree(model("WanPipeline"), folder)
    unipc = diffusers.UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, num_train_timesteps=1000, flow_shift=5.0
    )
    unipc.save_pretrained(folder / "scheduler")
    made = generator(folder, "WanPipeline", solver="unipc")
    unipc.set_timesteps(STEPS)
    grid = made.grid(made.config.sample, made.noise(1, 0))
    assert grid[[0, -1]].tolist() == [0, 1]
    assert torch.allclose(1 - grid[1:], unipc.sigmas[1:].double())
    assert PretrainedModel(str(folder)).family.shift(PretrainedModel(str(folder)).scheduler(), 1) == 5.0
    latents, _ = latents_of(made)
    assert (latents - made.noise(1, 0)).abs().max() > 0.3


def rescheduled(model, folder, **changed):
    """CogVideoX with another schedule."""
    shutil.copytree(model("CogVideoXPipeline"), folder)
    file = folder / "scheduler" / "scheduler_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changed))
    return folder


@pytest.mark.parametrize("changed", [{"snr_shift_scale": 1.0}, {"beta_schedule": "linear", "beta_end": 0.02}])
def test_schedules_of_cogvideox_are_respected(model, tmp_path, changed):
    kind = "CogVideoXPipeline"
    folder = rescheduled(model, tmp_path / "a", **changed)
    made, steps = generator(folder, kind, steps=5), 5
    latents, _ = latents_of(made)
    pipe = diffusers.CogVideoXPipeline.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    call = asked(pipe, made.noise(1, 0), kind, output_type="latent", num_inference_steps=steps)
    assert (latents - unpacked(pipe, pipe(**call).frames, latents)).abs().max() < 1e-4
    plain, _ = latents_of(generator(model(kind), kind, steps=5))
    assert (latents - plain).abs().max() > 1e-2


def test_the_times_between_the_indices_of_cogvideox_are_between(model):
    from flowgen_diffusers.families.cogvideox import CogVideoX, _index

    scheduler = PretrainedModel(str(model("CogVideoXPipeline"))).scheduler()
    square = scheduler.alphas_cumprod
    own = square.sqrt() / (square.sqrt() + (1 - square).sqrt())
    table = CogVideoX().table(scheduler.config)
    assert torch.allclose(table.flip(0), own, atol=1e-6)
    assert _index(table, torch.tensor([0.0, 1.0])).tolist() == [999, 0]
    between = _index(table, (own[400:402].mean() + own[399:401].mean())[None] / 2)
    assert between.item() == pytest.approx(400, abs=0.01)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"rescale_betas_zero_snr": False}, "does not go from pure noise to data"),
        ({"timestep_spacing": "leading"}, "timestep_spacing: trailing"),
        ({"prediction_type": "epsilon"}, "v_prediction alone"),
    ],
)
def test_schedules_that_cannot_be_repeated_are_refused(model, tmp_path, changed, said):
    folder = rescheduled(model, tmp_path / "a", **changed)
    with pytest.raises((FlowgenError, ValueError), match=said):
        generator(folder, "CogVideoXPipeline").sample([{"caption": PROMPT}], seed=0)


def test_the_guidance_that_hunyuan_video_has_learned_is_told(model):
    kind = "HunyuanVideoPipeline"
    folder = model(kind)
    made = generator(folder, kind, told=1.5, guidance=None)
    pipe = diffusers.HunyuanVideoPipeline.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    call = asked(pipe, made.noise(1, 0), kind, output_type="latent", guidance_scale=1.5, true_cfg_scale=1.0)
    latents, _ = latents_of(made, negative=None)
    assert (latents - unpacked(pipe, pipe(**call).frames, latents)).abs().max() < 1e-4
    plain, _ = latents_of(generator(folder, kind, guidance=None), negative=None)
    assert (latents - plain).abs().max() > 1e-3
    with pytest.raises((FlowgenError, ValueError), match=r"network\.guidance: LTXPipeline is told no scale"):
        generator(model("LTXPipeline"), "LTXPipeline", told=3.0)


# Stable Audio: sound, and a scheduler that draws noise in every step. Both sides are given the noise that flowgen draws.

SOUND, SECONDS = "StableAudioPipeline", 24 * 64 / 44100


def sound(folder, seconds, **sample):
    condition = {"type": "diffusers-text", "model": str(folder), "seconds": seconds}
    values = {
        "name": "parity",
        "modality": {"type": "audio", "sample_rate": 44100, "channels": 2, "duration_s": SECONDS},
        "data": {"type": "audio-folder", "folder": "nowhere"},
        "encoder": {"type": "audio-autoencoder", "model": f"{folder}/vae", "normalise": False},
        "network": {"type": "diffusers", "model": str(folder)},
        "conditions": {"caption": condition},
        "train": {"steps": 1},
        "sample": {
            "steps": STEPS,
            "solver": "dpm++sde",
            "grid": "model",
            "guidance": {"type": "cfg", "scale": SCALE, "start": 0.0},
            **sample,
        },
    }
    experiment = Experiment(Config.model_validate(values))
    return Generator(experiment, experiment.network.eval(), torch.device("cpu"))


class Drawn:
    """The noise of flowgen's solver, in the place of that of torchsde."""

    kept: ClassVar[list[torch.Tensor]] = []

    def __init__(self, *_, **__):
        self.left = [*self.kept]

    def __call__(self, *_):
        return self.left.pop(0) if self.left else torch.zeros(1, 4, 24)  # the last step has none


def stable_audio(folder, monkeypatch):
    scheduler = cosine_scheduler()
    monkeypatch.setattr(sys.modules[type(scheduler).__module__], "BrownianTreeNoiseSampler", Drawn)
    monkeypatch.setattr(Drawn, "kept", [])
    noise = Rows.noise

    def keep(rows, label):
        drawn = noise(rows, label)
        if label.startswith("solver"):
            Drawn.kept.append(rearrange(drawn, "b t c -> b c t"))
        return drawn

    monkeypatch.setattr(Rows, "noise", keep)
    pipe = diffusers.StableAudioPipeline.from_pretrained(folder, scheduler=None)
    pipe.register_modules(scheduler=scheduler)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.mark.parametrize("steps", [STEPS, 16])
def test_sound_is_that_of_the_pipeline(model, monkeypatch, capsys, steps):
    seconds = 0.75 * SECONDS
    made = sound(model(SOUND), seconds, steps=steps)
    pipe = stable_audio(model(SOUND), monkeypatch)
    latents, (clip,) = latents_of(made)
    noise = made.noise(1, 0)
    call = {
        "prompt": PROMPT,
        "negative_prompt": NEGATIVE,
        "num_inference_steps": steps,
        "guidance_scale": SCALE,
        "audio_end_in_s": seconds,
        "latents": rearrange(noise, "b t c -> b c t"),
    }
    theirs = rearrange(pipe(**call, output_type="latent").audios, "b c t -> b t c")
    assert len(Drawn.kept) == steps - 1
    moved, apart = (latents - noise).abs().max(), (latents - theirs).abs().max()
    assert moved > 0.3
    assert apart < 1e-4
    heard = pipe(**call, output_type="pt").audios[0]
    ours = clip.data[:, : heard.shape[-1]]
    assert (ours - heard.clamp(-1, 1)).abs().max() < 1e-3
    with capsys.disabled():
        print(f"\n{SOUND}, {steps} steps: latents {apart:.1e}, sound {(ours - heard.clamp(-1, 1)).abs().max():.1e}")


def test_sound_is_guided_from_no_prompt_and_is_told_its_length(model, monkeypatch):
    made = sound(model(SOUND), None)
    pipe = stable_audio(model(SOUND), monkeypatch)
    latents, _ = latents_of(made, negative=None)
    call = {"prompt": PROMPT, "num_inference_steps": STEPS, "guidance_scale": SCALE, "output_type": "latent"}
    theirs = pipe(**call, latents=rearrange(made.noise(1, 0), "b t c -> b c t")).audios
    assert (latents - rearrange(theirs, "b c t -> b t c")).abs().max() < 1e-4
    shorter, _ = latents_of(sound(model(SOUND), 0.5 * SECONDS), negative=None)
    assert (shorter - latents).abs().max() > 1e-4
    with pytest.raises(UsageError, match=r"seconds=1 of .* which makes 0\.0348"):
        latents_of(sound(model(SOUND), 1.0))
    condition = PromptCondition(str(model("LTXPipeline")), seconds=1.0)
    with pytest.raises(UsageError, match="it is told no length"):
        condition.encode("a fox")


@pytest.mark.parametrize("kind", list(PICTURES))
@pytest.mark.parametrize(
    ("told", "scale", "negative", "shift"),
    [(None, SCALE, NEGATIVE, True), (None, SCALE, "", True), (1.5, 1.0, None, True), (None, SCALE, NEGATIVE, False)],
)
def test_pictures_are_those_of_the_pipeline(kind, model, tmp_path, capsys, told, scale, negative, shift):
    folder, flux = shutil.copytree(model(kind), tmp_path / "copy"), kind == "FluxPipeline"
    file = folder / "scheduler" / "scheduler_config.json"
    schedule = {"use_dynamic_shifting": shift, "max_image_seq_len": 300, "shift": 2.0}
    file.write_text(json.dumps(json.loads(file.read_text()) | schedule))
    made = generator(folder, kind, told if flux else None, guidance={"type": "cfg", "scale": scale, "start": 0.0})
    pipe = getattr(diffusers, kind).from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    latents, (clip,) = latents_of(made, negative=negative)
    noise = made.noise(1, 0)
    start = rearrange(noise, "b 1 h w c -> b c h w")
    call = {
        "prompt": PROMPT,
        "negative_prompt": negative,
        "height": 32,
        "width": 48,
        "num_inference_steps": STEPS,
        "latents": pipe._pack_latents(start, *start.shape) if flux else start,
        **({"true_cfg_scale": scale, "guidance_scale": told or 3.5} if flux else {"guidance_scale": scale}),
    }
    theirs = pipe(**call, output_type="latent").images
    theirs = pipe._unpack_latents(theirs, 32, 48, pipe.vae_scale_factor) if flux else theirs
    apart = (latents - rearrange(theirs, "b c h w -> b 1 h w c")).abs().max()
    assert (latents - noise).abs().max() > 0.3
    assert apart < 1e-4
    shown = torch.as_tensor(pipe(**call, output_type="np").images[0])
    ours = made.encoder.autoencoder.decode(_raw(made.encoder, latents)[:, :, 0])
    ours = rearrange((ours[0] / 2 + 0.5).clamp(0, 1), "c h w -> h w c")
    assert (ours - shown).abs().max() < 1e-3
    assert (clip.data[0].float() / 255 - shown).abs().max() < 0.5 / 255 + 1e-3
    with capsys.disabled():
        print(f"\n{kind}: latents {apart:.1e}, picture {(ours - shown).abs().max():.1e}")


def test_what_makes_pictures_has_one_frame(model):
    kind = "FluxPipeline"
    config = generator(model(kind), kind).config.model_dump()
    config["modality"] = {"type": "video", **PICTURES[kind], "frames": 2}
    with pytest.raises((UsageError, ValueError), match=r"modality\.frames=1"):
        Experiment(Config.model_validate(config)).network  # noqa: B018

"""init, train and sample by the command line, and what is refused on the way."""

import csv
import json
import shutil

import pytest
import torch
import yaml
from click.testing import CliRunner
from flowgen_audio.media import write_samples
from flowgen_audio.modality import Audio
from flowgen_diffusers.family import families
from flowgen_diffusers.model import PretrainedModel
from flowgen_diffusers.text import PromptCondition
from flowgen_video.modality import Video
from flowgen_video.writing import write_frames
from PIL import Image

from flowgen.cli import cli
from flowgen.config import Config, load
from flowgen.errors import FlowgenError, UsageError
from flowgen.media.conditions import null_conditions
from flowgen.nn.swapping import BlockSwap
from flowgen.runs.experiment import Experiment
from flowgen.weights import read_tensors

SIZE = ("--height", "32", "--width", "32", "--fps", "8")
SHIFTS = {
    "LTXPipeline": 1.9,
    "WanPipeline": 3.0,
    "CogVideoXPipeline": 2.79,
    "MochiPipeline": 1.0,
    "HunyuanVideoPipeline": 7.0,
}


def flowgen(*arguments):
    done = CliRunner().invoke(cli, [*map(str, arguments)])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == 0, done.output
    return done.output


FRAMES = {"MochiPipeline": 7}  # 9 of the others


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clips")
    g = torch.Generator().manual_seed(0)
    with (folder / "clips.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["file", "caption"])
        for i in range(6):
            write_frames(
                torch.randint(0, 256, (9, 32, 32, 3), generator=g, dtype=torch.uint8), 8.0, folder / f"{i}.mp4", {}
            )
            rows.writerow([f"{i}.mp4", f"noise {i}"])
    return folder / "clips.csv"


@pytest.mark.slow
@pytest.mark.parametrize("kind", list(SHIFTS))
def test_init_train_sample(kind, model, clips, tmp_path):
    config, run, out = tmp_path / "my.yaml", tmp_path / "run", tmp_path / "out.mp4"
    flowgen("init", model(kind), "-o", config, "--frames", FRAMES.get(kind, 9), *SIZE)
    resolved = load(str(config), []).config
    assert resolved.shift == pytest.approx(SHIFTS[kind], abs=0.3)
    small = ["train.steps=5", "train.batch_size=2", "data.held_out=0.34", "data.max_bad_share=0.1"]
    quiet = ["train.preview.every=0", "train.validation.every=0", "train.log_every=1", "loggers=[jsonl]"]
    flowgen("train", config, f"run={run}", f"data.manifest={clips}", *small, *quiet)
    losses = [json.loads(line).get("loss") for line in (run / "log.jsonl").read_text().splitlines()]
    assert len([v for v in losses if v is not None]) == 5
    recorded = yaml.safe_load((run / "config.yaml").read_text())
    assert recorded["conditions"]["caption"]["identity"]
    (checkpoint,) = (run / "checkpoints").glob("step-*")
    trained = read_tensors(checkpoint / "network.safetensors")
    before = PretrainedModel(str(model(kind))).transformer().state_dict()
    assert {k.removeprefix("transformer.") for k in trained} == before.keys()
    far = max((trained[f"transformer.{k}"] - v).abs().max() for k, v in before.items())
    assert 0 < far < 1e-3  # five steps from the pretrained weights, at a rate of 1e-5
    flowgen("sample", run, "--prompt", "a red fox", "--steps", 2, "-o", out)
    assert len(Video(fps=8).read(out).data) == FRAMES.get(kind, 9)


@pytest.mark.slow
@pytest.mark.parametrize("kind", list(SHIFTS))
def test_an_adapter_on_a_base_in_few_bits_is_planned_trained_sampled_and_merged(kind, model, clips, tmp_path):
    pytest.importorskip("peft")
    config, run, out = tmp_path / "my.yaml", tmp_path / "run", tmp_path / "out.mp4"
    flowgen("init", model(kind), "-o", config, "--frames", FRAMES.get(kind, 9), *SIZE)
    values = yaml.safe_load(config.read_text())
    values["network"] = {"type": "lora", "network": values["network"], "rank": 2, "precision": "int8"}
    values["run"], values["data"]["manifest"] = str(run), str(clips)
    config.write_text(yaml.safe_dump(values))
    small = ["train.steps=2", "train.batch_size=2", "data.held_out=0.34", "data.max_bad_share=0.1"]
    quiet = ["train.preview.every=0", "train.validation.every=0", "train.log_every=1", "loggers=[jsonl]"]
    if kind == "MochiPipeline":  # its transformer decides by values, adapter or not
        for network in (values["network"], values["network"]["network"]):
            (tmp_path / "one.yaml").write_text(yaml.safe_dump({**values, "network": network}))
            with pytest.raises(FlowgenError, match="decides by the values"):
                flowgen("plan", tmp_path / "one.yaml", *small)
    else:
        assert "frozen" in flowgen("plan", config, *small)
    assert "int8: output off by" in flowgen("train", config, *small, *quiet)
    assert "int8: output off by" in flowgen("sample", run, "--prompt", "a fox", "--steps", 2, "-o", out)
    flowgen("export", run, "-o", tmp_path / "whole", "--merge")


@pytest.mark.slow
@pytest.mark.parametrize("kind", [*SHIFTS, "FluxPipeline", "StableDiffusion3Pipeline"])
def test_an_adapter_on_swapped_blocks_computes_the_same(kind, model, tmp_path):
    """Output and gradients, bit for bit, in the blocks that diffusers has."""
    pytest.importorskip("peft")
    config = tmp_path / "my.yaml"
    flowgen("init", model(kind), "-o", config, *(("--frames", FRAMES.get(kind, 9)) if kind in SHIFTS else ()), *SIZE)
    values = yaml.safe_load(config.read_text())
    found = []
    for swap in (False, True):
        network = {"type": "lora", "network": values["network"], "rank": 2, "precision": "int8", "swap_blocks": swap}
        config.write_text(yaml.safe_dump({**values, "network": network}))
        torch.manual_seed(0)
        experiment = Experiment(load(str(config), []).config)
        made = experiment.network.train()
        x = torch.randn(2, *experiment.spec.shape, generator=torch.Generator().manual_seed(0))
        out = made(x, torch.tensor([0.3, 0.6]), null_conditions(experiment.conditioners, 2))
        out.square().mean().backward()
        found.append([out.detach(), *(p.grad for p in made.parameters() if p.grad is not None)])
        swaps = [m for m in made.modules() if isinstance(m, BlockSwap)]
    assert len(swaps[0].sizes) > 1
    assert min(swaps[0].sizes) > 0
    assert len(swaps[0].resident) <= 2
    assert len(found[0]) == len(found[1]) > 1
    for one, other in zip(*found, strict=True):
        assert torch.equal(one, other)


@pytest.mark.slow
def test_a_folder_of_the_image_to_video_pipeline_is_trained_and_sampled_from_a_picture(model, clips, tmp_path):
    folder, config, run = tmp_path / "ltx", tmp_path / "my.yaml", tmp_path / "run"
    shutil.copytree(model("LTXPipeline"), folder)
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps(index | {"_class_name": "LTXImageToVideoPipeline"}))
    flowgen("init", folder, "-o", config, "--frames", 9, *SIZE)
    small = ["train.steps=2", "train.batch_size=2", "data.held_out=0.34", "data.max_bad_share=0.1"]
    quiet = ["train.preview.every=0", "train.validation.every=0", "loggers=[jsonl]"]
    first = "known=[{type: prefix, probability: 0.5, low: 0.01, high: 0.02}]"
    flowgen("train", config, f"run={run}", f"data.manifest={clips}", *small, *quiet, first)
    picture = torch.randint(0, 256, (32, 32, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    Image.fromarray(picture.numpy()).save(tmp_path / "first.png")
    made = [tmp_path / "a.zip", tmp_path / "b.zip"]
    flowgen("sample", run, "--prompt", "a fox", "--steps", 2, "--first", tmp_path / "first.png", "-o", made[0])
    flowgen("sample", run, "--prompt", "a fox", "--steps", 2, "-o", made[1])
    given, free = (Video(fps=8).read(path).data for path in made)
    assert given.shape == free.shape == (9, 32, 32, 3)
    assert not torch.equal(given, free)


@pytest.mark.slow
def test_init_train_sample_of_sound(model, tmp_path):
    config, run, out = tmp_path / "my.yaml", tmp_path / "run", tmp_path / "out.wav"
    folder = model("StableAudioPipeline")
    flowgen("init", folder, "-o", config, "--seconds", 0.025)
    text = config.read_text()
    assert "At most 0.0348299 s" in text
    assert "solver: dpm++sde" in text
    g = torch.Generator().manual_seed(0)
    with (tmp_path / "clips.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["file", "caption"])
        for i in range(6):
            write_samples(0.2 * torch.randn(2, 2000, generator=g), 44100, tmp_path / f"{i}.wav", {})
            rows.writerow([f"{i}.wav", f"noise {i}"])
    small = ["train.steps=5", "train.batch_size=2", "data.held_out=0.34", "data.min_duration_s=0.01"]
    quiet = ["train.preview.every=0", "train.validation.every=0", "train.log_every=1", "loggers=[jsonl]"]
    flowgen("train", config, f"run={run}", f"data.manifest={tmp_path / 'clips.csv'}", *small, *quiet)
    (checkpoint,) = (run / "checkpoints").glob("step-*")
    trained = read_tensors(checkpoint / "network.safetensors")
    before = PretrainedModel(str(folder)).transformer().state_dict()
    assert {k.removeprefix("transformer.") for k in trained} == before.keys()
    far = max((trained[f"transformer.{k}"] - v).abs().max() for k, v in before.items())
    assert 0 < far < 1e-3
    flowgen("sample", run, "--prompt", "a red fox", "--steps", 2, "-o", out)
    assert Audio(44100, 2).read(out).data.shape == (2, round(0.025 * 44100))
    flowgen("init", folder, "-o", tmp_path / "whole.yaml")
    whole = yaml.safe_load((tmp_path / "whole.yaml").read_text())
    assert round(whole["modality"]["duration_s"] * 44100) == 24 * 64
    assert "seconds" not in whole["conditions"]["caption"]
    with pytest.raises(UsageError, match=r"--frames: .* makes sound: set --seconds"):
        flowgen("init", folder, "-o", tmp_path / "b.yaml", "--frames", 9)
    with pytest.raises(UsageError, match=r"--seconds: the model makes 0\.0348299 at most, got 1"):
        flowgen("init", folder, "-o", tmp_path / "b.yaml", "--seconds", 1)
    with pytest.raises(UsageError, match="makes videos: leave it out"):
        flowgen("init", model("LTXPipeline"), "-o", tmp_path / "b.yaml", "--seconds", 1)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["FluxPipeline", "StableDiffusion3Pipeline"])
def test_init_train_sample_of_pictures(kind, model, tmp_path):
    config, run, out = tmp_path / "my.yaml", tmp_path / "run", tmp_path / "out.zip"
    folder = model(kind)
    flowgen("init", folder, "-o", config, "--height", 32, "--width", 48)
    text = config.read_text()
    assert "A picture is a clip of one frame. Height and width: multiples of 8." in text
    assert ("guidance: 3.5" in text) == (kind == "FluxPipeline")
    g = torch.Generator().manual_seed(0)
    with (tmp_path / "pictures.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["file", "caption"])
        for i in range(6):
            picture = torch.randint(0, 256, (32, 48, 3), generator=g, dtype=torch.uint8)
            Image.fromarray(picture.numpy()).save(tmp_path / f"{i}.png")
            rows.writerow([f"{i}.png", f"noise {i}"])
    small = ["train.steps=5", "train.batch_size=2", "data.held_out=0.34"]
    quiet = ["train.preview.every=0", "train.validation.every=0", "train.log_every=1", "loggers=[jsonl]"]
    flowgen("train", config, f"run={run}", f"data.manifest={tmp_path / 'pictures.csv'}", *small, *quiet)
    flowgen("sample", run, "--prompt", "a red fox", "--steps", 2, "-o", out)
    assert Video(fps=1, height=32, width=48).read(out).data.shape == (1, 32, 48, 3)
    with pytest.raises(UsageError, match=r"--frames: .* makes pictures: leave it out"):
        flowgen("init", folder, "-o", tmp_path / "b.yaml", "--frames", 9)


def test_init_says_what_the_model_takes(model, tmp_path):
    folder = model("LTXPipeline")
    with pytest.raises(UsageError, match="--height: the model takes multiples of 32, got 40; nearest: 32"):
        flowgen("init", folder, "-o", tmp_path / "a.yaml", "--height", 40)
    with pytest.raises(UsageError, match="1 \\+ k x 2 frames"):
        flowgen("init", folder, "-o", tmp_path / "a.yaml", "--frames", 4)
    (tmp_path / "b.yaml").touch()
    with pytest.raises(UsageError, match="exists"):
        flowgen("init", folder, "-o", tmp_path / "b.yaml")


def test_cogvideox_takes_an_even_number_of_latent_steps_after_the_first(model, tmp_path):
    folder = tmp_path / "cogvideox"
    shutil.copytree(model("CogVideoXPipeline"), folder)
    size = ("--height", 32, "--width", 32)
    with pytest.raises(UsageError, match="--frames: the model takes 1 \\+ k x 8, got 13; nearest: 17"):
        flowgen("init", folder, "-o", tmp_path / "a.yaml", "--frames", 13, *size)
    flowgen("init", folder, "-o", tmp_path / "a.yaml", "--frames", 9, *size)
    config = load(str(tmp_path / "a.yaml"), ["data.manifest=none.csv", "modality.frames=13"]).config
    with pytest.raises((UsageError, ValueError), match="1 more than a multiple of 2"):
        Experiment(config).network  # noqa: B018
    config = json.loads((folder / "transformer" / "config.json").read_text())
    (folder / "transformer" / "config.json").write_text(json.dumps({**config, "patch_size_t": 2}))
    with pytest.raises(ValueError, match=r"CogVideoX 1\.5"):
        PretrainedModel(str(folder)).transformer()


def test_other_folders_are_refused_in_one_sentence(model, tmp_path):
    with pytest.raises(UsageError, match="there is no model"):
        flowgen("init", tmp_path / "none", "-o", tmp_path / "a.yaml")
    with pytest.raises(FlowgenError, match="model_index"):
        flowgen("init", tmp_path, "-o", tmp_path / "a.yaml")
    (tmp_path / "model_index.json").write_text('{"_class_name": "StableDiffusionPipeline"}')
    with pytest.raises(UsageError, match="of no family known here"):
        flowgen("init", tmp_path, "-o", tmp_path / "a.yaml")


def test_weights_are_loaded_strictly(model, tmp_path):
    from safetensors.torch import load_file, save_file

    folder = tmp_path / "ltx"
    shutil.copytree(model("LTXPipeline"), folder)
    (weights,) = (folder / "transformer").glob("*.safetensors")
    tensors = load_file(weights)
    tensors.pop("proj_out.bias")
    save_file(tensors, weights)
    with pytest.raises(FlowgenError, match=r"missing: proj_out\.bias"):
        PretrainedModel(str(folder)).transformer()


def config_of(model, **changed):
    folder = str(model("LTXPipeline"))
    return {
        "name": "x",
        "modality": {"type": "video", "fps": 8, "frames": 5, "height": 32, "width": 32},
        "data": {"type": "video-manifest", "manifest": "none.csv"},
        "encoder": {"type": "video-autoencoder", "model": f"{folder}/vae"},
        "network": {"type": "diffusers", "model": folder},
        "conditions": {"caption": {"type": "diffusers-text", "model": folder}},
        "train": {"steps": 1},
        **changed,
    }


def network_of(values):
    return Experiment(Config.model_validate(values)).network


def test_what_does_not_belong_together_is_refused(model):
    wan = str(model("WanPipeline"))
    with pytest.raises(UsageError, match="one condition, of type diffusers-text; given: caption"):
        network_of(config_of(model, conditions={"caption": {"type": "text"}}))
    with pytest.raises(UsageError, match="given: none"):
        network_of(config_of(model, conditions={}))
    with pytest.raises(UsageError, match="embeds prompts for"):
        network_of(config_of(model, conditions={"caption": {"type": "diffusers-text", "model": wan}}))
    with pytest.raises(UsageError, match="takes latents of 8 channels, and the encoder gives 4"):
        network_of(config_of(model, encoder={"type": "video-autoencoder", "model": f"{wan}/vae"}))


def test_wan_with_two_transformers_is_refused(model, tmp_path):
    folder = tmp_path / "wan"
    shutil.copytree(model("WanPipeline"), folder)
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps({**index, "boundary_ratio": 0.9}))
    with pytest.raises(ValueError, match="two transformers"):
        PretrainedModel(str(folder)).transformer()


def test_prompts_too_long_are_refused_or_cut(model):
    folder = str(model("LTXPipeline"))
    with pytest.raises(UsageError, match="longer than max_tokens=8"):
        PromptCondition(folder, max_tokens=8).encode("a red fox in the snow")
    cut = PromptCondition(folder, max_tokens=8, truncate=True).encode("a red fox in the snow")
    assert cut["states"].shape[0] == 8
    assert not PromptCondition(folder).encode("fox")["mask"].all()
    condition = PromptCondition(folder)
    identity = condition.resolve()["identity"]
    PromptCondition(folder, identity=identity).encode("fox")
    with pytest.raises(FlowgenError, match="not the one this run was trained with"):
        PromptCondition(folder, identity="0" * 16).encode("fox")


def test_blocks_and_patches_are_declared(model):
    network = network_of(config_of(model))
    assert network.repeated_blocks == ("transformer.transformer_blocks",)
    assert network.patch == (1, 1, 1)
    with pytest.raises(ValueError, match="clips of one length"):
        network(torch.zeros(1, 3, 4, 4, 8), torch.zeros(1), {"mask": torch.tensor([[True, True, False]])})


def test_every_pipeline_of_a_family_is_one_of_diffusers():
    import diffusers

    assert families().keys() >= {*SHIFTS, "StableAudioPipeline", "FluxPipeline", "StableDiffusion3Pipeline"}
    assert all(hasattr(diffusers, name) for name in families())

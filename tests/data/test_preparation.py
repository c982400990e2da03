"""Tables made from recordings: segments, measures, captions; what is written is what training reads."""

import csv
import json
import shlex
import subprocess

import numpy as np
import pytest
import soundfile
import torch
import torchaudio
from flowgen_video.modality import Video

from flowgen.config import load
from flowgen.runs.experiment import Experiment

RATE = 8000


def ffmpeg(*options):
    subprocess.run(["ffmpeg", "-v", "error", "-y", *map(str, options)], check=True)


def rows_of(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def dataset_of(said, recipe, *overrides):
    """The data set that the last line of a command says how to train on."""
    line = next(line for line in said.splitlines() if line.startswith("train on it with: "))
    return Experiment(
        load(recipe, [*shlex.split(line.partition(": ")[2]), "data.held_out=0", *overrides]).config
    ).dataset


@pytest.fixture(scope="module")
def films(tmp_path_factory):
    """Scenes of 2, 1.5 and 3 s, the last one a still; and the same smaller and in another format."""
    folder = tmp_path_factory.mktemp("films")
    scenes = ("testsrc=s=96x64:r=12:d=2", "testsrc2=s=96x64:r=12:d=1.5", "smptebars=s=96x64:r=12:d=3")
    inputs = [option for scene in scenes for option in ("-f", "lavfi", "-i", scene)]
    ffmpeg(*inputs, "-filter_complex", "concat=n=3:v=1", "-pix_fmt", "yuv420p", folder / "a.mp4")
    ffmpeg("-i", folder / "a.mp4", "-vf", "scale=48:32", "-crf", 30, folder / "b.mkv")
    return folder


@pytest.fixture(scope="module")
def tapes(tmp_path_factory):
    """Sounds of 1.0, 0.6 and 4.0 s with silences of 0.5 s, one quiet; a copy in another format; and a file that is silent."""
    folder = tmp_path_factory.mktemp("tapes")
    t = np.arange(4 * RATE) / RATE
    rng = np.random.default_rng(0)
    pause = 1e-4 * rng.standard_normal(RATE // 2)
    sounds = [np.sin(2 * np.pi * (300 + 200 * i) * t) * np.exp(-t) for i in range(3)]
    wave = np.concatenate([pause, 0.5 * sounds[0][:RATE], pause, 0.5 * sounds[1][:4800], pause, 0.5 * sounds[2], pause])
    soundfile.write(folder / "a.wav", wave, RATE)
    soundfile.write(folder / "quiet.wav", 0.01 * rng.standard_normal(RATE), RATE)
    soundfile.write(folder / "silent.wav", np.zeros(RATE), RATE)
    ffmpeg("-i", folder / "a.wav", "-ar", 16000, "-b:a", "64k", folder / "b.mp3")
    return folder


def test_videos_are_cut_at_scenes(films, tmp_path, flowgen):
    code, said = flowgen(
        "data", "split", "video/folder", f"data.folder={films}", "-o", tmp_path / "s.csv", "--longest", 2
    )
    assert code == 0, said
    found = {(row["file"], float(row["start"]), float(row["duration"])) for row in rows_of(tmp_path / "s.csv")}
    assert found == {(f, *s) for f in ("a.mp4", "b.mkv") for s in ((0, 2), (2, 1.5), (3.5, 1.5), (5, 1.5))}
    data = dataset_of(said, "video/folder", "modality.fps=12", "modality.frames=18", "data.stride=0")
    assert len(data) == 8
    still = data.clip(2, 0).data.float()
    assert still.std(0).max() < 3  # nothing of another scene


def test_sounds_are_cut_at_silences(tapes, tmp_path, flowgen):
    code, said = flowgen("data", "split", "audio/folder", f"data.folder={tapes}", "-o", tmp_path / "s.csv")
    assert code == 0, said
    assert "silent.wav (silent: no sample above -60 dB)" in said
    rows = [row for row in rows_of(tmp_path / "s.csv") if row["file"] == "a.wav"]
    assert [float(row["start"]) for row in rows] == pytest.approx([0.48, 1.98, 3.08], abs=0.02)
    # -40 dB under 0.5 exp(-t) is where the last one ends, at 3.9 s
    assert [float(row["duration"]) for row in rows] == pytest.approx([1.04, 0.64, 3.95], abs=0.04)
    assert len(dataset_of(said, "audio/folder")) == 7
    code, said = flowgen(
        *("data", "split", "audio/folder", f"data.folder={tapes}", "-o", tmp_path / "s.csv"),
        *("--shortest", 0.9, "--longest", 2),
    )
    rows = [row for row in rows_of(tmp_path / "s.csv") if row["file"] == "a.wav"]
    assert len(rows) == 3  # one, and two halves of the long one
    assert float(rows[1]["start"]) + float(rows[1]["duration"]) == pytest.approx(float(rows[2]["start"]), abs=1e-3)
    assert "2 segments (shorter than 0.9 s)" in said


def test_a_table_is_filtered_by_measures_and_copies(films, tapes, tmp_path, flowgen):
    where = ("video/folder", f"data.folder={films}")
    flowgen("data", "split", *where, "-o", tmp_path / "s.csv")
    segments = ("data.type=video-manifest", f"data.manifest={tmp_path}/s.csv", f"data.folder={films}")
    segments += ("data.start=start", "data.duration=duration", "modality.frames=8")
    out = tmp_path / "m.csv"
    code, said = flowgen(
        "data", "filter", "video/folder", *segments, "-o", out, "--keep", "motion > 0.1", "--no-copies"
    )
    assert code == 0, said
    assert "motion > 0.1: 4 of 6 kept" in said
    assert [(row["file"], float(row["start"])) for row in rows_of(out)] == [("a.mp4", 0), ("a.mp4", 2)]
    code, said = flowgen("data", "filter", "audio/folder", f"data.folder={tapes}", "-o", out)
    assert code == 0, said
    rows = {row["file"]: row for row in rows_of(out)}
    assert rows["b.mp3"]["copy_of"] == "a.wav"
    assert rows["quiet.wav"]["copy_of"] == rows["a.wav"]["copy_of"] == ""
    assert float(rows["a.wav"]["peak"]) == pytest.approx(-6, abs=0.2)
    assert float(rows["quiet.wav"]["loudness"]) == pytest.approx(-38, abs=1)  # white noise of -40 dB
    assert float(rows["a.wav"]["silent"]) == pytest.approx(2.0 / 7.6, abs=0.02)
    code, said = flowgen("data", "filter", *where, "-o", out, "--keep", "motoin > 1")
    assert code == 2
    assert "columns: brightness, motion, seconds, sharpness" in said


def test_work_that_is_stopped_goes_on(tapes, tmp_path, flowgen, monkeypatch):
    from flowgen_audio.modality import Audio

    measure, seen = Audio.measure, []

    def stopping(self, path, start_s, duration_s):
        if len(seen) == 1:
            raise KeyboardInterrupt
        seen.append(path.name)
        return measure(self, path, start_s, duration_s)

    command = (
        "data",
        "filter",
        "audio/folder",
        f"data.folder={tapes}",
        "-o",
        tmp_path / "m.csv",
        "modality.duration_s=3",
    )
    monkeypatch.setattr("flowgen.data.facts.cores", lambda: 1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Audio, "measure", stopping)
        assert flowgen(*command)[0] == 1
    monkeypatch.setattr(Audio, "measure", lambda *given: seen.append(given[1].name) or measure(*given))
    assert flowgen(*command)[0] == 0
    assert sorted(seen) == ["a.wav", "b.mp3", "quiet.wav"]


def test_what_changes_nothing_is_refused(films, tapes, tmp_path, flowgen):
    out = tmp_path / "t.csv"
    code, said = flowgen("data", "split", "video/folder", f"data.folder={films}", "-o", out, "--pause", 1)
    assert code == 2
    assert "--pause changes nothing for this medium, which takes --scene" in said
    code, said = flowgen("data", "split", "audio/notes", "-o", out)
    assert code == 2
    assert "folder or a table of recordings" in said
    code, said = flowgen("data", "filter", "audio/folder", f"data.folder={tapes}", "-o", tmp_path / "t.xls")
    assert code == 2
    code, said = flowgen(
        "data", "filter", "audio/folder", f"data.folder={tapes}", "-o", out, "--keep", "loudness > 100"
    )
    assert code == 1
    assert "no recording is left" in said


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A captioner of pictures and a recogniser of speech with random weights, as transformers saves them."""
    transformers = pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("models")
    torch.manual_seed(0)
    size = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[DEC]", "[ENC]", *(f"w{i}" for i in range(57))]
    (folder / "vocab.txt").write_text("\n".join(words))
    text = {"vocab_size": 64, "encoder_hidden_size": 16, "bos_token_id": 2, "sep_token_id": 3, "pad_token_id": 0}
    config = transformers.BlipConfig(
        text_config={**text, **size, "initializer_range": 1.0},
        vision_config={"image_size": 32, "patch_size": 8, "initializer_range": 1.0, **size},
    )
    transformers.BlipForConditionalGeneration(config).save_pretrained(folder / "blip")
    transformers.BlipProcessor(
        transformers.BlipImageProcessor(size={"height": 32, "width": 32}),
        transformers.BertTokenizer(vocab=str(folder / "vocab.txt")),
    ).save_pretrained(folder / "blip")
    letters = ["<pad>", "<s>", "</s>", "<unk>", "|", *(chr(97 + i) for i in range(26))]
    (folder / "vocab.json").write_text(json.dumps({letter: i for i, letter in enumerate(letters)}))
    convolutions = {
        "conv_dim": (16, 16),
        "conv_stride": (10, 32),
        "conv_kernel": (10, 32),
        "num_feat_extract_layers": 2,
    }
    config = transformers.Wav2Vec2Config(
        vocab_size=31, num_conv_pos_embeddings=16, num_conv_pos_embedding_groups=2, **convolutions, **size
    )
    transformers.Wav2Vec2ForCTC(config).save_pretrained(folder / "ctc")
    transformers.Wav2Vec2Processor(
        transformers.Wav2Vec2FeatureExtractor(), transformers.Wav2Vec2CTCTokenizer(str(folder / "vocab.json"))
    ).save_pretrained(folder / "ctc")
    return folder


@pytest.mark.slow
def test_videos_are_captioned_by_what_is_seen(films, models, tmp_path, flowgen):
    import transformers

    command = ("data", "caption", "video/folder", f"data.folder={films}", "--model", models / "blip", "--max-tokens", 6)
    code, said = flowgen(*command, "--frames", 3, "-o", tmp_path / "c.csv")
    assert code == 0, said
    captions = {row["file"]: row["caption"] for row in rows_of(tmp_path / "c.csv")}
    model = transformers.BlipForConditionalGeneration.from_pretrained(models / "blip").eval()
    processor = transformers.AutoProcessor.from_pretrained(models / "blip")
    shown = Video(8, 26, 64, 96).shown(films / "a.mp4", 0.0, None, 3)
    expected = [
        processor.decode(
            model.generate(**processor(images=p, return_tensors="pt"), max_new_tokens=6, do_sample=False)[0],
            skip_special_tokens=True,
        )
        for p in shown
    ]
    assert captions["a.mp4"] == expected[1]  # the middle one
    assert len(set(expected)) > 1
    data = dataset_of(said, "video/folder")
    assert data.conditions["caption"]["type"] == "text"
    assert data.clip(0, 0).conditions["caption"] == captions["a.mp4"]


@pytest.mark.slow
def test_sounds_are_captioned_by_what_is_spoken(tapes, models, tmp_path, flowgen):
    import transformers

    command = ("data", "caption", "audio/folder", f"data.folder={tapes}", "--model", models / "ctc")
    code, said = flowgen(*command, "--column", "words", "-o", tmp_path / "c.jsonl")
    assert code == 0, said
    rows = {row["file"]: row["words"] for row in map(json.loads, (tmp_path / "c.jsonl").read_text().splitlines())}
    samples, rate = soundfile.read(tapes / "quiet.wav")
    wave = torchaudio.functional.resample(torch.tensor(samples, dtype=torch.float32), rate, 16000)
    processor = transformers.AutoProcessor.from_pretrained(models / "ctc")
    model = transformers.Wav2Vec2ForCTC.from_pretrained(models / "ctc").eval()
    logits = model(**processor(wave.numpy(), sampling_rate=16000, return_tensors="pt")).logits
    assert rows["quiet.wav"] == processor.batch_decode(logits.argmax(-1))[0]
    assert len(rows["quiet.wav"]) > 10
    assert dataset_of(said, "audio/folder").clip(1, 0).conditions["words"] in rows.values()
    code, said = flowgen(*command, "--prompt", "What?", "-o", tmp_path / "c.jsonl")
    assert code == 2
    assert "--prompt changes nothing for sounds" in said
    code, said = flowgen(*command[:-1], tapes, "-o", tmp_path / "c.jsonl")
    assert code == 1
    assert "no weights" in said

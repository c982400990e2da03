"""A recording as a condition: the data sets that give it, and the network that hears it."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from click.testing import CliRunner
from flowgen_audio.folder import AudioFolder
from flowgen_audio.manifest import AudioManifest
from flowgen_audio.modality import Audio
from flowgen_audio.reference import Excerpt, ReferenceCondition

from flowgen.cli import cli
from flowgen.errors import FlowgenError, UsageError
from flowgen.media.conditions import encode_conditions, null_conditions
from flowgen.nn import ConditionEmbedding

RATE = 8000
CONDITION = ReferenceCondition(RATE, seconds=0.5)


def tone(path: Path, hz: float, seconds: float = 0.4, level: float = 0.5, rate: int = RATE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    t = np.arange(round(seconds * rate)) / rate
    soundfile.write(path, level * np.sin(2 * np.pi * hz * t), rate)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for who, hz in (("low", 200), ("high", 900)):
        for take in range(6):
            tone(tmp_path / "sounds" / f"{who}_{take}.wav", hz + 10 * take)
    return tmp_path / "sounds"


def data_set(folder: Path, **options: object) -> AudioFolder:
    options = {"pattern": r"(?P<who>\w+)_(?P<take>\d)", "columns": {}, "reference_by": "who"} | options
    return AudioFolder(Audio(RATE, 1, 0.5), str(folder), held_out={"take": ("0", "1")}, **options)  # type: ignore[arg-type]


def test_each_clip_has_another_recording_of_its_kind_and_part(folder: Path) -> None:
    data = data_set(folder)
    for part, takes in ((data, set("2345")), (data.validation(), set("01"))):
        for index in range(len(part)):
            clips = [part.clip(index, seed) for seed in range(40)]
            who = Path(clips[0].source).stem.split("_")[0]
            found = {Path(str(clip.conditions["reference"])).stem for clip in clips}
            assert {name.split("_")[0] for name in found} == {who}
            assert {name.split("_")[1] for name in found} == takes - {clips[0].source[-5]}
    again = data.clip(0, 3)
    assert str(again.conditions["reference"]) == str(data.clip(0, 3).conditions["reference"])
    assert data.conditions["reference"] == {"type": "audio-reference", "sample_rate": RATE, "seconds": 0.5}


def test_one_of_a_kind_has_no_reference(folder: Path) -> None:
    tone(folder / "alone_2.wav", 400)
    data = data_set(folder)
    (index,) = (i for i in range(len(data)) if "alone" in data.clip(i, 0).source)
    assert data.clip(index, 0).conditions["reference"] is None


def test_a_manifest_names_files_to_sound_like(folder: Path, tmp_path: Path) -> None:
    rows = [{"file": f"sounds/low_{i}.wav", "like": f"sounds/low_{5 - i}.wav"} for i in range(6)]

    def written(rows: list[dict[str, str]]) -> AudioManifest:
        with (tmp_path / "list.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, ["file", "like"])
            writer.writeheader()
            writer.writerows(rows)
        return AudioManifest(Audio(RATE), str(tmp_path / "list.csv"), columns={"like": "recording"}, held_out=0)

    data = written(rows)
    assert {str(data.clip(i, 0).conditions["like"]) for i in range(6)} == {str(p) for p in folder.glob("low_*.wav")}
    rows[2]["like"] = "sounds/nobody.wav"
    with pytest.raises(FlowgenError, match=r"there is no file .*nobody\.wav, its 'like'"):
        written(rows)
    with pytest.raises(UsageError, match="only a column of an audio-manifest"):
        data_set(folder, columns={"who": "recording"})
    with pytest.raises(UsageError, match=r"data\.reference_by"):
        data_set(folder, reference_by="whom")


def test_what_is_heard_depends_on_neither_level_nor_rate_nor_padding(tmp_path: Path) -> None:
    loud, soft = (CONDITION.encode(tone(tmp_path / f"{level}.wav", 440, level=level)) for level in (0.8, 0.1))
    assert (loud["frames"] - soft["frames"]).abs().max() < 2e-2
    fast = CONDITION.encode(tone(tmp_path / "fast.wav", 440, rate=32000))
    real = loud["mask"]
    assert real.sum() == 41
    assert not loud["frames"][~real].any()
    assert (loud["frames"] - fast["frames"])[2:39].abs().mean() < 0.05
    excerpt = Excerpt(tmp_path / "0.8.wav", 0.1, 0.2)
    assert CONDITION.encode(excerpt)["mask"].sum() == 21
    with pytest.raises(UsageError, match=r"expected a sound file to sound like: .*none\.wav: there is no such file"):
        CONDITION.encode("none.wav")


def test_the_vector_hears_the_reference_and_not_what_lies_beyond_its_end(tmp_path: Path) -> None:
    paths = [tone(tmp_path / "a.wav", 300), tone(tmp_path / "b.wav", 1200)]
    conditioners = {"reference": CONDITION}
    embed = ConditionEmbedding(conditioners, 16)
    cond = encode_conditions(conditioners, [{"reference": p} for p in paths] + [{}])
    vectors = embed(cond).vector
    assert vectors is not None
    assert (vectors[0] - vectors[1]).norm() > 1e-2
    assert torch.equal(vectors[2], embed.embedders["reference"].none)
    assert torch.equal(embed(null_conditions(conditioners, 2)).vector[0], vectors[2])  # type: ignore[index]

    longer = {"reference": {k: torch.cat([v, torch.zeros_like(v)], 1) for k, v in cond["reference"].items()}}
    longer["reference"]["frames"][:, 60:] = 7.0  # padding may hold anything
    assert torch.allclose(embed(longer).vector, vectors, atol=1e-5)  # type: ignore[arg-type]
    vectors.sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in embed.parameters())


def test_a_run_learns_with_it_and_samples_like_a_file(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "like.yaml").write_text(f"""
name: like
modality: {{type: audio, sample_rate: {RATE}, duration_s: 0.5}}
data: {{type: audio-folder, folder: {folder}, pattern: '(?P<who>\\w+)_(?P<take>\\d)', columns: {{}},
  held_out: {{take: ['0']}}, reference_by: who, pad: true}}
encoder: {{type: spectrogram, window: 256, hop: 128, iterations: 2}}
network: {{type: transformer, width: 32, depth: 1, heads: 2}}
train: {{steps: 20, batch_size: 4, optimizer: {{lr: 1e-2}}, schedule: {{warmup: 0}}, validation: {{every: 20}}, preview: {{every: 0}}}}
sample: {{steps: 2, guidance: cfg}}
""")

    def flowgen(*args: object) -> None:
        result = CliRunner().invoke(cli, [str(a) for a in args], catch_exceptions=False)
        assert result.exit_code == 0, result.output

    flowgen("train", tmp_path / "like.yaml", f"run={tmp_path / 'run'}", "--quiet")
    with pytest.raises(UsageError, match="nothing is held out"):
        flowgen("train", tmp_path / "like.yaml", f"run={tmp_path / 'none'}", "data.held_out=0")
    made = []
    for name in ("low_0", "high_0"):
        flowgen("sample", tmp_path / "run", "-c", f"reference={folder / name}.wav", "-o", tmp_path / f"{name}.wav")
        made.append(soundfile.read(tmp_path / f"{name}.wav")[0])
    assert len(made[0]) == RATE // 2
    assert np.abs(made[0] - made[1]).max() > 1e-4


def test_what_is_held_out_does_not_depend_on_where_the_data_lies(tmp_path: Path) -> None:
    found = []
    for place in ("here", "elsewhere/deep"):
        rows = [tone(tmp_path / place / "sounds" / f"{i}.wav", 200 + 10 * i) for i in range(30)]
        manifest = tmp_path / place / "list.csv"
        manifest.write_text("file\n" + "\n".join(f"sounds/{path.name}" for path in rows) + "\n")
        audio = Audio(RATE)
        parts = [
            AudioManifest(audio, str(manifest), held_out=0.3),
            AudioFolder(audio, str(manifest.parent / "sounds"), pattern=r"(?P<take>\d+)", held_out=0.3),
        ]
        found.append(
            [{Path(part.validation().clip(i, 0).source).name for i in range(len(part.validation()))} for part in parts]
        )
    assert found[0] == found[1]
    assert 0 < len(found[0][0]) < 20

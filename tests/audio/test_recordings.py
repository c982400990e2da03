"""Data sets of recordings: labels, splits, bad files, lengths, loudness."""

from __future__ import annotations

import csv
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from flowgen_audio import survey
from flowgen_audio.folder import AudioFolder
from flowgen_audio.loudness import loudness
from flowgen_audio.manifest import AudioManifest
from flowgen_audio.modality import Audio

from flowgen.errors import BadData, FlowgenError, UsageError

PATTERN = r"(?P<digit>\d)_(?P<speaker>\w+)_(?P<take>\d+)"


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


def tone(seconds: float, hz: float = 300.0, level: float = 0.5, rate: int = 8000) -> np.ndarray:
    return level * np.sin(2 * np.pi * hz * np.arange(round(seconds * rate)) / rate)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """40 tones of 0.2 to 0.59 s: digits 0 and 1, speakers ann and bob, takes 0 to 9."""
    folder = tmp_path / "tones"
    folder.mkdir()
    for i in range(40):
        name = f"{i % 2}_{('ann', 'bob')[i // 2 % 2]}_{i // 4}.wav"
        soundfile.write(folder / name, tone(0.2 + i / 100, 200 + 10 * i, 0.1 + i / 100), 8000)
    return folder


@pytest.fixture
def audio() -> Audio:
    return Audio(8000, 1, 0.5)


def test_labels_come_from_the_pattern(folder: Path, audio: Audio) -> None:
    data = AudioFolder(audio, str(folder), PATTERN)
    assert data.conditions["digit"] == {"type": "class", "names": ("0", "1")}
    assert data.conditions["speaker"]["names"] == ("ann", "bob")
    for i in range(len(data)):
        clip = data.clip(i, 0)
        digit, speaker, take = Path(clip.source).stem.split("_")
        assert clip.conditions == {"digit": digit, "speaker": speaker, "take": take}


def test_labels_come_from_folders(folder: Path, audio: Audio) -> None:
    for path in sorted(folder.iterdir()):
        target = folder / "by" / path.name.split("_")[1] / path.name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(path, target)
    data = AudioFolder(audio, str(folder / "by"))
    assert data.conditions == {"label": {"type": "class", "names": ("ann", "bob")}}
    assert all(data.clip(i, 0).conditions["label"] in data.clip(i, 0).source for i in range(len(data)))
    shutil.copy(path.parent / "by" / "ann" / "0_ann_0.wav", folder / "by" / "stray.wav")
    with pytest.raises(UsageError, match=r"stray\.wav"):
        AudioFolder(audio, str(folder / "by"))


def test_the_split_goes_by_values_or_by_a_stable_share(folder: Path, audio: Audio) -> None:
    data = AudioFolder(audio, str(folder), PATTERN, held_out={"take": ("0", "1")})
    held = data.validation()
    takes = [{p.clip(i, 0).conditions["take"] for i in range(len(p))} for p in (data, held)]
    assert takes == [{str(i) for i in range(2, 10)}, {"0", "1"}]
    assert held.conditions == data.conditions
    shared = AudioFolder(audio, str(folder), PATTERN, held_out=0.3)
    names = {shared.validation().clip(i, 0).source for i in range(len(shared.validation()))}
    assert 4 <= len(names) <= 20
    soundfile.write(folder / "0_cid_0.wav", tone(0.3), 8000)
    more = AudioFolder(audio, str(folder), PATTERN, held_out=0.3).validation()
    assert names - {more.clip(i, 0).source for i in range(len(more))} == set()
    with pytest.raises(UsageError, match="no item with 99"):
        AudioFolder(audio, str(folder), PATTERN, held_out={"take": ("99",)})
    with pytest.raises(UsageError, match="did you mean 'take'"):
        AudioFolder(audio, str(folder), PATTERN, held_out={"tak": ("0",)})


def test_clips_have_their_true_length_up_to_the_longest(folder: Path, audio: Audio) -> None:
    data = AudioFolder(audio, str(folder), PATTERN, held_out=0.0)
    for i in range(len(data)):
        clip = data.clip(i, 3)
        true = soundfile.info(clip.source).frames
        assert clip.data.shape == (1, min(true, 4000))
        if true <= 4000:
            assert np.allclose(clip.data[0].numpy(), soundfile.read(clip.source)[0], atol=1e-6)
    assert data.describe()["cropped"] == 9


def test_what_is_longer_is_cut_at_a_place_that_the_seed_chooses(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "ramp.wav", np.linspace(-0.9, 0.9, 8000), 8000, subtype="FLOAT")
    data = AudioFolder(Audio(8000, 1, 0.25), str(tmp_path), held_out=0.0)
    starts = [float(data.clip(0, seed).data[0, 0]) for seed in range(20)]
    assert data.clip(0, 7).data.equal(data.clip(0, 7).data)
    assert len(set(starts)) > 10
    assert -0.9 <= min(starts) < -0.5
    assert 0.2 < max(starts) <= 0.9 - 1.8 * 0.25 + 1e-3


def test_padding_and_duration_are_options(folder: Path, audio: Audio) -> None:
    data = AudioFolder(audio, str(folder), PATTERN, pad=True, duration_condition=True)
    clips = [data.clip(i, 0) for i in range(len(data))]
    assert {c.data.shape for c in clips} == {(1, 4000)}
    duration = data.conditions["duration"]
    assert (duration["low"], duration["high"], duration["log"]) == (0.2, 0.5, True)
    assert not duration["seconds"]  # the length of the sound, not of the clip
    assert AudioFolder(audio, str(folder), PATTERN, duration_condition=True).conditions["duration"]["seconds"]
    for clip in clips:
        n = round(clip.conditions["duration"] * 8000)
        assert n == min(soundfile.info(clip.source).frames, 4000)
        assert torch.all(clip.data[:, n:] == 0)


def test_loudness_is_what_was_asked_unless_peaks_forbid(folder: Path, audio: Audio) -> None:
    data = AudioFolder(audio, str(folder), PATTERN, loudness=-23.0)
    raw = AudioFolder(audio, str(folder), PATTERN)
    for i in range(0, len(data), 5):
        assert loudness(data.clip(i, 0).data, 8000) == pytest.approx(-23, abs=0.3)
        assert abs(loudness(raw.clip(i, 0).data, 8000) + 23) > 0.3 or i
    loud = AudioFolder(audio, str(folder), PATTERN, loudness=0.0)
    assert max(float(loud.clip(i, 0).data.abs().max()) for i in range(len(loud))) <= 1.0


def test_loudness_of_a_full_scale_sine_is_that_of_the_standard() -> None:
    """BS.1770-4, annex 1: a 0 dB FS 997 Hz sine in one channel is -3.01 LUFS."""
    wave = torch.sin(2 * torch.pi * 997 * torch.arange(3 * 48000) / 48000)[None]
    assert loudness(wave, 48000) == pytest.approx(-3.01, abs=0.3)  # torchaudio approximates the weighting filter
    assert loudness(wave[:, :9600], 48000) == pytest.approx(-3.01, abs=0.3)  # 0.2 s
    assert loudness(torch.zeros(1, 48000), 48000) == -70


def test_buckets_of_length_are_equally_filled_and_true(folder: Path, audio: Audio) -> None:
    data = AudioFolder(audio, str(folder), PATTERN, buckets=4)
    clips: dict[str, list[float]] = {}
    for i in range(len(data)):
        clips.setdefault(data.bucket_of(i), []).append(data.clip(i, 0).data.shape[1] / 8000)
    assert list(data.buckets) == sorted(clips, key=lambda name: max(clips[name]))
    assert len(clips) == 4
    assert max(len(c) for c in clips.values()) - min(len(c) for c in clips.values()) <= len(data) // 5
    for name, cost in data.buckets.items():
        assert cost * 0.5 == pytest.approx(max(clips[name]), abs=2e-3)
        assert name == f"up to {cost * 0.5:g} s"
    longest = [max(clips[name]) for name in data.buckets]
    assert all(min(clips[name]) > before for name, before in zip(list(data.buckets)[1:], longest, strict=False))
    assert not data.validation().buckets
    assert len(AudioFolder(audio, str(folder), PATTERN, buckets=30).buckets) < 30, "a third are cut to one length"
    with pytest.raises(UsageError, match=r"data\.buckets: expected 0 to"):
        AudioFolder(audio, str(folder), PATTERN, buckets=99)
    with pytest.raises(UsageError, match=r"data\.pad gives all the same"):
        AudioFolder(audio, str(folder), PATTERN, buckets=2, pad=True)


def test_the_report_says_what_becomes_of_each_recording(folder: Path, audio: Audio) -> None:
    kinds = spoil(folder)
    data = AudioFolder(audio, str(folder), PATTERN, max_bad_share=0.2, buckets=2, held_out={"take": ("1",)})
    rows = {Path(row["file"]).name: row for row in [*data.report(), *data.validation().report()]}
    assert rows.keys() == {path.name for path in folder.iterdir()}
    for name, kind in kinds.items():
        assert (rows[name]["status"], rows[name]["part"]) == ("left out", "")
        assert re.match(kind, rows[name]["why"])
    for name, row in rows.items():
        if name not in kinds:
            assert row["part"] == ("validation" if name.endswith("_1.wav") else "training")
            assert row["status"] == ("cropped" if row["seconds"] > 0.5 else "kept")
            assert ("bucket" in row) == (row["part"] == "training")
            assert (row["rate"], row["channels"]) == (8000, 1)
    padded = AudioFolder(audio, str(folder), PATTERN, max_bad_share=0.2, pad=True)
    assert {row["status"] for row in padded.report()} == {"padded", "kept", "cropped", "left out"}
    with pytest.raises(BadData) as caught:
        AudioFolder(audio, str(folder), PATTERN)
    assert len(caught.value.rows) == len(rows)


def spoil(folder: Path) -> dict[str, str]:
    """One bad file of each kind: name -> kind."""
    files = sorted(folder.iterdir())
    whole = files[20].read_bytes()
    bad = {
        "2_bad_0.wav": ("empty", b""),
        "2_bad_1.wav": ("corrupt", b"no sound" * 100),
        "2_bad_2.wav": ("truncated", whole[: len(whole) // 2]),
    }
    for name, (_, content) in bad.items():
        (folder / name).write_bytes(content)
    soundfile.write(folder / "2_bad_3.wav", np.zeros(4000), 8000)
    soundfile.write(folder / "2_bad_4.wav", tone(0.01), 8000)
    soundfile.write(folder / "long.flac", tone(3.0, 777) + 0.1 * np.random.default_rng(0).normal(size=24000), 8000)
    content = (folder / "long.flac").read_bytes()
    (folder / "long.flac").unlink()
    (folder / "2_bad_5.flac").write_bytes(content[: len(content) // 2])
    kinds = {name: kind for name, (kind, _) in bad.items()}
    return {**kinds, "2_bad_3.wav": "silent", "2_bad_4.wav": "too short", "2_bad_5.flac": "(corrupt|truncated)"}


def test_bad_files_are_named_counted_and_left_out(folder: Path, audio: Audio) -> None:
    kinds = spoil(folder)
    data = AudioFolder(audio, str(folder), PATTERN, max_bad_share=0.2)
    assert len(data) + len(data.validation()) == 40
    found = {item.path.name: use.why for item, use in data.left_out}
    assert found.keys() == kinds.keys()
    import re

    for name, kind in kinds.items():
        assert re.match(f"{kind}: ", found[name]), (name, found[name])
        assert name in data.describe()["left out"]
    for i in range(len(data)):
        data.clip(i, 0)


def test_too_many_bad_files_stop_with_the_report(folder: Path, audio: Audio) -> None:
    kinds = spoil(folder)
    with pytest.raises(FlowgenError, match="6 of 46 recordings cannot be used") as caught:
        AudioFolder(audio, str(folder), PATTERN)
    assert all(name in str(caught.value) for name in kinds)
    assert "max_bad_share=0.05" in str(caught.value)


def test_silence_and_length_limits_are_options(folder: Path, audio: Audio) -> None:
    quiet = AudioFolder(audio, str(folder), PATTERN, silence_db=-12.0, max_bad_share=1.0)
    assert {use.why.split(":")[0] for _, use in quiet.left_out} == {"silent"}
    short = AudioFolder(audio, str(folder), PATTERN, min_duration_s=0.4, max_bad_share=1.0)
    assert {use.why.split(":")[0] for _, use in short.left_out} == {"too short"}


@pytest.mark.parametrize("seconds", [0.9, 2.0, 2.5, 3.0])
def test_long_files_are_examined_part_by_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    monkeypatch.setattr(survey, "_PART_S", 1.0)
    wave = tone(seconds, level=0.1)
    wave[int(0.8 * len(wave))] = 0.7
    for suffix in (".wav", ".flac"):
        path = tmp_path / f"t{suffix}"
        soundfile.write(path, wave, 8000)
        facts = survey.examine(path, True)
        assert facts.problem == ""
        assert facts.duration_s == pytest.approx(seconds, abs=1e-3)
        assert facts.peak == pytest.approx(0.7, abs=1e-3)
        assert facts.loudness == pytest.approx(loudness(torch.from_numpy(wave)[None], 8000), abs=0.7)


def test_files_are_decoded_again_only_when_they_change(
    folder: Path, audio: Audio, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Path] = []
    examine = survey.examine
    monkeypatch.setattr(survey, "examine", lambda p, *given: (seen.append(p), examine(p, *given))[1])
    first = AudioFolder(audio, str(folder), PATTERN)
    assert len(seen) == 40
    second = AudioFolder(audio, str(folder), PATTERN)
    assert len(seen) == 40
    assert first.describe() == second.describe()
    changed = sorted(folder.iterdir())[3]
    soundfile.write(changed, tone(0.45), 8000)
    third = AudioFolder(audio, str(folder), PATTERN)
    assert seen[40:] == [changed]
    assert third.facts[changed]["duration_s"] == pytest.approx(0.45)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"folder": "absent"}, "is not a folder"),
        ({"pattern": "(?P<digit>"}, "no regular expression"),
        ({"pattern": r"(?P<digit>[01])_ann_\d+"}, "20 of 40 files do not match"),
        ({"pattern": PATTERN, "columns": {"digt": "class"}}, "did you mean 'digit'"),
        ({"pattern": PATTERN, "columns": {"speaker": "number"}}, "expected numbers in 'speaker', found 'ann'"),
        ({"held_out": 1.5}, "held_out"),
        ({"max_bad_share": 2.0}, "max_bad_share"),
    ],
)
def test_wrong_options_say_what_is_wrong(folder: Path, audio: Audio, options: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        AudioFolder(audio, **{"folder": str(folder), **options})


def test_a_folder_without_sound_is_refused(tmp_path: Path, audio: Audio) -> None:
    with pytest.raises(UsageError, match="no sound files"):
        AudioFolder(audio, str(tmp_path))


ROWS = [
    {"file": f"tones/{i % 2}_ann_{i // 4}.wav", "who": f"p{i % 2}", "level": i / 10, "text": f"tone {i}"}
    for i in range(0, 40, 4)
] + [{"file": "tones/1_bob_3.wav", "who": "p1", "level": 7.5, "text": "größer"}]


def write_table(path: Path) -> None:
    if path.suffix == ".jsonl":
        path.write_text("\n".join(json.dumps(row) for row in ROWS) + "\n")
    elif path.suffix == ".parquet":
        pyarrow = pytest.importorskip("pyarrow")
        parquet = pytest.importorskip("pyarrow.parquet")
        parquet.write_table(pyarrow.Table.from_pylist(ROWS), path)
    else:
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(ROWS[0]), delimiter="," if path.suffix == ".csv" else "\t")
            writer.writeheader()
            writer.writerows(ROWS)


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".tsv", ".parquet"])
def test_a_manifest_gives_any_columns(folder: Path, audio: Audio, suffix: str) -> None:
    path = folder.parent / f"list{suffix}"
    write_table(path)
    kinds = {"who": "class", "level": "number", "text": "text"}
    data = AudioManifest(audio, str(path), columns=kinds, held_out=0.0)
    assert data.conditions == {
        "who": {"type": "class", "names": ("p0", "p1")},
        "level": {"type": "number", "low": 0.0, "high": 7.5},
        "text": {"type": "text", "max_bytes": len("größer".encode())},
    }
    assert len(data) == len(ROWS)
    for i, row in enumerate(ROWS):
        clip = data.clip(i, 0)
        assert clip.source == str(folder.parent / row["file"])
        assert clip.conditions["who"] == row["who"]
        assert float(clip.conditions["level"]) == row["level"]
        assert clip.conditions["text"] == row["text"]
    held = AudioManifest(audio, str(path), columns={"who": "class"}, held_out={"who": ("p1",)})
    assert {held.validation().clip(i, 0).conditions["who"] for i in range(len(held.validation()))} == {"p1"}


def test_a_manifest_may_list_segments(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "long.wav", np.concatenate([tone(1, hz) for hz in (200, 400, 800)]), 8000)
    lines = [{"file": "long.wav", "from": i + 0.25, "len": 0.5, "hz": str(hz)} for i, hz in enumerate((200, 400, 800))]
    lines.append({"file": "long.wav", "from": 2.8, "len": 0.5, "hz": "0"})
    (tmp_path / "m.jsonl").write_text("\n".join(map(json.dumps, lines)))
    options = {"start": "from", "duration": "len", "held_out": 0.0, "max_bad_share": 0.3}
    data = AudioManifest(Audio(8000), str(tmp_path / "m.jsonl"), columns={"hz": "class"}, **options)
    assert len(data) == 3
    assert data.left_out[0][1].why.startswith("truncated: the segment ends 0.30 s after the file")
    for i in range(3):
        clip = data.clip(i, 0)
        assert clip.data.shape == (1, 4000)
        assert int(torch.fft.rfft(clip.data[0]).abs().argmax()) * 2 == int(clip.conditions["hz"])


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("m.jsonl", '{"file": "a.wav"}\nnonsense\n', r"m\.jsonl:2: not JSON"),
        ("m.jsonl", "[1]\n", "expected an object"),
        ("m.jsonl", '{"path": "a.wav"}\n', r"data\.file: unknown column"),
        ("m.jsonl", '{"file": "a.wav"}\n{"file": null}\n', "row 2 names no file"),
        ("m.csv", "file,who\na.wav\n", "another number of fields"),
        ("m.csv", "file,who\n", "has no rows"),
        ("m.xlsx", "x", "expected a name in"),
        ("m.csv", b"\xff\xfe\x00", "UTF-8"),
    ],
)
def test_a_bad_manifest_is_one_sentence(
    tmp_path: Path, audio: Audio, name: str, content: str | bytes, message: str
) -> None:
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(FlowgenError, match=message):
        AudioManifest(audio, str(tmp_path / name))


def test_files_that_a_manifest_names_but_are_absent_are_bad_files(folder: Path, audio: Audio) -> None:
    path = folder.parent / "m.csv"
    path.write_text("file\ntones/0_ann_0.wav\ntones/absent.wav\n")
    with pytest.raises(FlowgenError, match=r"absent\.wav .*no such file"):
        AudioManifest(audio, str(path))


FSDD = Path(__file__).parents[2].parent / "shared/data/fsdd"


@pytest.mark.skipif(not FSDD.is_dir(), reason="the spoken digits are not here")
def test_real_recordings() -> None:
    held_out = {"take": tuple("01234")}
    kinds = {"digit": "class", "speaker": "class"}
    data = AudioFolder(Audio(8000, 1, 1.0), str(FSDD), PATTERN, columns=kinds, held_out=held_out)
    assert (len(data), len(data.validation())) == (2700, 300)
    assert len(data.conditions["speaker"]["names"]) == 6
    assert data.left_out == []


def test_silence_around_a_recording_is_trimmed_on_request(tmp_path: Path, audio: Audio) -> None:
    quiet = 1e-4 * np.ones(8000)
    for i in range(3):  # 0.5 s, sound with a pause of 0.1 s in it, 1 s
        wave = np.concatenate([quiet[:4000], tone(0.1), quiet[:800], tone(0.1), quiet])
        soundfile.write(tmp_path / f"{i}.wav", wave, 8000)
    (tmp_path / "t.csv").write_text("file,from,len\n0.wav,0,0.55\n1.wav,0.55,1.2\n2.wav,0,0.3\n")
    whole = AudioFolder(audio, str(tmp_path), held_out=0)
    assert whole.report()[0]["seconds"] == pytest.approx(1.8)
    data = AudioFolder(audio, str(tmp_path), held_out=0, trim_db=-50)
    clip = data.clip(0, 0)
    assert clip.data.shape[1] == pytest.approx(0.34 * 8000, abs=160)  # with 20 ms before and after
    assert clip.data[0, :80].abs().max() < 0.01
    assert clip.data[0, 240:400].abs().max() > 0.4
    assert "trimmed by 1.46 s" in data.report()[0]["why"]
    parts = AudioManifest(
        audio, str(tmp_path / "t.csv"), start="from", duration="len", trim_db=-50, held_out=0, max_bad_share=0.5
    )
    seconds = {row["file"].partition(" ")[0]: row["seconds"] for row in parts.report()}
    assert seconds["0.wav"] == pytest.approx(0.07, abs=0.02)
    assert seconds["1.wav"] == pytest.approx(0.27, abs=0.02)
    assert parts.report()[-1]["why"].startswith("too short: 0.000 s")  # a segment of silence alone

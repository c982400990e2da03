"""Where items come from, and which of them are held out: the same for sound and video, whatever the source."""

import os
import shutil

import numpy as np
import pytest
import soundfile
from flowgen_audio.folder import AudioFolder
from flowgen_audio.manifest import AudioManifest
from flowgen_audio.modality import Audio
from flowgen_video.folders import VideoFolder
from flowgen_video.manifests import VideoManifest
from flowgen_video.modality import Video
from PIL import Image

from flowgen.config import load
from flowgen.data.items import Item, split
from flowgen.errors import FlowgenError, UsageError

AUDIO = Audio(8000, 1, 0.5)


def sound(path, seed=0, seconds=0.3):
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, 0.2 * np.random.default_rng(seed).standard_normal(round(8000 * seconds)), 8000)
    return path


def items(tmp_path, names, contents=None):
    out = []
    for i, name in enumerate(names):
        path = tmp_path / name
        path.write_bytes((contents[i] if contents else name).encode() * 10)
        out.append(Item(name, path))
    return out


def test_a_share_holds_out_one_at_least_and_leaves_one(tmp_path):
    for n in range(2, 12):
        for share in (0.001, 0.5, 0.999):
            training, held_out = split(items(tmp_path, [f"{n}-{i}" for i in range(n)]), share, "here")
            assert training
            assert held_out
            assert len(training) + len(held_out) == n
    assert split(items(tmp_path, ["one"]), 0.5, "here")[1] == []
    assert split(items(tmp_path, ["one", "two"]), 0, "here")[1] == []


def test_the_split_is_that_of_the_keys_alone(tmp_path):
    names = [f"{i:03d}" for i in range(200)]
    found = items(tmp_path, names)
    held_out = {item.key for item in split(found, 0.2, "here")[1]}
    assert 20 < len(held_out) < 60
    assert {item.key for item in split(found[::-1], 0.2, "there")[1]} == held_out
    some = {item.key for item in split(found[:100], 0.2, "here")[1]}
    assert some == held_out & set(names[:100])


def test_copies_never_straddle_the_split(tmp_path):
    names = [f"{i:03d}" for i in range(120)]
    found = items(tmp_path, names, [f"content {i % 40:02d}" for i in range(120)])
    for share in (0.1, 0.5):
        training, held_out = ({item.path.read_bytes() for item in part} for part in split(found, share, "here"))
        assert not training & held_out
        assert held_out


def test_held_out_values_are_those_that_all_columns_have(tmp_path):
    found = [Item(f"{who}{take}", tmp_path, {"who": who, "take": take}) for who in "ab" for take in (1, 2)]
    training, held_out = split(found, {"who": ["a"], "take": ["2"]}, "here")
    assert [item.key for item in held_out] == ["a2"]
    assert len(training) == 3


def test_links_are_followed_and_hidden_and_cache_folders_are_named(tmp_path):
    root = tmp_path / "sounds"
    sound(root / "dog" / "1.wav", 1)
    sound(tmp_path / "elsewhere" / "2.wav", 2)
    os.symlink(tmp_path / "elsewhere", root / "cat")
    os.symlink(root, root / "dog" / "circle")
    sound(root / ".ipynb_checkpoints" / "3.wav", 3)
    sound(root / "__MACOSX" / "4.wav", 4)
    (root / "dog" / "5.xyz").write_bytes(b"?")
    (root / "dog" / "1.txt").write_bytes("\ufeffa  dog\nbarks".encode())
    data = AudioFolder(AUDIO, str(root), held_out=0)
    assert [item.key for item in data.items] == ["cat/2.wav", "dog/1.wav"]
    assert data.conditions["label"]["names"] == ("cat", "dog")
    assert data.clip(1, 0).conditions == {"label": "dog", "caption": "a dog barks"}
    said = data.describe()
    assert said["without caption"] == "1 of 2 have none: cat/2.wav"
    assert "2: .ipynb_checkpoints; __MACOSX" in said["not read"]
    assert "5.xyz" in said["not read"]


def test_a_home_folder_may_be_given_by_its_sign(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    sound(tmp_path / "s" / "a.wav")
    (tmp_path / "s" / "t.csv").write_text("file\na.wav\n")
    for data in (AudioFolder(AUDIO, "~/s", held_out=0), AudioManifest(AUDIO, "~/s/t.csv", held_out=0)):
        assert len(data) == 1
        assert next(iter(data.places.values())).startswith(str(tmp_path))


def test_pictures_beside_videos_are_no_clip(tmp_path):
    for label in ("dog", "cat"):
        (tmp_path / "v" / label).mkdir(parents=True)
        (tmp_path / "v" / label / "1.mp4").write_bytes(b"x")
    Image.new("RGB", (8, 8)).save(tmp_path / "v" / "dog" / "1.jpg")
    (tmp_path / "v" / "dog" / "numbered").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "v" / "dog" / "numbered" / "1.png")
    found = VideoFolder(Video(), str(tmp_path / "v")).found
    assert [item.key for item in found.items] == ["cat/1.mp4", "dog/1.mp4", "dog/numbered"]
    assert "dog/1.jpg" in found.notes[0]


@pytest.mark.parametrize("name", ["../a.wav", "/etc/a.wav", "b/../../a.wav"])
def test_a_table_names_files_below_its_folder_unless_allowed(tmp_path, name):
    (tmp_path / "t" / "b").mkdir(parents=True)
    sound(tmp_path / "a.wav")
    (tmp_path / "t" / "t.csv").write_text(f"file\n{name}\n")
    for kind, modality in ((AudioManifest, AUDIO), (VideoManifest, Video())):
        with pytest.raises(UsageError, match=r"row 1: .* lies outside .*data\.allow_outside=true"):
            kind(modality, str(tmp_path / "t" / "t.csv"), held_out=0)
    if not name.startswith("/"):
        assert len(AudioManifest(AUDIO, str(tmp_path / "t" / "t.csv"), held_out=0, allow_outside=True)) == 1
    (tmp_path / "t" / "t.csv").write_text(f"file\n{tmp_path}/t/b/in.wav\n")
    shutil.copy(tmp_path / "a.wav", tmp_path / "t" / "b" / "in.wav")
    assert len(AudioManifest(AUDIO, str(tmp_path / "t" / "t.csv"), held_out=0)) == 1


def test_one_bad_row_is_left_out_and_named(tmp_path):
    for i in range(5):
        sound(tmp_path / f"{i}.wav", i)
    (tmp_path / "t.csv").write_text("file,s,d\n0.wav,0,0.2\n,0,0.1\n2.wav,-1,0.1\n3.wav,1e999,0.1\n4.wav,0.1,0.1\n")
    data = AudioManifest(AUDIO, str(tmp_path / "t.csv"), start="s", duration="d", held_out=0, max_bad_share=0.6)
    assert [item.key for item in data.items] == ["0.wav [0-0.2 s]", "4.wav [0.1-0.2 s]"]
    assert [use.why.split(":")[0] for _, use in data.left_out] == ["no file", "no time", "no time"]
    with pytest.raises(FlowgenError, match="row 2 names no file"):
        AudioManifest(AUDIO, str(tmp_path / "t.csv"), start="s", duration="d")


def test_a_caption_that_is_no_text_leaves_out_its_file(tmp_path):
    (tmp_path / "v").mkdir()
    (tmp_path / "v" / "a.mp4").write_bytes(b"x")
    (tmp_path / "v" / "a.txt").write_bytes("a boy’s hat".encode("cp1252"))
    data = VideoFolder(Video(), str(tmp_path / "v"), held_out=0)
    with pytest.raises(FlowgenError, match=r"a\.txt: cannot be read as UTF-8"):
        len(data)


@pytest.mark.parametrize("value", ["nan", "inf", "n/a", "9" * 5000])
def test_a_number_that_is_none_is_named(tmp_path, value):
    (tmp_path / "t.csv").write_text(f"file,level\na.mp4,1\nb.mp4,{value}\n")
    with pytest.raises(UsageError, match=r"expected numbers in 'level', found .* for b\.mp4"):
        VideoManifest(Video(), str(tmp_path / "t.csv"), columns={"level": "number"})


OLD = """
name: old
modality: {{type: audio}}
data: {{type: audio-{kind}, {data}}}
encoder: spectrogram
network: {{type: transformer}}
train: {{steps: 1, batch_size: 1}}
"""


def old(tmp_path, data, kind="folder"):
    (tmp_path / "config.yaml").write_text(OLD.format(kind=kind, data=data))
    return str(tmp_path / "config.yaml")


@pytest.mark.parametrize("kind", ["folder: s", "manifest: s.csv", "shards: s.tar"])
def test_options_by_the_names_of_0_1_are_read_or_refused_with_the_new_one(tmp_path, kind):
    path = old(tmp_path, f"{kind}, validation_share: 0.3", kind.partition(":")[0])
    with pytest.warns(UserWarning, match=r"config\.yaml:4: data\.validation_share is called data\.held_out now"):
        loaded = load(path)
    assert loaded.config.data.options["held_out"] == 0.3
    assert ("data.held_out", 0.3, f"{path}:4") in list(loaded.rows())
    path = old(tmp_path, f"{kind}, conditions: {{label: class}}", kind.partition(":")[0])
    with pytest.raises(UsageError, match=r"data\.conditions is called data\.columns now; rename it"):
        load(path)


def test_both_names_of_an_option_are_refused_and_the_command_line_is_above_the_file(tmp_path):
    with pytest.raises(UsageError, match=r"gives that, too; leave out data\.validation_share"):
        load(old(tmp_path, "folder: s, held_out: 0.1, validation_share: 0.3"))
    with pytest.warns(UserWarning, match=r"command line: data\.validation_share"):
        options = load(old(tmp_path, "folder: s, held_out: 0.1"), ["data.validation_share=0.3"]).config.data.options
    assert options["held_out"] == 0.3
    with pytest.raises(UsageError, match=r"leave out data\.validation_share"):
        load(old(tmp_path, "folder: s"), ["data.validation_share=0.3", "data.held_out=0"])


@pytest.mark.filterwarnings("error")
def test_options_by_their_old_names_are_understood_in_a_run(tmp_path):
    old(tmp_path, "folder: s, held_out: null, validation_share: 0.3, conditions: {label: class}")
    (tmp_path / "checkpoints").mkdir()
    options = load(str(tmp_path)).config.data.options
    assert (options["held_out"], options["columns"]) == (0.3, {"label": "class"})


def test_programs_may_use_the_names_of_0_1(tmp_path):
    for i in range(4):
        sound(tmp_path / f"{i}.wav", i)
    (tmp_path / "t.csv").write_text("file,who\n" + "".join(f"{i}.wav,{i % 2}\n" for i in range(4)))
    with pytest.warns(UserWarning, match="is called .* now, and read as that") as warned:
        data = AudioManifest(AUDIO, str(tmp_path / "t.csv"), conditions={"who": "class"}, validation_share=0)
    assert (list(data.conditions), data.held_out) == (["who"], 0)
    assert {str(w.message).partition(" now")[0] for w in warned} == {
        "conditions is called columns",
        "validation_share is called held_out",
    }
    with pytest.raises(UsageError, match="both are given; leave out validation_share"):
        AudioFolder(AUDIO, str(tmp_path), validation_share=0, held_out=0.1)
    assert {part: len(items) for part, items in data.parts.items()} == {"training": 4, "validation": 0}

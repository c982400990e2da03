"""Tar shards are data sets like folders are: the same clips, read where they lie."""

import io
import json
import tarfile
import threading

import pytest
import soundfile
import torch
from flowgen_audio.folder import AudioFolder
from flowgen_audio.media import write_samples
from flowgen_audio.modality import Audio
from flowgen_audio.shards import AudioShards
from flowgen_video.folders import VideoFolder
from flowgen_video.modality import Video
from flowgen_video.shards import VideoShards
from flowgen_video.writing import write_frames

from flowgen.data import shards
from flowgen.data.shards import Member, find_shards, read_shards
from flowgen.errors import FlowgenError, UsageError

AUDIO, VIDEO = Audio(8000, 1, 0.5), Video(fps=8, frames=4, height=16, width=16, channels=1)


def write_tar(path, files):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, content in files:
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return path


def at_header(number, change):
    """Change the header of a member, counted from 0, each of one block of content."""

    def damage(data):
        block = bytearray(data[1024 * number : 1024 * number + 512])
        change(block)
        return data[: 1024 * number] + bytes(block) + data[1024 * number + 512 :]

    return damage


def _negative(block):
    block[124:136] = b"\xff" * 12  # of GNU's binary numbers
    block[148:156] = b" " * 8
    block[148:156] = f"{sum(block):06o}\0 ".encode()


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (at_header(2, lambda b: b.__setitem__(slice(0, 100), bytes(100))), r"is damaged at byte 2,\d+"),
        (at_header(2, lambda b: b.__setitem__(150, b[150] ^ 1)), "is damaged at byte 2,048"),
        (at_header(2, lambda b: b.__setitem__(slice(0, 512), bytes(512))), "is damaged at byte 2,560"),
        (at_header(2, _negative), "is damaged or sparse"),
        (lambda data: data[: 6 * 1024], "is cut off: the mark at its end is missing"),
        (lambda data: data[: 6 * 1024 - 700], "cannot be read as a plain tar|cut off"),
        (lambda data: data + data, "is damaged at byte 10,240"),
    ],
)
def test_a_shard_that_lost_samples_is_refused(tmp_path, damage, sentence):
    path = write_tar(tmp_path / "s.tar", [(f"{i}.txt", b"a") for i in range(6)])
    assert len(read_shards(str(path))) == 6
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(FlowgenError, match=sentence):
        read_shards(str(path))


@pytest.fixture(params=[".wav", ".flac", ".mp3", ".ogg", ".opus"])
def sounds(request, tmp_path):
    """Twelve sounds in a folder and in two shards, with cls, txt and json beside them in the shards."""
    files, folder = [[], []], tmp_path / "folder"
    folder.mkdir()
    for i in range(12):
        wave = 0.3 * torch.sin(torch.arange(2400 + 300 * i) * (0.05 + 0.01 * i))[None]
        path = folder / f"{i:04d}{request.param}"
        write_samples(wave, 8000, path, {})
        key = f"part/{i:04d}"
        files[i % 2] += [
            (f"{key}{request.param}", path.read_bytes()),
            (f"{key}.cls", f"{i % 3}\n".encode()),
            (f"{key}.txt", b"a tone,\n rather low "),
            (f"{key}.json", json.dumps({"pitch": i, "take": i % 4}).encode()),
        ]
    for number, content in enumerate(files):
        write_tar(tmp_path / "shards" / f"train-{number:03d}.tar", content)
    return tmp_path


def test_sounds_in_shards_are_those_of_the_folder(sounds):
    pattern = f"{sounds}/shards/train-{{000..001}}.tar"
    kinds = {"label": "class", "caption": "text", "pitch": "number"}
    data = AudioShards(AUDIO, pattern, columns=kinds, held_out={"take": ("3",)}, crop="start")
    files = AudioFolder(AUDIO, str(sounds / "folder"), held_out=0, crop="start")
    assert (len(data), len(data.validation())) == (9, 3)
    assert data.conditions["label"]["names"] == ("0", "1", "2")
    assert (data.conditions["pitch"]["low"], data.conditions["pitch"]["high"]) == (0, 11)
    for part in (data, data.validation()):
        for index in range(len(part)):
            clip = part.clip(index, 3)
            number = clip.conditions["pitch"]
            assert torch.equal(clip.data, files.clip(number, 3).data)
            assert clip.conditions == {"label": str(number % 3), "caption": "a tone, rather low", "pitch": number}
            assert clip.source.startswith(f"{sounds}/shards/train-00{number % 2}.tar/part/{number:04d}.")
    usual = AudioShards(AUDIO, pattern)
    assert set(usual.conditions) == {"label", "caption"}
    rows = [*usual.report(), *usual.validation().report()]
    assert len({(row["path"], row["offset"]) for row in rows}) == 12
    assert AudioShards(AUDIO, pattern, buckets=3).buckets.keys()


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """Eight clips in a folder and in a shard, of several formats."""
    root = tmp_path_factory.mktemp("videos")
    files = []
    for i in range(8):
        data = torch.randint(256, (6, 16, 16, 1), dtype=torch.uint8, generator=torch.Generator().manual_seed(i))
        path = root / "folder" / f"{i:02d}{('.mp4', '.webm', '.gif')[i % 3]}"
        path.parent.mkdir(exist_ok=True)
        write_frames(data, 8, path, {})
        files += [(path.name, path.read_bytes()), (f"{i:02d}.json", json.dumps({"who": f"p{i % 2}"}).encode())]
    write_tar(root / "clips.tar", files)
    return root


@pytest.mark.parametrize("cache", [False, True])
def test_videos_in_shards_are_those_of_the_folder(videos, cache):
    six = Video(fps=8, frames=6, height=16, width=16, channels=1)
    data = VideoShards(six, f"{videos}/*.tar", columns={"who": "class"}, held_out={"who": ["p1"]}, cache=cache)
    files = VideoFolder(six, str(videos / "folder"), held_out=0)
    expected = [files.clip(i, 0).data for i in range(8)]
    assert (len(data), len(data.validation())) == (4, 4)
    for index in range(4):
        clip = data.clip(index, 5)
        assert torch.equal(clip.data, expected[2 * index])
        assert clip.conditions == {"who": "p0"}
        assert "clips.tar/" in clip.source
    rows = data.report()
    assert all(row["path"].endswith("clips.tar") and row["bytes"] > 0 for row in rows)
    bucketed = VideoShards(VIDEO, f"{videos}/*.tar", buckets=("4x16x16", "6x8x8"))
    assert {bucketed.bucket_of(i) for i in range(len(bucketed))} == {"6x8x8"}


def test_zips_of_pictures_are_read_where_they_lie(tmp_path):
    data = torch.randint(256, (4, 16, 16, 1), dtype=torch.uint8)
    write_frames(data, 8, tmp_path / "a.zip", {})
    write_tar(tmp_path / "a.tar", [("a.zip", (tmp_path / "a.zip").read_bytes())])
    found = VideoShards(VIDEO, str(tmp_path / "a.tar"), extension="zip", held_out=0)
    assert torch.equal(found.clip(0, 0).data, data)


def test_what_webdataset_writes_is_read(tmp_path):
    webdataset = pytest.importorskip("webdataset")
    path = tmp_path / "one.wav"
    soundfile.write(path, [0.1, -0.2, 0.3] * 500, 8000)
    with webdataset.TarWriter(str(tmp_path / "one.tar")) as sink:
        for i in range(3):
            sink.write({"__key__": f"a{i}", "wav": path.read_bytes(), "cls": i, "txt": "hm", "json": {"level": i}})
    data = AudioShards(AUDIO, str(tmp_path / "one.tar"), columns={"label": "class", "level": "number"}, held_out=0)
    assert [data.clip(i, 0).conditions for i in range(3)] == [{"label": str(i), "level": i} for i in range(3)]
    assert data.clip(1, 0).data.shape == (1, 1500)
    theirs = [s["wav"] for s in webdataset.WebDataset(str(tmp_path / "one.tar"), shardshuffle=False)]
    assert theirs == [s.members["wav"].open().read() for s in read_shards(str(tmp_path / "one.tar"))]


def test_a_member_is_a_file_of_its_own(tmp_path):
    contents = {f"{i}.bin": bytes([i]) * (1000 + i) for i in range(5)}
    write_tar(tmp_path / "a.tar", contents.items())
    for sample in read_shards(str(tmp_path / "a.tar")):
        member = sample.members["bin"]
        with member.open() as file:
            assert file.read() == contents[member.name]
            assert file.seek(-3, 2) == member.size - 3
            assert file.read(10) == contents[member.name][-3:]
            file.seek(1)
            assert file.read(2) == contents[member.name][1:3]
            assert file.read(0) == b""
        assert member.stat().st_size == len(contents[member.name])


def test_many_threads_read_one_shard(tmp_path):
    write_tar(tmp_path / "a.tar", [(f"{i}.bin", bytes([i]) * 5000) for i in range(8)])
    members = [s.members["bin"] for s in read_shards(str(tmp_path / "a.tar"))]
    wrong = []

    def read(member):
        for _ in range(20):
            with member.open() as file:
                if file.read() != bytes([int(member.name[0])]) * 5000:
                    wrong.append(member)

    threads = [threading.Thread(target=read, args=(member,)) for member in members]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_a_shard_is_indexed_once_until_it_changes(tmp_path, monkeypatch):
    path = write_tar(tmp_path / "a.tar", [("1.wav", b"x")])
    index, looked = shards._index, []
    monkeypatch.setattr(shards, "_index", lambda shard: looked.append(shard) or index(shard))
    for _ in range(2):
        assert [s.key for s in read_shards(str(path))] == ["1"]
    assert looked == [path]
    write_tar(path, [("1.wav", b"x"), ("2.left.wav", b"yy")])
    first, second = read_shards(str(path))
    assert looked == [path, path]
    assert (second.key, list(second.members), second.members["left.wav"].size) == ("2", ["left.wav"], 2)
    assert first.members["wav"] == Member(path, "1.wav", 512, 1)


def test_patterns_count_list_and_match(tmp_path):
    for name in ("a-00", "a-01", "a-02", "b-00"):
        write_tar(tmp_path / f"{name}.tar", [("1.wav", b"")])

    def names(pattern):
        return [path.stem for path in find_shards(f"{tmp_path}/{pattern}")]

    assert names("a-{00..02}.tar") == ["a-00", "a-01", "a-02"]
    assert names("{a,b}-00.tar") == ["a-00", "b-00"]
    assert names("a-*.tar") == ["a-00", "a-01", "a-02"]
    assert names("{b,a}-*.tar") == ["b-00", "a-00", "a-01", "a-02"]
    with pytest.raises(UsageError, match=r"no file .*a-03\.tar"):
        names("a-{00..03}.tar")
    with pytest.raises(UsageError, match=r"no file .*c\*\.tar"):
        names("c*.tar")


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ([("1.wav", b"x"), ("1.json", b"{")], "1.json: cannot be read as json"),
        ([("1.wav", b"x"), ("1.json", b"[1]")], "expected an object"),
        ([("1.wav", b"x"), ("2.json", b"{}"), ("1.wav", b"y")], "holds 1.wav twice"),
        ([("noextension", b"x")], "holds no samples"),
        ([("1.json", b"{}")], "sample '1' has json, none of which is a medium"),
        ([("1.wav", b"x"), ("1.flac", b"x")], "sample '1' has wav and flac; say which with data.extension=wav"),
    ],
)
def test_a_bad_shard_is_one_sentence(tmp_path, files, words):
    write_tar(tmp_path / "a.tar", files)
    with pytest.raises(FlowgenError, match=words):
        AudioShards(AUDIO, str(tmp_path / "a.tar"))


def test_a_shard_that_is_cut_off_or_compressed_is_named(tmp_path):
    path = write_tar(tmp_path / "a.tar", [("1.wav", b"x" * 9000), ("2.wav", b"y" * 9000)])
    path.write_bytes(path.read_bytes()[:15000])
    with pytest.raises(FlowgenError, match=r"a\.tar: "):
        read_shards(str(path))
    with tarfile.open(tmp_path / "b.tar", "w:gz") as archive:
        archive.add(path, "1.wav")
    with pytest.raises(FlowgenError, match=r"b\.tar: cannot be read as a plain tar file"):
        read_shards(str(tmp_path / "b.tar"))


def test_a_run_on_shards(tones, flowgen, tmp_path):
    files = [(path.name, path.read_bytes()) for path in sorted((tmp_path / "tones").iterdir())]
    write_tar(tmp_path / "a-0.tar", files[:20])
    write_tar(tmp_path / "a-1.tar", files[20:])
    data = f"data={{type: audio-shards, shards: '{tmp_path}/a-{{0..1}}.tar', buckets: 2}}"
    quiet = ["train.validation.every=0", "train.preview.every=0", "train.workers=1"]
    code, said = flowgen("train", tones, data, "train.steps=3", *quiet)
    assert code == 0, said
    code, said = flowgen("data", "check", tones, data, "--sheet", tmp_path / "s.png")
    assert code == 0, said
    assert "40, " in said
    assert "copies: none" in said

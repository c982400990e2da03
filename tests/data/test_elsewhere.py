"""Recordings that lie elsewhere: behind URLs, and in folders of the datasets library. They are what local files are."""

import csv
import functools
import http.server
import io
import json
import re
import subprocess
import tarfile
import threading

import numpy as np
import pytest
import soundfile
import torch
from flowgen_audio.folder import AudioFolder
from flowgen_audio.manifest import AudioManifest
from flowgen_audio.modality import Audio
from flowgen_audio.shards import AudioShards
from flowgen_video.folders import VideoFolder
from flowgen_video.modality import Video

from flowgen.data.loader import Split, batches
from flowgen.errors import FlowgenError, UsageError

fsspec = pytest.importorskip("fsspec")
AUDIO, RATE = Audio(8000, 1, 0.5), 8000


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    """Sounds of two kinds with captions, a table of them, a shard and a video."""
    root = tmp_path_factory.mktemp("here")
    rng = np.random.default_rng(0)
    with tarfile.open(root / "s-000.tar", "w") as tar, (root / "t.csv").open("w", newline="") as table:
        rows = csv.writer(table)
        rows.writerow(["file", "label", "start", "duration"])
        for i in range(8):
            path = root / "sounds" / "ab"[i % 2] / f"{i}.flac"
            path.parent.mkdir(parents=True, exist_ok=True)
            soundfile.write(path, 0.1 * rng.standard_normal(4000 + 800 * i), RATE)
            path.with_suffix(".txt").write_text(f"sound {i}")
            rows.writerow([f"sounds/{'ab'[i % 2]}/{i}.flac", "ab"[i % 2], 0.1, 0.3])
            tar.add(path, f"{i}.flac")
            entry = tarfile.TarInfo(f"{i}.cls")
            entry.size = 1
            tar.addfile(entry, io.BytesIO(b"ab"[i % 2 : i % 2 + 1]))
    (root / "sounds" / "a" / ".hidden.wav").write_text("")
    (root / "clips").mkdir()
    source = ["-f", "lavfi", "-i", "testsrc=s=64x48:r=10:d=2"]
    subprocess.run(["ffmpeg", "-v", "error", *source, "-g", "5", root / "clips" / "v.mp4"], check=True)
    return root


class _Parts(http.server.SimpleHTTPRequestHandler):
    """A web server that sends parts of files, as object stores do."""

    def send_head(self):
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        path = self.translate_path(self.path)
        try:
            content = open(path, "rb").read()  # noqa: SIM115
        except OSError:
            return super().send_head()
        first, last = (int(wanted[1]), int(wanted[2] or len(content) - 1)) if wanted else (0, len(content) - 1)
        part = content[first : last + 1]
        self.send_response(206 if wanted else 200)
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(len(part)))
        if wanted:
            self.send_header("Content-Range", f"bytes {first}-{first + len(part) - 1}/{len(content)}")
        self.end_headers()
        return io.BytesIO(part)

    def log_message(self, *given):
        pass


class _Whole(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *given):
        pass


@pytest.fixture(scope="module", params=["memory", "parts", "whole"])
def there(request, here):
    """The URL of the same elsewhere: in fsspec's memory, on a web server that sends parts, and on one that does not."""
    if request.param == "memory":
        memory = fsspec.filesystem("memory")
        memory.put(str(here), "/bucket", recursive=True)
        yield "memory://bucket"
        memory.rm("/bucket", recursive=True)
        return
    pytest.importorskip("aiohttp")
    handler = functools.partial(_Parts if request.param == "parts" else _Whole, directory=str(here))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def same(one, other):
    assert len(one) == len(other) > 0
    assert [one.key(i) for i in range(len(one))] == [other.key(i) for i in range(len(other))]
    assert one.conditions == other.conditions
    for i in range(len(one)):
        a, b = one.clip(i, i), other.clip(i, i)
        assert torch.equal(a.data, b.data)
        assert a.conditions == b.conditions
    assert one.fingerprints() == other.fingerprints()


def test_what_lies_elsewhere_is_what_lies_here(here, there):
    same(AudioFolder(AUDIO, str(here / "sounds")), AudioFolder(AUDIO, f"{there}/sounds"))
    options = {"start": "start", "duration": "duration"}
    same(AudioManifest(AUDIO, str(here / "t.csv"), **options), AudioManifest(AUDIO, f"{there}/t.csv", **options))
    shards = AudioShards(AUDIO, f"{there}/s-{{000..000}}.tar")
    same(AudioShards(AUDIO, str(here / "s-*.tar")), shards)
    assert shards.places == {"shards": f"{there}/s-{{000..000}}.tar"}
    video = Video(fps=10, frames=8, height=24, width=32)
    same(VideoFolder(video, str(here / "clips"), stride=4), VideoFolder(video, f"{there}/clips", stride=4))


def test_loader_processes_read_elsewhere(there):
    data = AudioFolder(AUDIO, f"{there}/sounds", held_out=0)
    both = [next(batches(data, 0, Split(4, 4), workers=workers)) for workers in (0, 1)]
    assert all(torch.equal(a.data, b.data) for a, b in zip(*both, strict=True))


def test_a_table_here_names_files_elsewhere_where_that_is_meant(here, there, tmp_path):
    rows = [{"file": f"{there}/sounds/a/{i}.flac"} for i in (0, 2, 4)]
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(UsageError, match="lies outside"):
        AudioManifest(AUDIO, str(tmp_path / "t.jsonl"))
    data = AudioManifest(AUDIO, str(tmp_path / "t.jsonl"), allow_outside=True, held_out=0)
    local = AudioFolder(AUDIO, str(here / "sounds" / "a"), held_out=0)
    assert torch.equal(data.clip(1, 0).data, local.clip(1, 0).data)
    (tmp_path / "u.jsonl").write_text(json.dumps({"file": "../t.csv"}))
    with pytest.raises(UsageError, match="lies outside"):
        AudioManifest(AUDIO, str(tmp_path / "u.jsonl"), f"{there}/sounds")


def test_what_is_not_there_is_one_sentence(there):
    missing = {
        "data.folder": lambda: AudioFolder(AUDIO, f"{there}/absent"),
        "data.manifest": lambda: AudioManifest(AUDIO, f"{there}/absent.csv"),
        "data.shards": lambda: AudioShards(AUDIO, f"{there}/absent-{{0..2}}.tar"),
    }
    for key, make in missing.items():
        with pytest.raises(FlowgenError) as caught:
            make()
        assert "absent" in str(caught.value)
        assert key in str(caught.value) or "cannot be listed" in str(caught.value)
    with pytest.raises(FlowgenError, match="nowhere"):
        AudioManifest(AUDIO, "nowhere://host/t.csv")
    with pytest.raises(FlowgenError, match=r"127\.0\.0\.1:9"):
        AudioFolder(AUDIO, "http://127.0.0.1:9/sounds")


def test_a_file_elsewhere_that_changes_is_looked_at_again():
    memory = fsspec.filesystem("memory")
    for seconds in (0.2, 0.3):
        for i in range(2):
            content = io.BytesIO()
            wave = 0.1 * np.random.default_rng(i).standard_normal(round(seconds * RATE))
            soundfile.write(content, wave, RATE, format="WAV")
            memory.pipe(f"/changing/{i}.wav", content.getvalue())
        data = AudioFolder(AUDIO, "memory://changing", held_out=0)
        assert data.clip(0, 0).data.shape[1] == round(seconds * RATE)
    memory.rm("/changing", recursive=True)


# folders of the datasets library


@pytest.fixture(scope="module")
def hub(here, tmp_path_factory):
    """The same sounds as the datasets library writes them, with and without splits."""
    datasets = pytest.importorskip("datasets")
    import pyarrow

    datasets.disable_progress_bars()
    root = tmp_path_factory.mktemp("hub")
    paths = sorted((here / "sounds").rglob("*.flac"), key=lambda path: path.name)
    cells = [{"bytes": path.read_bytes(), "path": path.name} for path in paths]
    table = {
        "audio": pyarrow.array(cells, datasets.Audio().pa_type),
        "label": pyarrow.array([i % 2 for i in range(7)] + [None], pyarrow.int64()),
        "level": [float(i) for i in range(8)],
        "tags": [["x"]] * 8,
    }
    features = {"audio": datasets.Audio(), "label": datasets.ClassLabel(names=["a", "b"])}
    features |= {"level": datasets.Value("float64"), "tags": datasets.Sequence(datasets.Value("string"))}
    info = datasets.DatasetInfo(features=datasets.Features(features))
    data = datasets.Dataset(datasets.table.InMemoryTable(pyarrow.table(table)), info=info)
    data.save_to_disk(str(root / "one"))
    datasets.DatasetDict({"train": data.select([5, 4, 3]), "test": data.select(range(2))}).save_to_disk(
        str(root / "two")
    )
    return root


def test_a_folder_of_the_datasets_library_gives_its_rows(here, hub):
    from flowgen_audio.hub import AudioHub

    data = AudioHub(AUDIO, str(hub / "one"), columns={"label": "class", "level": "number"}, held_out=0)
    paths = sorted((here / "sounds").rglob("*.flac"), key=lambda path: path.name)
    for i, path in enumerate(paths):
        assert data.key(i) == path.name
        clip = data.clip(i, 0)
        whole = AUDIO.read(path)
        crop = clip.data if whole.data.shape[1] <= AUDIO.samples else clip.data[:, :1]
        assert torch.equal(crop, whole.data) or bool((whole.data == crop).any())
        assert clip.conditions == {"label": "ab"[i % 2] if i < 7 else None, "level": float(i)}
    assert "columns of lists and files: tags" in data.describe()["not read"]
    both = [next(batches(data, 0, Split(4, 4), workers=workers)) for workers in (0, 1)]
    assert all(torch.equal(a.data, b.data) for a, b in zip(*both, strict=True))


def test_splits_and_columns_of_the_datasets_library(hub, tmp_path):
    from flowgen_audio.hub import AudioHub
    from flowgen_video.hub import VideoHub

    data = AudioHub(AUDIO, str(hub / "two"), held_out=0)
    assert [data.key(i) for i in range(len(data))] == ["5.flac", "4.flac", "3.flac"]
    assert len(AudioHub(AUDIO, str(hub / "two"), "test", held_out=0)) == 2
    for options, said in (
        ({"folder": str(hub / "two"), "split": "tset"}, "did you mean 'test'"),
        ({"folder": str(hub / "one"), "split": "train"}, "without splits"),
        ({"folder": str(hub / "one"), "column": "label"}, "data.column"),
        ({"folder": str(tmp_path)}, "save_to_disk"),
    ):
        with pytest.raises(UsageError, match=said):
            AudioHub(AUDIO, **options)
    with pytest.raises(UsageError, match="column of type Video"):
        VideoHub(Video(), str(hub / "one"))
    broken = tmp_path / "broken"
    broken.mkdir()
    for path in (hub / "one").iterdir():
        (broken / path.name).write_bytes(path.read_bytes()[: -1000 if path.suffix == ".arrow" else None])
    with pytest.raises(FlowgenError, match="datasets library"):
        AudioHub(AUDIO, str(broken))

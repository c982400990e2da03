"""A resumed run sees the data that it began with: moved is no matter, changed is refused with what changed."""

from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import soundfile
from click.testing import CliRunner

from flowgen.cli import cli
from flowgen.data.balance import balanced
from flowgen.errors import UsageError
from flowgen.training.same_data import changes, write_data

CONFIG = """
name: tiny
modality: {type: audio, sample_rate: 8000, duration_s: 0.5}
data: {type: audio-folder, folder: s, held_out: 0}
encoder: {type: spectrogram, window: 128, hop: 64, multiple: 4}
network: {type: transformer, width: 32, depth: 1, heads: 2, patch: [4]}
loss: {type: flow-matching, predicts: velocity}
train: {steps: 1, batch_size: 4, schedule: {decay: constant}, validation: {every: 0}, preview: {every: 0}}
"""


class Data:
    """A data set of which only the fingerprints matter."""

    places: ClassVar = {"folder": "/here"}

    def __init__(self, **prints: str) -> None:
        self.prints = prints

    def fingerprints(self) -> dict[str, str]:
        return self.prints


def test_what_changed_is_named(tmp_path: Path) -> None:
    assert changes(tmp_path, Data(a="1")) is None
    write_data(tmp_path, Data(a="1", b="2", c="3"))
    assert changes(tmp_path, Data(a="1", b="2", c="3")) == ""
    assert changes(tmp_path, Data(a="1", b="x", d="4")) == (
        "1 added (d), 1 gone (c), 1 with other values or content (b)"
    )
    assert changes(tmp_path, Data(b="2", a="1", c="3")) == "the same items come in another order"
    assert changes(tmp_path, object()) is None


def flowgen(*args: object) -> None:
    result = CliRunner().invoke(cli, [str(a) for a in args], catch_exceptions=False)
    assert result.exit_code == 0, result.output


def test_a_run_goes_on_where_its_data_are_now_and_not_with_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "s").mkdir()
    (tmp_path / "there").mkdir()
    for i in range(8):
        soundfile.write(tmp_path / "s" / f"{i}.wav", 0.2 * np.random.default_rng(i).standard_normal(4000), 8000)
    (tmp_path / "c.yaml").write_text(CONFIG)
    monkeypatch.chdir(tmp_path)
    flowgen("train", "c.yaml", "run=r", "--quiet")
    monkeypatch.chdir(tmp_path / "there")
    flowgen("train", tmp_path / "r", "--resume", "train.steps=2", "--quiet")
    (tmp_path / "s").rename(tmp_path / "moved")
    flowgen("train", tmp_path / "r", "--resume", "train.steps=3", f"data.folder={tmp_path}/moved", "--quiet")
    soundfile.write(tmp_path / "moved" / "3.wav", 0.1 * np.ones(4000), 8000)
    again = ("train", tmp_path / "r", "--resume", "train.steps=4", "--quiet")
    with pytest.raises(UsageError, match=r"data have changed since it began: 1 with other .*\(3\.wav\)"):
        flowgen(*again)
    flowgen(*again, "--allow", "data")
    (tmp_path / "one").mkdir()
    soundfile.write(tmp_path / "one" / "a.wav", 0.1 * np.random.default_rng(0).standard_normal(4000), 8000)
    for command in ("data check", "train"):  # what the one passes the other does not refuse
        with pytest.raises(UsageError, match="nothing is held out, for there is one recording"):
            flowgen(*command.split(), tmp_path / "c.yaml", f"data.folder={tmp_path}/one", "data.held_out=0.1",
                    "train.validation.every=1", f"run={tmp_path}/q")  # fmt: skip
    wide = ("data", "check", tmp_path / "c.yaml", f"data.folder={tmp_path}/moved")
    with pytest.raises(UsageError, match=r"patch|multiple|divide"):
        flowgen(*wide, "network.patch=[24]")
    flowgen(*wide, "--deep")


class Classes:
    """Twelve clips, of which two are rare."""

    conditions: ClassVar = {"label": {"type": "class"}, "level": {"type": "number"}}

    def __len__(self) -> int:
        return 12

    def labels(self, index: int) -> dict[str, object]:
        return {"label": "rare" if index in (4, 9) else "often", "level": index}


@pytest.mark.parametrize(("count", "rare"), [(2, 1), (4, 2), (7, 2), (30, 2)])
def test_examples_show_every_class_equally_often(count: int, rare: int) -> None:
    picked = balanced(Classes(), count)  # type: ignore[arg-type]
    assert len(set(picked)) == min(count, 12)
    assert sum(index in (4, 9) for index in picked) == rare

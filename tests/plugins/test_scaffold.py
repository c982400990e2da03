"""What `flowgen plugins new` writes works before a line of it is changed, installed as a stranger's package is."""

import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from flowgen.cli import cli
from flowgen.errors import UsageError
from flowgen.plugins import KINDS
from flowgen.plugins.scaffold import COMPONENTS, FILES, _component_files, new_plugin
from flowgen.testing import plugged
from flowgen.testing.table import outcomes, targets


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A generated plugin, installed by pip into a folder of its own; returns a way to run programs that see it."""
    folder = tmp_path_factory.mktemp("new")
    site = folder / "site"

    def run(*command, check=True):
        env = {**os.environ, "PYTHONPATH": str(site), "OMP_NUM_THREADS": "1"}
        env.pop("PYTEST_CURRENT_TEST", None)
        done = subprocess.run([sys.executable, *map(str, command)], capture_output=True, text=True, cwd=folder, env=env)
        assert not check or done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        return done

    run.folder = folder
    run("-m", "flowgen", "plugins", "new", "hand-wave")
    pip = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", "--no-build-isolation"]
    if run("-c", "import pip, setuptools, wheel", check=False).returncode:
        pip.remove("--no-build-isolation")
    run(*pip, "--target", site, folder / "flowgen-hand-wave")
    (folder / "away").mkdir()
    (folder / "flowgen-hand-wave" / "flowgen_hand_wave").rename(
        folder / "away" / "source"
    )  # what runs is what pip took
    return run


@pytest.mark.slow
def test_it_is_listed_with_its_recipe(world):
    listed = world("-m", "flowgen", "plugins", "list").stdout
    assert "hand-wave  flowgen-hand-wave 0.1.0, imported in" in listed
    assert "modality    hand-wave " in listed
    assert "recipe      hand-wave/small" in listed
    assert "hand-wave/small" in world("-m", "flowgen", "config", "list").stdout


@pytest.mark.slow
def test_it_trains_and_samples(world):
    world(
        "-m",
        "flowgen",
        "train",
        "hand-wave/small",
        "run=run",
        "train.steps=4",
        "train.batch_size=4",
        "network.width=32",
    )
    world("-m", "flowgen", "sample", "run", "-c", "shape=square", "-n", "2", "--steps", "2", "-o", "out.csv")
    lines = (world.folder / "out-0.csv").read_text().splitlines()
    assert '"shape": "square"' in lines[0]
    assert len(lines) == 65
    assert (world.folder / "out-sheet.png").is_file()


@pytest.mark.slow
def test_its_own_tests_pass_on_two_ranks_too(world):
    done = world("-m", "pytest", "-q", world.folder / "flowgen-hand-wave", "-p", "no:cacheprovider")
    assert " passed" in done.stdout
    assert "failed" not in done.stdout
    assert "unknown" not in done.stdout.lower()


@pytest.mark.slow
def test_check_from_the_command_line(world):
    done = world("-m", "flowgen", "plugins", "check", "hand-wave", "--fast", "network.width=32", "network.depth=1")
    assert done.stdout.startswith("registration\n")  # of a plugin without recipes, too
    assert "\nhand-wave/small\n" in done.stdout
    assert "broken" not in done.stdout
    assert "trains on two ranks" not in done.stdout


@pytest.mark.slow
def test_the_battery_for_pytest(world):
    battery = ["-p", "flowgen.testing.pytest_plugin", "--pyargs", "flowgen.testing.battery", "-m", "not slow"]
    done = world("-m", "pytest", "-q", *battery, "--flowgen-plugin", "hand-wave", "-p", "no:cacheprovider")
    assert " passed" in done.stdout
    assert "failed" not in done.stdout


@pytest.mark.slow
def test_check_says_what_is_broken_and_exits_with_1(world, tmp_path):
    module = world.folder / "site" / "flowgen_hand_wave" / "encoder.py"
    text = module.read_text()
    module.write_text(text.replace("(latents.x * self.std + self.mean)", "(latents.x * self.std * 0.5)"))
    done = world("-m", "flowgen", "plugins", "check", "hand-wave", "--fast", "modality.steps=32", check=False)
    module.write_text(text)
    assert done.returncode == 1
    assert "decode undoes encode" in done.stdout
    assert "see: docs/plugins.md#encoder" in done.stdout
    assert "breaks 1 contract" in done.stderr


@pytest.mark.parametrize("name", ["Tone", "1tone", "to ne", "tone-", "audio", "flowgen", "a_b", "class", ""])
def test_a_name_that_cannot_be_is_refused(name, tmp_path):
    with pytest.raises(UsageError):
        new_plugin(name, tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_a_folder_that_holds_something_is_left_alone(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(UsageError, match="exists and is not empty"):
        new_plugin("tone", tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]


def test_every_template_is_used_and_none_is_missing(tmp_path):
    from importlib import resources

    folder = Path(str(resources.files("flowgen.plugins"))) / "template"
    there = {p.relative_to(folder).as_posix().removesuffix(".tmpl") for p in folder.rglob("*.tmpl")}
    assert there == set(FILES).union(*(_component_files(kind) for kind in COMPONENTS))


def test_what_is_written_is_formatted_and_free_of_lint(tmp_path):
    new_plugin("tone", tmp_path / "tone")
    new_plugin("longer-name", tmp_path / "long")
    for kind in COMPONENTS:
        new_plugin(f"a-{kind}", tmp_path / kind, kind)
    for command in (["check"], ["format", "--check"]):
        done = subprocess.run(
            [sys.executable, "-m", "ruff", *command, "--config", "line-length=120", tmp_path],
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout


def test_new_says_what_comes_next(tmp_path):
    from click.testing import CliRunner

    output = CliRunner().invoke(cli, ["plugins", "new", "tone", "--folder", str(tmp_path / "t")]).output
    assert f"next: pip install -e '{tmp_path}/t' && flowgen plugins check tone && flowgen train tone/small" in output


def test_a_component_of_every_kind_is_written():
    assert {"modality", *COMPONENTS} == set(KINDS)


@pytest.mark.parametrize("kind", COMPONENTS)
def test_a_plugin_of_one_component_keeps_its_contract(kind, tmp_path, monkeypatch):
    new_plugin(f"new-{kind}", tmp_path, kind)
    monkeypatch.syspath_prepend(tmp_path)
    with plugged(f"new-{kind}", import_module(f"flowgen_new_{kind}")) as plugin:
        (component,) = plugin.components
        found = [o for target in targets(plugin.name) for o in outcomes(target, slow=False)]
    assert [o.message for o in found if o.result == "broken"] == []
    kept = [o.check for o in found if o.result == "kept" and o.check.kind == component.kind]
    assert len(kept) >= 2, [o.message for o in found]


def test_what_it_writes_as_a_test_is_that_check(tmp_path, monkeypatch):
    """The test files of one kind that is checked by itself, and of one that is checked in a config."""
    for kind in ("solver", "network"):
        new_plugin(f"own-{kind}", tmp_path / kind, kind)
        monkeypatch.syspath_prepend(tmp_path / kind)
        with plugged(f"own-{kind}", import_module(f"flowgen_own_{kind}")):
            monkeypatch.syspath_prepend(tmp_path / kind / "tests")
            sys.modules.pop("test_conformance", None)
            made = vars(import_module("test_conformance"))[f"TestOwn{kind.capitalize()}"]
            getattr(made(), "test_solver_has_its_order" if kind == "solver" else "test_time_matters")()


def test_a_kind_that_there_is_not_is_refused(tmp_path):
    with pytest.raises(UsageError, match="unknown kind of component 'sampler'"):
        new_plugin("tone", tmp_path / "x", "sampler")

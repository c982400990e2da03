"""Plugins are found, ordered and isolated; components have one owner each."""

import os
import signal
import subprocess
import sys

import pytest

from flowgen.errors import FlowgenError, UsageError
from flowgen.plugins import Component, Registry

GOOD = """
@hookimpl
def flowgen_components():
    return [Component("path", "{name}-path", "flowgen.core.paths:Linear", "a path")]
"""


def good(name: str) -> str:
    return GOOD.format(name=name)


def test_a_plugin_is_found_by_its_entry_point(site):
    site.install("tone", good("tone"), distribution="my-tone", version="2.3")
    found = Registry()
    plugin = found.plugins["tone"]
    assert (plugin.distribution, plugin.version, plugin.error) == ("my-tone", "2.3", "")
    assert found.get("path", "tone-path").load().__name__ == "Linear"


def test_a_broken_plugin_is_named_and_the_others_work(site):
    site.install("broken", "import nope_nope", distribution="some-dist")
    site.install("tone", good("tone"))
    with pytest.warns(UserWarning, match=r"plugin 'broken' \(some-dist\) is left out: ModuleNotFoundError.*nope_nope"):
        found = Registry()
    assert "nope_nope" in found.plugins["broken"].error
    assert found.get("path", "tone-path")
    assert found.get("path", "linear")


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("import sys; sys.exit('no licence')", r"is left out: Quit: it called sys\.exit\('no licence'\)"),
        ("raise MemoryError", "is left out: MemoryError"),
        ("@hookimpl\ndef flowgen_components():\n    raise SystemExit", "is left out: Quit"),
        ("print('welcome'); print('to tone')", "printed 'welcome to tone' while it was loaded"),
        ("import signal; signal.signal(signal.SIGINT, print)", "set a handler for SIGINT, which was put back"),
        ("import os; os.chdir('/')", "changed the working folder, which was put back"),
        ("import time; time.sleep(0.2)", r"took 0\.\d s; heavy code belongs behind an import string"),
    ],
)
def test_what_a_plugin_does_to_the_process_is_undone_and_named(site, code, said, capsys, monkeypatch):
    monkeypatch.setattr(sys.modules["flowgen.plugins.registry"], "SLOW_S", 0.1)
    before = signal.getsignal(signal.SIGINT), os.getcwd()
    site.install("wild", code)
    with pytest.warns(UserWarning, match=rf"plugin 'wild' \(dist-wild\) {said}"):
        found = Registry()
    assert found.get("path", "linear")
    assert (signal.getsignal(signal.SIGINT), os.getcwd()) == before
    out, err = capsys.readouterr()
    assert out == ""
    assert ("is still busy while it was loaded" in err) == ("sleep" in code)


def test_a_thread_of_a_plugin_does_not_keep_the_program(site):
    site.install("wild", "import threading; threading.Thread(target=threading.Event().wait, name='for ever').start()")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(site.folder), os.environ.get("PYTHONPATH", "")])}
    command = [sys.executable, "-m", "flowgen", "plugins", "list"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "started a thread that does not end with flowgen (for ever) while it was loaded" in done.stderr


def test_a_component_that_ends_the_process_is_a_sentence(site):
    (site.folder / "site_heavy.py").write_text("import sys\nsys.exit(3)")
    with pytest.raises(
        FlowgenError, match=r"path 'x' cannot be loaded from 'site_heavy:X': Quit: it called sys\.exit\(3\)"
    ):
        Component("path", "x", "site_heavy:X").load()


def test_asking_for_what_a_broken_plugin_had_says_so(site):
    site.install("broken", "import nope_nope")
    with pytest.warns(UserWarning, match="left out"):
        found = Registry()
    with pytest.raises(UsageError, match=r"unknown encoder 'mine'.*plugin 'broken' failed to load.*nope_nope"):
        found.get("encoder", "mine")


def test_a_plugin_that_fails_when_asked_for_its_components_is_isolated(site):
    site.install("late", "@hookimpl\ndef flowgen_components():\n    raise RuntimeError('too late')")
    with pytest.warns(UserWarning, match="plugin 'late'.*RuntimeError: too late"):
        found = Registry()
    assert found.plugins["late"].components == ()
    assert found.get("path", "linear")


def test_a_misspelt_hook_is_named(site):
    site.install("typo", "@hookimpl\ndef flowgen_componentz():\n    return []")
    with pytest.warns(UserWarning, match="plugin 'typo'.*flowgen_componentz"):
        found = Registry()
    assert "flowgen_componentz" in found.plugins["typo"].error


def test_a_hook_with_an_argument_that_does_not_exist_is_named(site):
    site.install("args", "@hookimpl\ndef flowgen_components(colour):\n    return []")
    with pytest.warns(UserWarning, match="plugin 'args'.*colour"):
        Registry()


def test_a_kind_that_does_not_exist_names_the_nearest(site):
    site.install("kind", "@hookimpl\ndef flowgen_components():\n    return [Component('encodr', 'x', 'a:b')]")
    with pytest.warns(UserWarning, match="unknown kind of component 'encodr'; did you mean 'encoder'"):
        Registry()


def test_strict_raises(site):
    site.install("broken", "import nope_nope")
    with pytest.raises(ModuleNotFoundError, match="nope_nope"):
        Registry(strict=True)


def test_a_component_claimed_twice_is_refused_when_asked_for(site):
    site.install("a", good("same"))
    site.install("b", good("same"))
    found = Registry()
    with pytest.raises(UsageError, match=r"path 'same-path' is claimed by two plugins: 'a' .*'b' .*FLOWGEN_DISABLE=b"):
        found.get("path", "same-path")
    assert found.get("path", "linear")


def test_leaving_one_claimant_out_gives_the_other(site, monkeypatch):
    site.install("a", good("same"))
    site.install("b", good("same"))
    monkeypatch.setenv("FLOWGEN_DISABLE", "a")
    assert Registry().get("path", "same-path")


def test_two_distributions_with_one_entry_point_name(site):
    site.install("tone", good("one"), distribution="a-dist")
    site.install("tone", good("two"), distribution="b-dist")
    with pytest.warns(UserWarning, match=r"plugin 'tone \(.-dist\)' .*the name is taken by .-dist"):
        found = Registry()
    assert len([name for name in found.names("path") if name in ("one-path", "two-path")]) == 1


def test_a_distribution_listed_twice_is_no_conflict(site, recwarn):
    module = site.install("tone", good("tone"), distribution="tone", version="1.0")
    info = site.folder / "tone-1.1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: tone\nVersion: 1.1\n")
    (info / "entry_points.txt").write_text(f"[flowgen]\ntone = {module}\n")
    found = Registry()
    assert found.get("path", "tone-path")
    assert not [w for w in recwarn if "left out" in str(w.message)]


def test_a_disabled_plugin_is_not_even_imported(site, monkeypatch):
    site.install("poison", "raise SystemExit('imported')")
    site.install("tone", good("tone"))
    monkeypatch.setenv("FLOWGEN_DISABLE", " poison ,")
    found = Registry()
    assert "poison" not in found.plugins
    assert found.get("path", "tone-path")


def test_the_order_does_not_depend_on_the_file_system(site):
    for name in ("c", "a", "b"):
        site.install(name, good(name))
    assert [name for name in Registry().plugins if len(name) == 1] == ["a", "b", "c"]


def test_a_target_that_is_no_import_string_is_refused():
    with pytest.raises(UsageError, match=r"expected 'package.module:attribute', got 'flowgen\.core\.paths\.Linear'"):
        Component("path", "x", "flowgen.core.paths.Linear")


@pytest.mark.parametrize("target", ["flowgen.nothing:X", "flowgen.core.paths:Nothing"])
def test_a_component_that_cannot_be_loaded_says_where_it_is_from(target):
    with pytest.raises(FlowgenError, match=f"path 'x' cannot be loaded from '{target}'"):
        Component("path", "x", target).load()


def python(code: str, folder) -> subprocess.CompletedProcess:
    path = os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, "PYTHONPATH": path}
    )


PROGRAM = """
import runpy, sys
sys.argv = ["flowgen", *{arguments!r}]
try:
    runpy.run_module("flowgen", run_name="__main__")
except SystemExit as error:
    assert not error.code, error.code
found = [name for name in {modules!r} if name in sys.modules]
assert not found, found
"""
HEAVY = ["torch", "numpy", "scipy", "deepspeed", "matplotlib", "pydantic"]


@pytest.mark.parametrize("arguments", [["--help"], ["plugins", "--help"], ["plugins", "list"]])
def test_help_and_listing_import_nothing_heavy(site, arguments):
    site.install("tone", good("tone"))
    done = python(PROGRAM.format(arguments=arguments, modules=HEAVY), site.folder)
    assert done.returncode == 0, done.stderr
    assert ("tone-path" in done.stdout) == (arguments == ["plugins", "list"])


def test_help_loads_no_plugin(site):
    site.install("poison", "raise SystemExit('imported')")
    done = python(PROGRAM.format(arguments=["--help"], modules=["flowgen.plugins.registry"]), site.folder)
    assert done.returncode == 0, done.stderr


def test_the_program_survives_a_broken_plugin_and_says_so_in_one_line(site):
    site.install("broken", "import nope_nope")
    done = python(PROGRAM.format(arguments=["plugins", "list"], modules=[]), site.folder)
    assert done.returncode == 0
    assert done.stderr.count("\n") == 1
    assert "flowgen: warning: plugin 'broken' (dist-broken) is left out" in done.stderr
    assert "left out: ModuleNotFoundError" in done.stdout

"""The public names carry their types: a type checker finds a user's mistakes in a user's file."""

import ast
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import flowgen

ROOT = Path(__file__).parents[1]
USER = """
import flowgen
from flowgen import FromNoise, Generator, Inpaint, Vary

flowgen.sample(1, 2, 3, sovler="x")  # Unexpected keyword argument "sovler" for "sample"; Argument 1 to "sample" has incompatible type "int"
flowgen.FlowMatching(path=3)  # Argument "path" to "FlowMatching" has incompatible type "int"
flowgen.uniform_grid("16")  # Argument 1 to "uniform_grid" has incompatible type "str"
flowgen.Heun(order=2)  # Unexpected keyword argument "order"
generator = Generator.load(5)  # Argument 1 to "load" of "Generator" has incompatible type "int"
generator.sample([{}], sovler="heun")  # Unexpected keyword argument "sovler" for overloaded function "sample"
generator.sample(Vary(3))  # Argument 1 to "Vary" has incompatible type "int"
generator.sample(FromNoise(secnds=2.0))  # Unexpected keyword argument "secnds"
clips: list[int] = generator.sample([{}])  # Incompatible types in assignment
flowgen.Linaer()  # Module has no attribute "Linaer"
generator.sample(Inpaint("a.wav", start_s=0.1), on_step=print)
generator.sample([{"digit": 3}], seed=1, seconds=2.0)
flowgen.build("solver", "heun").step
"""


def test_mypy_finds_mistakes_in_a_users_file(tmp_path):
    """Without the packages that flowgen rests on, whose types are not what is tested."""
    (tmp_path / "user.py").write_text(USER)
    options = ["--no-site-packages", "--ignore-missing-imports", "--follow-imports=silent", "--hide-error-context"]
    done = subprocess.run(
        [sys.executable, "-m", "mypy", *options, "--cache-dir", tmp_path / "cache", "user.py"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={"MYPYPATH": str(ROOT), "PATH": ""},
    )
    found = {}
    for line in done.stdout.splitlines():
        if ": error: " in line:
            found.setdefault(int(line.split(":")[1]), []).append(line)
    for number, line in enumerate(USER.splitlines(), 1):
        wanted = [text.strip() for text in line.partition("  # ")[2].split(";")] if "  # " in line else []
        said = "\n".join(found.get(number, []))
        assert bool(said) == bool(wanted), f"{line}\n{said}\n{done.stderr}"
        for text in wanted:
            assert text in said
    assert len([line for line in USER.splitlines() if "  # " in line]) == len(found) == 10


def test_every_public_name_is_there():
    """Each name stands twice, for type checkers and by its home, and both are one."""
    block = next(node for node in ast.parse(Path(flowgen.__file__).read_text()).body if isinstance(node, ast.If))
    typed = {alias.asname: f"{node.module}" for node in block.body for alias in node.names}
    assert sorted(typed) == flowgen.__all__
    for name, module in typed.items():
        assert getattr(flowgen, name) is getattr(import_module(module), name)


def test_components_are_built_by_kind_and_name():
    assert isinstance(flowgen.build("solver", "heun"), flowgen.Heun)
    assert flowgen.build("path", {"type": "vp", "beta_max": 10}) == flowgen.VP(beta_max=10)
    with pytest.raises(flowgen.UsageError, match="path 'vp': beta_mxa: extra inputs are not permitted"):
        flowgen.build("path", {"type": "vp", "beta_mxa": 10})
    with pytest.raises(flowgen.UsageError, match="unknown solver 'huen'; did you mean 'heun'"):
        flowgen.build("solver", "huen")
    with pytest.raises(flowgen.UsageError, match="solver: expected the name of a component"):
        flowgen.build("solver", {"steps": 2})

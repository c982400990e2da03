"""What comes from outside: tested versions, nothing unpickled, no network unless asked for."""

from __future__ import annotations

import ast
import configparser
import json
import os
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
LOCK = ROOT / "constraints" / "python{}.{}.txt".format(*sys.version_info)
SOURCES = sorted(p for folder in ("flowgen", "modalities", "plugins", "configs") for p in (ROOT / folder).rglob("*.py"))


@pytest.mark.skipif(not LOCK.is_file(), reason="no versions are pinned for this Python")
def test_a_tested_version_is_pinned_of_all_that_is_needed():
    versions = runpy.run_path(str(ROOT / "constraints" / "versions.py"))
    pinned = versions["written"](LOCK)
    missing = versions["installed"]().keys() - pinned.keys()
    assert not missing, f"run: python constraints/versions.py > constraints/{LOCK.name}"
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    asked = [Requirement(line) for line in config["options"]["install_requires"].split("\n") if line]
    assert {"torch", "deepspeed", "numpy", "safetensors"} <= {need.name for need in asked}
    assert [need for need in asked if not need.specifier.contains(pinned[canonicalize_name(need.name)])] == []


def test_a_wheel_built_twice_is_the_same_file(tmp_path):
    """Of one commit, in another folder and at another time: SOURCE_DATE_EPOCH is what `make wheel` sets."""
    pytest.importorskip("setuptools")
    pip = [
        sys.executable,
        *["-m", "pip", "wheel", "--quiet", "--disable-pip-version-check", "--no-deps", "--no-build-isolation"],
    ]
    parts = ("flowgen", "modalities", "configs", "setup.cfg", "pyproject.toml", "README.md", "LICENSE")
    wheels = []
    for name, hour in (("one", 0), ("another", 5000)):
        source = tmp_path / name / "source"
        for part in parts:
            ignored = shutil.ignore_patterns("__pycache__", "*.egg-info", ".*")
            path = ROOT / part
            shutil.copytree(path, source / part, ignore=ignored) if path.is_dir() else shutil.copy(path, source / part)
        for path in source.rglob("*"):
            os.utime(path, (1.7e9 + hour, 1.7e9 + hour))
        environment = {**os.environ, "SOURCE_DATE_EPOCH": "1700000000"}
        subprocess.run([*pip, "-w", tmp_path / name, source], check=True, env=environment, cwd=tmp_path)
        wheels += (tmp_path / name).glob("*.whl")
    one, another = wheels
    assert one.name == another.name
    assert one.read_bytes() == another.read_bytes()


LOADERS = {"pickle", "_pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal"}


def unpickling(source: str) -> list[str]:
    """The calls in a module that may run code out of a file."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.module in LOADERS:
            found += [f"{node.module}.{a.name}" for a in node.names if a.name not in ("dumps", "UnpicklingError")]
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        options = {k.arg: ast.unparse(k.value) for k in node.keywords}
        module, _, function = name.rpartition(".")
        if (
            (module in LOADERS and function not in ("dump", "dumps"))
            or (name in ("torch.load", "th.load") and options.get("weights_only") != "True")
            or (module in ("np", "numpy") and options.get("allow_pickle", "False") != "False" and function == "load")
            or (module == "yaml" and function.endswith(("load", "load_all")) and not function.startswith("safe_"))
            or function in ("read_pickle", "load_state_dict_from_url")
            or (module == "torch.hub" and function == "load")
            or options.get("trust_remote_code", "False") != "False"
            or name in ("eval", "exec")
        ):
            found.append(f"line {node.lineno}: {ast.unparse(node)}")
    return found


@pytest.mark.parametrize(
    "line",
    [
        "pickle.load(f)",
        "pickle.Unpickler(f)",
        "from pickle import loads",
        "torch.load(p)",
        "torch.load(p, weights_only=False)",
        "np.load(p, allow_pickle=True)",
        "yaml.load(t, Loader=L)",
        "yaml.unsafe_load(t)",
        "joblib.load(p)",
        "pd.read_pickle(p)",
        "torch.hub.load('a/b', 'c')",
        "M.from_pretrained(p, trust_remote_code=True)",
        "eval(t)",
    ],
)
def test_what_may_run_code_is_seen(line):
    assert len(unpickling(line)) == 1


def test_nothing_is_loaded_that_may_run_code():
    fine = "pickle.dumps(x); torch.load(p, weights_only=True); np.load(p); yaml.safe_load(t); model.eval()"
    assert unpickling(fine) == []
    assert {str(p.relative_to(ROOT)): found for p in SOURCES if (found := unpickling(p.read_text()))} == {}
    assert len(SOURCES) > 150


OFFLINE = """
import os, socket, sys
_OWN = {"localhost", "", "0.0.0.0", "::", "::1", socket.gethostname(), socket.getfqdn()}

def _watch(event, arguments):
    if event == "socket.connect" or event in ("socket.sendto", "socket.sendmsg"):
        address = arguments[1]
        host = address[0] if isinstance(address, tuple) else None
    elif event in ("socket.getaddrinfo", "socket.gethostbyname"):
        host = arguments[0]
    else:
        return
    host = host.decode() if isinstance(host, bytes) else host
    if host is not None and host not in _OWN and not host.startswith("127."):
        with open(os.environ["ATTEMPTS"], "a") as file:
            print(event, arguments, file=file)
        raise OSError(f"no network in this test: {event} {arguments}")

with open(os.environ["ATTEMPTS"] + ".watched", "a") as file:
    print(os.environ.get("RANK", "-"), file=file)
sys.addaudithook(_watch)
"""


@pytest.mark.slow
def test_training_and_sampling_ask_no_network(tmp_path):
    """In every process of it: the launcher, two ranks, the loaders of data and the sampler."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(OFFLINE)
    attempts, watched = tmp_path / "attempts", tmp_path / "attempts.watched"
    path = os.pathsep.join([str(tmp_path / "site"), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": path, "ATTEMPTS": str(attempts), "OMP_NUM_THREADS": "1"}

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, *arguments]
        return subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=240)

    refused = run("-c", "import socket; socket.create_connection(('192.0.2.1', 80), 1)")
    assert "no network in this test" in refused.stderr
    attempts.unlink()
    small = ["train.steps=2", "network.width=8", "network.depth=1", "train.workers=1", "sample.steps=2"]
    trained = run("-m", "flowgen", "train", "points/checkerboard", "run=run", *small, "--gpus", "2", "--quiet")
    assert trained.returncode == 0, trained.stderr[-3000:]
    sampled = run("-m", "flowgen", "sample", "run", "-n", "2", "-o", "out.csv", "--device", "cpu")
    assert sampled.returncode == 0, sampled.stderr[-3000:]
    assert json.loads((tmp_path / "run" / "log.jsonl").read_text().splitlines()[-1])["step"] == 2
    assert {"0", "1"} <= set(watched.read_text().split())
    assert not attempts.exists(), attempts.read_text()

"""The tests of a plugin run where it is installed: `make test` installs each from its folder."""

from importlib import metadata
from pathlib import Path

HERE = Path(__file__).parent


def _installed(name: str) -> bool:
    try:
        metadata.distribution(name.replace("_", "-"))
    except metadata.PackageNotFoundError:
        return False
    return True


_absent = sorted(folder.name for folder in HERE.glob("flowgen_*") if not _installed(folder.name))
collect_ignore = _absent


def pytest_report_header() -> list[str]:
    return [f"not installed, so not tested: plugins/{name}" for name in _absent]

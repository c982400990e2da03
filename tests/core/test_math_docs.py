"""The page on the mathematics runs, and its pictures are there."""

import re
from pathlib import Path

import pytest
import torch

PAGE = Path(__file__).parents[2] / "docs" / "math.md"


def test_its_code_runs_from_top_to_bottom():
    code = "\n".join(re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL))
    names = {}
    exec(compile(code, str(PAGE), "exec"), names)
    gap = names["found"].log_prob - names["mixture"].log_prob(names["clip"][:8])
    assert float(gap.abs().max()) < 1e-4  # as the page says
    torch.testing.assert_close(names["kept"][:, 0], names["clip"][:, 0], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("picture", re.findall(r"\]\((images/[^)]+)\)", PAGE.read_text()))
def test_its_pictures_are_there_and_small(picture):
    file = PAGE.parent / picture
    kind, bound = {".png": (b"\x89PNG", 60_000), ".gif": (b"GIF89a", 200_000)}[file.suffix]
    assert file.read_bytes().startswith(kind)
    assert file.stat().st_size < bound

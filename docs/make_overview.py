"""The picture of the README, from the runs that `make demo` trained.

python docs/make_overview.py [runs/demo]
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from PIL import Image

from flowgen.runs.generator import Generator

ASKED = {
    "audio": [
        {"pitch": "C4", "timbre": "flute"},
        {"pitch": "E4", "timbre": "clarinet"},
        {"pitch": "G4", "timbre": "brass"},
        {"pitch": "C5", "timbre": "marimba"},
    ],
    "video": [{"digit": 3, "direction": "right"}, {"digit": 5, "direction": "down"}, {"digit": 8, "direction": "left"}],
}
WIDTH = 1000


def main(demo: Path, output: Path) -> None:
    sheets = []
    with tempfile.TemporaryDirectory() as folder:
        for name, asked in ASKED.items():
            generator = Generator.load(demo / name)
            path = Path(folder) / f"{name}.png"
            captions = [", ".join(f"{k} {v}" for k, v in conditions.items()) for conditions in asked]
            generator.modality.sheet(generator.sample(asked, seed=5), path, captions)
            with Image.open(path) as image:
                sheets.append(
                    image.convert("RGB").resize(
                        (WIDTH, round(image.height * WIDTH / image.width)), Image.Resampling.LANCZOS
                    )
                )
    page = Image.new("RGB", (WIDTH, sum(s.height for s in sheets) + 12), "white")
    top = 0
    for sheet in sheets:
        page.paste(sheet, (0, top))
        top += sheet.height + 12
    output.parent.mkdir(parents=True, exist_ok=True)
    page.quantize(128).save(output, optimize=True)


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "runs/demo"), Path(__file__).parent / "images" / "overview.png")

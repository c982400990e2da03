"""The page itself."""

from __future__ import annotations

import datetime
import inspect
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from urllib.parse import quote

from jinja2 import Environment, StrictUndefined, UndefinedError

from flowgen import __version__
from flowgen.config import Config, dumps, in_force
from flowgen.errors import FlowgenError
from flowgen.evaluation import Evaluation, figure
from flowgen.files import replacing
from flowgen.plugins import registry
from flowgen.report.curves import Chart
from flowgen.report.showcase import Showcase


@dataclass(frozen=True)
class Section:
    """One run on the page."""

    name: str
    config: Config
    showcase: Showcase
    chart: Chart | None = None
    evaluation: Evaluation | None = None
    facts: dict[str, str] = field(default_factory=dict)
    """What a person would like to know first, by name."""
    commands: tuple[str, ...] = ()
    """How to train it and sample from it by hand."""

    @property
    def config_text(self) -> str:
        return dumps(in_force(self.config))

    @property
    def explanations(self) -> dict[str, str]:
        """What each metric measures, in its own words."""
        names = dict.fromkeys(row.metric for row in self.evaluation.rows) if self.evaluation else {}
        return {n: inspect.getdoc(registry().get("metric", n).load()) or "" for n in names}


def write_report(path: Path, sections: Sequence[Section], title: str) -> Path:
    """Write the page. It names its media by paths relative to itself. FlowgenError: it cannot be written."""

    def link(showcase: Showcase, name: str) -> str:
        relative = (showcase.folder / name).resolve().relative_to(path.resolve().parent)
        return quote(relative.as_posix())

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["figure"] = figure
    environment.filters["kind"] = lambda media_type: media_type.partition("/")[0]
    template = environment.from_string(resources.files("flowgen.report").joinpath("report.html").read_text("utf-8"))
    today = datetime.date.today()
    try:
        page = template.render(title=title, sections=sections, link=link, version=__version__, today=today)
    except (UndefinedError, TypeError) as error:  # an eval.json that flowgen did not write
        raise FlowgenError(
            f"cannot show an evaluation ({error}); write each eval.json of {title} again with: flowgen eval RUN"
        ) from error
    with replacing(path) as temporary:
        temporary.write_text(page.lstrip(), encoding="utf-8")
    return path

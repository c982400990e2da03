"""The HTML report of one or more runs: clips to play, what was asked and what came out, curves, figures, settings."""

from flowgen.report.build import section
from flowgen.report.page import Section, write_report
from flowgen.report.showcase import Showcase, Shown, make_showcase

__all__ = ["Section", "Showcase", "Shown", "make_showcase", "section", "write_report"]

"""A medium of two streams for flowgen: a melody, and a light that follows it. Nothing heavy is imported here."""

from pathlib import Path

from flowgen import Component, hookimpl

FLOWGEN_API = 2


@hookimpl
def flowgen_components() -> list[Component]:
    return [
        Component("modality", "duet", "flowgen_duet_parts:Duet", "a melody and a light (json)"),
        Component("dataset", "duets", "flowgen_duet_parts:Duets", "lights that show the mean of a melody"),
        Component("encoder", "curve", "flowgen_duet_parts:CurveEncoder", "one curve, scaled to unit variance"),
    ]


@hookimpl
def flowgen_recipes() -> Path:
    return Path(__file__).parent / "recipes"

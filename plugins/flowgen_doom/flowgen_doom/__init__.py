"""Doom for flowgen: data sets of game video and of its sound, with what the player does as condition. Imports nothing heavy."""

from pathlib import Path

from flowgen import Component, hookimpl

FLOWGEN_API = 2


@hookimpl
def flowgen_components() -> list[Component]:
    return [
        Component("dataset", "doom", "flowgen_doom.datasets:Doom", "game video by action, played as it is asked for"),
        Component("dataset", "doom-sound", "flowgen_doom.datasets:DoomSound", "the sound of the game by action"),
    ]


@hookimpl
def flowgen_recipes() -> Path:
    return Path(__file__).parent / "recipes"

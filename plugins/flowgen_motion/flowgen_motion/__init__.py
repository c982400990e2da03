"""Human motion for flowgen: fifteen joints moving in space. Nothing heavy is imported here."""

from pathlib import Path

from flowgen import Component, hookimpl

FLOWGEN_API = 2


@hookimpl
def flowgen_components() -> list[Component]:
    return [
        Component("modality", "motion", "flowgen_motion.modality:Motion", "people as 15 joints (animated gif)"),
        Component("dataset", "mocap", "flowgen_motion.mocap:Mocap", "real recordings of 14 actions, from pybullet"),
        Component("encoder", "joints", "flowgen_motion.encoder:Joints", "positions of joints, in metres, normalised"),
        Component(
            "metric", "bodies", "flowgen_motion.metrics:Bodies", "do limbs keep their length, and joints above ground?"
        ),
        Component("metric", "action", "flowgen_motion.metrics:Action", "is the nearest recording of the asked action?"),
    ]


@hookimpl
def flowgen_recipes() -> Path:
    return Path(__file__).parent / "recipes"

"""Points of the plane: the smallest modality, and the one to copy from. Nothing heavy is imported here."""

from flowgen.plugins import Component, hookimpl


@hookimpl
def flowgen_components() -> list[Component]:
    return [
        Component(
            "modality", "points", "flowgen_points.modality:Points", "points of the plane: scatter plots, npy, csv"
        ),
        Component(
            "dataset", "checkerboard", "flowgen_points.datasets:Checkerboard", "the filled squares of a 4x4 board"
        ),
        Component("dataset", "ring", "flowgen_points.datasets:Ring", "Gaussians on a circle, by class"),
        Component("dataset", "moons", "flowgen_points.shapes:Moons", "two half circles, by class"),
        Component("dataset", "spirals", "flowgen_points.shapes:Spirals", "two spirals, by class"),
        Component("dataset", "picture", "flowgen_points.shapes:Picture", "points where a picture is dark"),
        Component("dataset", "points-file", "flowgen_points.datasets:PointsFile", "the points of an npy or csv file"),
        Component("encoder", "points", "flowgen_points.encoder:ScaledPoints", "points at about unit variance"),
        Component("metric", "checkerboard", "flowgen_points.metrics:CheckerboardShare", "share on the filled squares"),
    ]

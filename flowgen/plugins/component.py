"""A component: something a config can name."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

from flowgen.errors import FlowgenError, UsageError, unknown
from flowgen.plugins.contain import contained
from flowgen.plugins.moved import moved_hint


@dataclass(frozen=True)
class Kind:
    """A kind of component: what it is, and the arguments flowgen itself passes before the options of the config."""

    name: str
    summary: str
    contract: str
    """What a component of this kind has to be, as an import string."""
    given: tuple[str, ...] = ()
    abilities: tuple[str, ...] = ()
    """What it may offer besides: runtime-checkable protocols, as import strings."""


_MEDIA = "flowgen.media.interfaces:"


def _abilities(*names: str) -> tuple[str, ...]:
    return tuple(_MEDIA + name for name in names)


KINDS = {
    kind.name: kind
    for kind in (
        Kind(
            "modality",
            "a medium: reads, writes and shows clips",
            "flowgen.media.interfaces:Modality",
            abilities=_abilities(
                *(
                    "TimedModality",
                    "ComparesContinuations",
                    "ComparesReconstructions",
                    "Animated",
                    "DrawsField",
                    "Levelled",
                    "HasLevel",
                    "ReadsMany",
                    "WritesSequences",
                ),
                *("SplitsRecordings", "MeasuresRecordings", "ShowsRecordings", "SeveralStreams"),
            ),
        ),
        Kind(
            "dataset",
            "clips by index",
            "flowgen.media.interfaces:Dataset",
            ("modality",),
            _abilities(
                *(
                    "Endless",
                    "Keyed",
                    "ManyClips",
                    "Bucketed",
                    "FullSize",
                    "Reports",
                    "ToleratesBad",
                    "Identified",
                    "ReplacesFailed",
                ),
                *("Fingerprinted", "Labelled", "DecodesWhole", "CropsRecordings"),
            ),
        ),
        Kind(
            "encoder",
            "clips to latents and back",
            "flowgen.media.encoder:Encoder",
            ("modality",),
            _abilities("KnownLengths", "SeesBeyondCuts", "HadOtherDefaults", "MarksMasks"),
        ),
        Kind(
            "network",
            "a velocity network",
            "flowgen.media.interfaces:Network",
            ("spec", "conditions", "inputs", "modality"),
            (
                *_abilities("RepeatedBlocks", "KeepsFloat32", "Patched", "Extensible", "ShardsSequence", "OwnTimes"),
                "flowgen.core.interfaces:Autoencoder",
                "flowgen.core.interfaces:CausalAutoencoder",
                "flowgen.core.interfaces:StartsFromData",
            ),
        ),
        Kind(
            "conditioner",
            "raw conditions to what a network takes",
            "flowgen.media.conditions:Conditioner",
            abilities=_abilities("Resolves", "BringsEmbedder", "ReadsText"),
        ),
        Kind(
            "region",
            "a known region: a part of a clip that is given",
            "flowgen.media.regions:Region",
            abilities=_abilities("NamesStream"),
        ),
        Kind(
            "path",
            "a probability path from noise to data",
            "flowgen.core.interfaces:Path",
            abilities=("flowgen.core.interfaces:BoundsVelocity",),
        ),
        Kind(
            "times",
            "a distribution of training times",
            "flowgen.core.interfaces:Times",
            abilities=("flowgen.core.interfaces:LeavesOutEnds",),
        ),
        Kind(
            "coupling",
            "which noise goes with which data",
            "flowgen.core.interfaces:Coupling",
            abilities=tuple(f"flowgen.core.interfaces:{name}" for name in ("SourceCoupling", "DrawsPairs", "Bridge")),
        ),
        Kind(
            "loss",
            "a training objective",
            "flowgen.core.interfaces:Loss",
            ("path", "times", "coupling", "shift", "modality"),
            (
                *(
                    f"flowgen.core.interfaces:LossWith{what}"
                    for what in ("Inputs", "Teacher", "Pairs", "Average", "Balance", "Limits", "Groups")
                ),
                "flowgen.core.interfaces:ReconstructionLoss",
            ),
        ),
        Kind(
            "bottleneck",
            "what an autoencoder's latent is made by",
            "flowgen.core.interfaces:Bottleneck",
            ("channels",),
            ("flowgen.core.interfaces:Quantised",),
        ),
        Kind("optimizer", "what steps the weights", "flowgen.training.optimizers:MakeOptimizer", ("parts",)),
        Kind("solver", "one step of sampling", "flowgen.core.interfaces:Solver"),
        Kind("guidance", "a wrapper around a flow", "flowgen.core.interfaces:Guidance", ("encoder",)),
        Kind(
            "metric",
            "a measure of generated clips",
            "flowgen.media.interfaces:Metric",
            ("modality", "dataset", "encoder"),
            _abilities("Resampled", "Graded", "Judging", "DrawsFound"),
        ),
        Kind(
            "logger",
            "where the figures of a training run go",
            "flowgen.training.loggers:Logger",
            ("folder",),
            _abilities("Rewinds"),
        ),
        Kind(
            "writer",
            "another file type of a modality, named MODALITY.EXTENSION",
            "flowgen.plugins.media:Writer",
            ("modality", "clips", "path", "metadata"),
        ),
    )
}


@dataclass(frozen=True)
class Component:
    """`target` ("package.module:attribute") is imported when the component is first used."""

    kind: str
    name: str
    target: str
    summary: str = ""
    renamed: Mapping[str, str] = field(default_factory=dict)
    """Options by the name they had, with the one they have now: refused with that in a config, understood in a run's own."""
    still_read: Mapping[str, str] = field(default_factory=dict)
    """Those of `renamed` that every config may use; a warning gives the new name."""

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise UsageError(unknown("kind of component", self.kind, KINDS))
        if ":" not in self.target:
            raise UsageError(f"{self.kind} {self.name!r}: expected 'package.module:attribute', got {self.target!r}")

    def load(self) -> Any:
        """Import what the component names."""
        module, _, attribute = self.target.partition(":")
        try:
            if module in sys.modules:
                return getattr(import_module(module), attribute)
            with contained(f"{self.kind} {self.name!r} ({module})", "while it was imported"):
                return getattr(import_module(module), attribute)
        except FlowgenError:
            raise
        except Exception as error:  # whatever a stranger's module raises when imported
            raise FlowgenError(
                f"{self.kind} {self.name!r} cannot be loaded from {self.target!r}: {type(error).__name__}: {error}"
                f"{moved_hint(error)}"
            ) from error

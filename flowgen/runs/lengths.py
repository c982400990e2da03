"""Lengths that encoder and network take: the nearest ones above what is asked for, and back to it after sampling."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from flowgen.core.tree import State, leaves, tree_map
from flowgen.errors import UsageError
from flowgen.media.clip import Clip
from flowgen.media.encoder import Encoder
from flowgen.media.interfaces import KnownLengths, Modality, Patched, TimedModality
from flowgen.media.streams import Spec, StreamSpec

_LONGEST_S = 1e7
_ACTIVATIONS = 32
"""Numbers that a network holds for each number of the latent, at the least."""
_SUBSTEPS = 32
"""Lengths tried within one latent step: an encoder may take only some numbers of frames."""


@dataclass(frozen=True)
class Lengths:
    """The lengths that a run can sample, in seconds.

    Args:
        network: may take only sizes that its patch divides.
    """

    modality: Modality
    encoder: Encoder
    network: Any

    @property
    def trained(self) -> State:
        """The shape of a latent as trained, without the batch (by stream, where there are several)."""
        return tree_map(lambda spec: spec.shape, self.encoder.spec)

    @property
    def timed(self) -> bool:
        """Whether clips may have another length than the one trained on."""
        return isinstance(self.encoder, KnownLengths)

    @property
    def window_s(self) -> float:
        """Length of a clip as trained."""
        axis = _first(self.encoder.spec).axes[0]
        return axis.size / axis.rate

    def at_least(self, seconds: float) -> tuple[float, Any]:
        """The shortest length from `seconds` on that fits, and the shape of its latent. Says so where it is longer, or longer
        than what the run was trained on.

        Raises UsageError: no length can be chosen, or none near this one fits.
        """
        if not self.timed:
            raise UsageError(f"the encoder {type(self.encoder).__name__} has no length in seconds to choose")
        if not 0 < seconds <= _LONGEST_S:
            raise UsageError(f"a length lies above 0 and up to {_LONGEST_S:g} s, got {seconds:g}")
        fitting = self._nearest(seconds, 1)
        if fitting is None:
            raise UsageError(f"no length near {seconds:g} s fits the patch of the network and the encoder")
        shape = self._shape(fitting)
        self.check_memory(seconds, sum(4 * _ACTIVATIONS * math.prod(leaf) for leaf in leaves(shape)))
        if seconds > self.window_s * 1.01:
            warnings.warn(
                f"{seconds:g} s are {seconds / self.window_s:.1f} times the {self.window_s:g} s trained on, and may not hold "
                f"together; --long SECONDS makes longer clips window by window",
                stacklevel=2,
            )
        if fitting > seconds + 1e-9:
            warnings.warn(
                f"{seconds:g} s are sampled as {fitting:.4g} s, which the model takes, and cut back", stacklevel=2
            )
        return fitting, shape

    def check_memory(self, seconds: float, needed: int) -> None:
        """UsageError: a length needs more bytes than this machine has."""
        there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        if needed > there:
            raise UsageError(
                f"{seconds:g} s at once need about {needed / 2**30:,.0f} GB of memory, and this machine has {there / 2**30:.0f}; "
                f"ask for less"
            )

    def padded(self, clip: Clip) -> tuple[Clip, float]:
        """A clip made long enough to fit, by holding its last moment, and the length it had."""
        modality = self.modality
        if not isinstance(modality, TimedModality) or not self.timed:
            return clip, 0.0
        seconds = modality.seconds(clip)
        return self.held(clip, self.at_least(seconds)[0]), seconds

    def held(self, clip: Clip, seconds: float) -> Clip:
        """A clip prolonged to `seconds` by holding its last moment."""
        modality = self.modality
        if not isinstance(modality, TimedModality) or modality.seconds(clip) >= seconds - 1e-9:
            return clip
        length = modality.seconds(clip)
        moment = modality.cut(clip, max(0.0, length - 1 / _first(self.encoder.spec).axes[0].rate), length)
        moments = int((seconds - length) / modality.seconds(moment)) + 2
        return modality.cut(modality.join([clip, *[moment] * moments]), 0.0, seconds)

    def end_within(self, clip: Clip, seconds: float) -> Clip:
        """The last `seconds` of a clip, or the most of them that the encoder takes."""
        return self._part(clip, seconds, lambda s, length: (length - s, length))

    def beginning_within(self, clip: Clip) -> Clip:
        """As much of a clip, from its beginning, as the encoder takes."""
        return self._part(clip, None, lambda s, length: (0.0, s))

    def cut_back(self, clip: Clip, seconds: float | None) -> Clip:
        """A sample cut to the length that was asked for. UsageError: nothing is left of it."""
        modality = self.modality
        if seconds is None or not isinstance(modality, TimedModality):
            return clip
        longer = modality.seconds(clip) > seconds + 1e-9
        if not longer and not isinstance(clip.data, Mapping):  # of several streams any may have been rounded up
            return clip
        cut = modality.cut(clip, 0.0, seconds)
        if not modality.seconds(cut):
            raise UsageError(f"{seconds:g} s is less than one step in time of this medium; ask for more")
        return cut

    def _part(self, clip: Clip, seconds: float | None, span: Callable[[float, float], tuple[float, float]]) -> Clip:
        modality = self.modality
        assert isinstance(modality, TimedModality)
        length = modality.seconds(clip)
        wanted = length if seconds is None else min(seconds, length)
        fitting = self._nearest(wanted, -1, patched=False) if self.timed else wanted
        if fitting is None or fitting >= length - 1e-9:
            return clip
        return modality.cut(clip, *span(fitting, length))

    def _nearest(self, seconds: float, direction: int, *, patched: bool = True) -> float | None:
        """The nearest length in a direction that the encoder, and with `patched` the network, takes."""
        patch = self._patch() if patched else None
        step = 1 / (_SUBSTEPS * _first(self.encoder.spec).axes[0].rate)
        reach = _SUBSTEPS * 2 * max([1, *(p[0] for p in leaves(patch) if p)] if patch else [1])
        refusal: UsageError | None = None
        for k in range(reach + 1):
            candidate = seconds + direction * k * step
            try:
                shape = self._shape(candidate)
            except UsageError as error:
                refusal = refusal or error
                continue
            if patch is None or _divides(patch, shape):
                return candidate
        if refusal is not None and direction > 0:
            raise refusal
        return None

    def _shape(self, seconds: float) -> Any:
        assert isinstance(self.encoder, KnownLengths)
        return self.encoder.latent_shape(seconds)

    def _patch(self) -> Any:
        return self.network.patch if isinstance(self.network, Patched) else None


def _divides(patch: Any, shape: Any) -> bool:
    fits = tree_map(lambda s, p: all(n % size == 0 for n, size in zip(s, p, strict=False)), shape, patch)
    return all(leaves(fits))


def _first(spec: Spec) -> StreamSpec:
    """The stream whose steps in time lengths are counted in: the first that has any."""
    if isinstance(spec, StreamSpec):
        return spec
    timed = (stream for stream in spec.values() if stream.axes and stream.axes[0].name == "time")
    return next(timed, next(iter(spec.values())))

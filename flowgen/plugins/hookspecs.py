"""Every hook a plugin can implement: the plugin author's table of contents.

A plugin is a module named by an entry point of the group `flowgen`. It implements hooks with `@flowgen.hookimpl` and
imports nothing heavy at its top: what it brings is named by import strings.
"""

from __future__ import annotations

from collections.abc import Iterable

import pluggy

from flowgen.plugins.component import Component

GROUP = "flowgen"
hookspec = pluggy.HookspecMarker(GROUP)
hookimpl = pluggy.HookimplMarker(GROUP)


class Hooks:
    """The hooks, in the order in which they are called."""

    @hookspec
    def flowgen_components(self) -> Iterable[Component]:  # type: ignore[empty-body]
        """The components a plugin brings, each by kind, name and import string.

        @hookimpl
        def flowgen_components():
            return [Component("encoder", "tone", "flowgen_tone.encoder:ToneEncoder", "sine tones as phase and pitch")]
        """

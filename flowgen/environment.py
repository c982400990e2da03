"""What the environment says of plugins, without importing any."""

from __future__ import annotations

import os


def disabled_plugins() -> set[str]:
    """The names that FLOWGEN_DISABLE="a,b" leaves out."""
    return {name.strip() for name in os.environ.get("FLOWGEN_DISABLE", "").split(",")} - {""}

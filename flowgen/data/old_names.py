"""What data sets were written with in 0.1: arguments by other names."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from flowgen.errors import UsageError

_Class = TypeVar("_Class", bound=type)


def renamed(names: Mapping[str, str]) -> Callable[[_Class], _Class]:
    """A class whose constructor takes arguments by an old name, too, and warns with the new one.

    UsageError, when it is called: both names are given.
    """

    def decorate(cls: _Class) -> _Class:
        constructor: Callable[..., None] = cls.__init__  # type: ignore[misc]

        @functools.wraps(constructor)
        def __init__(self: Any, *args: Any, **options: Any) -> None:
            for old, new in names.items():
                if old not in options:
                    continue
                if new in options:
                    raise UsageError(f"{old} is called {new} now, and both are given; leave out {old}")
                warnings.warn(f"{old} is called {new} now, and read as that; rename it", stacklevel=2)
                options[new] = options.pop(old)
            constructor(self, *args, **options)

        cls.__init__ = __init__  # type: ignore[misc]
        return cls

    return decorate

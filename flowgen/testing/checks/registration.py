"""Registration costs nothing and promises nothing that is not there."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

from pydantic import ValidationError

from flowgen.config import options_model
from flowgen.errors import FlowgenError
from flowgen.testing.contract import NotApplicable, checks_for

check = checks_for("plugin")

HEAVY = ("torch", "numpy", "scipy", "deepspeed", "matplotlib", "pandas", "PIL", "av", "soundfile", "sklearn", "cv2")


@check(
    "importing a plugin's module imports nothing heavy: what it brings is named by import strings",
    see="registration",
)
def import_is_light(s: Any) -> str | None:
    for plugin in s.plugins:
        code = f"import sys, {plugin.module}; print(*[m for m in {HEAVY!r} if m in sys.modules])"
        path = os.pathsep.join(p for p in sys.path if p)
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, "PYTHONPATH": path}
        )
        if done.returncode:
            return f"{plugin.module} cannot be imported by itself: {done.stderr.strip().splitlines()[-1]}"
        if done.stdout.strip():
            return f"import {plugin.module} (plugin {plugin.name!r}) imports {', '.join(done.stdout.split())}"
    return None


@check(
    "every component that is registered can be loaded, says in a docstring what it is, and has a summary",
    see="registration",
)
def components_load(s: Any) -> str | None:
    for plugin in s.plugins:
        for component in plugin.components:
            if not (component.load().__doc__ or "").strip():
                return f"{component.kind} {component.name!r} ({component.target}) has no docstring"
            if not component.summary:
                return f"{component.kind} {component.name!r} has no summary in flowgen_components"
    return None


@check("a component's options are its signature: each has a type, and an unknown one is an error", see="options")
def options_are_typed(s: Any) -> str | None:
    for plugin in s.plugins:
        for component in plugin.components:
            try:
                model = options_model(component.kind, component.name)
            except FlowgenError as error:
                return str(error)
            untyped = [k for k, f in model.model_fields.items() if getattr(f.annotation, "__name__", "") == "Any"]
            if untyped:
                return f"{component.kind} {component.name!r}: the option {untyped[0]!r} is of type Any"
            required = {k: None for k, f in model.model_fields.items() if f.is_required()}
            try:
                model(**required, no_such_option=1)
            except ValidationError as error:
                if any(e["type"] == "extra_forbidden" for e in error.errors()):
                    continue
            return f"{component.kind} {component.name!r} takes the option 'no_such_option' without a word"
    if not s.plugins:
        raise NotApplicable("everything is built in")
    return None

"""Config: one YAML file describes a run; every key is typed, every error says where."""

from flowgen.config.components import build, options_model
from flowgen.config.document import Document, override, read, write
from flowgen.config.force import in_force
from flowgen.config.notation import dumps
from flowgen.config.resolve import Resolved, load, locate, recipes, resolve
from flowgen.config.schema import ComponentConfig, Config

__all__ = [
    "ComponentConfig",
    "Config",
    "Document",
    "Resolved",
    "build",
    "dumps",
    "in_force",
    "load",
    "locate",
    "options_model",
    "override",
    "read",
    "recipes",
    "resolve",
    "write",
]

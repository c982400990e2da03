"""What manifest.json of a checkpoint says, checked like a config: a run folder may be a stranger's."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from flowgen.errors import FlowgenError, UsageError, shorten
from flowgen.files import read_json

MAX_BYTES = 50_000_000
"""Of a manifest: a run of 10,000 ranks has one of 5 MB."""

Count = Annotated[int, Field(ge=0, le=10**15)]


class _Part(BaseModel):
    """Keys that this version does not know are of a later one, and nothing reads them."""

    model_config = ConfigDict(extra="allow", strict=True, allow_inf_nan=False)


class _File(_Part):
    bytes: Count
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class _Exported(_Part):
    weights: Annotated[str, Field(max_length=200)]
    dtype: Annotated[str, Field(max_length=20)] = "float32"
    profile_missed: float | None = None


class _Figures(_Part):
    sums: dict[str, Any]
    norms: list[float]
    skipped: Count


class _Trainer(_Part):
    skipped_in_a_row: Count
    figures: list[_Figures]
    parts: Annotated[int, Field(ge=1)] | None = None
    scaler: dict[str, float] | None = None


def _below(name: str) -> str:
    """The name of a file in the checkpoint."""
    if PurePosixPath(name).is_absolute() or ".." in name.split("/") or "\\" in name or "\0" in name:
        raise ValueError("a file lies in the folder of its checkpoint")
    return name


class _Manifest(_Part):
    step: Count
    name: Annotated[str, Field(max_length=200)]
    encoder: Annotated[str, Field(max_length=200)]
    files: dict[Annotated[str, AfterValidator(_below)], _File]
    exported: _Exported | None = None
    ranks: Annotated[int, Field(ge=1)] | None = None
    zero_stage: Annotated[int, Field(ge=0, le=3)] | None = None
    trainer: _Trainer | None = None

    @model_validator(mode="after")
    def _resumable(self) -> _Manifest:
        if self.exported is None:
            for key in ("ranks", "zero_stage", "trainer"):
                if getattr(self, key) is None:
                    raise ValueError(f"a checkpoint that is no export has the key {key!r}")
        return self


def read_manifest(path: Path) -> dict[str, Any]:
    """The content of a manifest.json. FlowgenError: it cannot be read, or a key is missing or of another kind."""
    try:
        value = read_json(path, MAX_BYTES)
        _Manifest.model_validate(value)
    except UsageError as error:
        raise FlowgenError(f"{error}; use another checkpoint") from None
    except ValidationError as error:
        first = error.errors()[0]
        where = shorten(".".join(map(str, first["loc"])))
        what = first["msg"].removeprefix("Value error, ")
        raise FlowgenError(
            f"{path}: {f'{where}: ' if where else ''}{what[0].lower()}{what[1:]}; use another checkpoint"
        ) from None
    return dict(value)

"""Frozen networks of others (text encoders, autoencoders, vocoders): found on this machine, identified, loaded strictly.

Nothing is downloaded here. A model is named by a folder; by a folder below one that FLOWGEN_MODELS lists; by PACKAGE:FOLDER,
data of an installed package; or by the id of a repository in the hub cache, or OWNER/NAME/FOLDER of a part of it (`hf
download ID` puts it there).
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import warnings
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Generic, Literal, TypeAlias, TypeVar

import torch
from torch import Tensor, nn

from flowgen import files
from flowgen.errors import FlowgenError, UsageError
from flowgen.weights import load_strictly, read_tensors

Precision: TypeAlias = Literal["float32", "bfloat16"]
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
FOLDERS = "FLOWGEN_MODELS"

N = TypeVar("N", bound=nn.Module)
K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


def find(name: str) -> Path:
    """The folder of a model. UsageError: it is in none of the places."""
    tried = [Path(name).expanduser()]
    tried += [Path(root).expanduser() / name for root in os.environ.get(FOLDERS, "").split(os.pathsep) if root]
    package, colon, inner = name.partition(":")
    if colon and (spec := _package(package)) is not None:
        tried.append(spec / inner)
    for folder in tried:
        if folder.is_dir():
            return folder
    owner, repository, *inside = name.split("/") if "/" in name else ("", "")
    if owner and (cached := _cached(f"{owner}/{repository}")) is not None and cached.joinpath(*inside).is_dir():
        return cached.joinpath(*inside)
    raise UsageError(
        f"there is no model {name!r} on this machine: not as a folder, not below a folder of {FOLDERS}, not as PACKAGE:FOLDER "
        f"of an installed package, not in the hub cache (hf download puts a repository there)"
    )


def _package(name: str) -> Path | None:
    try:
        spec = importlib.util.find_spec(name) if name.isidentifier() else None
    except ValueError:  # a module made in memory, such as __main__
        return None
    places = spec.submodule_search_locations if spec is not None else None
    return Path(next(iter(places))) if places else None


def _cached(repository: str) -> Path | None:
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError
    except ImportError:
        return None
    try:
        return Path(snapshot_download(repository, local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError):
        return None


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object. FlowgenError: it is missing, or something else."""
    try:
        value = files.read_json(path)
    except UsageError as error:
        raise FlowgenError(f"{error}; is the folder a complete model?") from None
    if not isinstance(value, dict):
        raise FlowgenError(f"{path} holds no JSON object; is the folder a complete model?")
    return value


def weight_files(folder: Path) -> list[Path]:
    """The safetensors of a model, sorted. FlowgenError: there are none."""
    files = sorted(folder.glob("*.safetensors"))
    if not files and list(folder.glob("*.bin")):
        raise FlowgenError(
            f"{folder} has pickled weights alone (*.bin), which are not read; load them once where you trust them, and write "
            f"safetensors with save_pretrained of the library they are of"
        )
    if not files:
        raise FlowgenError(f"{folder} has no weights (*.safetensors); download the model completely")
    return files


def read_weights(folder: Path) -> dict[str, Tensor]:
    """All tensors of a model, of one file or of several shards. FlowgenError: files are missing, damaged, or overlap."""
    files = weight_files(folder)
    for index in folder.glob("*.safetensors.index.json"):
        shards = set(read_json(index).get("weight_map", {}).values())
        if lacking := sorted(shards - {f.name for f in files}):
            raise FlowgenError(f"{folder} lacks the weights {', '.join(lacking)}; download the model completely")
        files = [f for f in files if f.name in shards]
    tensors: dict[str, Tensor] = {}
    for file in files:
        part = read_tensors(file)
        if twice := sorted(tensors.keys() & part.keys()):
            raise FlowgenError(
                f"{folder} holds {twice[0]!r} twice, the second time in {file.name}; leave one variant of the weights in it"
            )
        tensors |= part
    return tensors


def fingerprint(files: Sequence[Path]) -> str:
    """A hash of the names and contents of files; remembered while their sizes and times are what they were."""
    stamps = tuple((str(f.resolve()), f.stat().st_size, f.stat().st_mtime_ns) for f in sorted(files))
    return _fingerprint(tuple(f.name for f in sorted(files)), stamps)


@lru_cache(maxsize=64)
def _fingerprint(names: tuple[str, ...], stamps: tuple[tuple[str, int, int], ...]) -> str:
    digest = hashlib.sha256()
    for name, (path, size, _) in zip(names, stamps, strict=True):
        digest.update(f"{name} {size} ".encode())
        with open(path, "rb") as file:
            while block := file.read(1 << 22):
                digest.update(block)
    return digest.hexdigest()[:16]


class Kept(Generic[K, V]):
    """Values that were computed before, within a number of bytes; those not asked for longest leave first."""

    def __init__(self, room: float) -> None:
        self.room, self.held = room, 0
        self._values: OrderedDict[K, tuple[V, int]] = OrderedDict()

    def __iter__(self) -> Iterator[K]:
        """The keys, those that would leave first at the beginning."""
        return iter(self._values)

    def get(self, key: K) -> V | None:
        if key not in self._values:
            return None
        self._values.move_to_end(key)
        return self._values[key][0]

    def put(self, key: K, value: V, nbytes: int) -> None:
        self._values[key] = value, nbytes
        self.held += nbytes
        while self.held > self.room and self._values:
            self.held -= self._values.popitem(last=False)[1][1]


class Frozen(Generic[N]):
    """A network that is loaded when it is first used and never trained. No module: what holds it does not save it.

    Args:
        folder: where its files are.
        load: makes it, with its weights, in evaluation mode.
        files: those that decide what it computes.
    """

    def __init__(self, folder: Path, load: Callable[[], N], files: Callable[[], Sequence[Path]]) -> None:
        self.folder, self._load, self._files = folder, load, files

    @cached_property
    def network(self) -> N:
        with torch.random.fork_rng():  # making it draws initial weights
            return self._load().eval().requires_grad_(False)

    def on(self, device: torch.device) -> N:
        if next(self.network.parameters()).device != device:
            self.network.to(device)
        return self.network

    @cached_property
    def identity(self) -> str:
        return fingerprint(self._files())


class Diffused(Frozen[Any]):
    """An autoencoder of the `diffusers` library (extra: latent), as `save_pretrained` writes it: config.json and safetensors.

    Its shape is known from the config alone; weights are read when they are first used, and every one of them must match.
    """

    def __init__(self, name: str, precision: Precision) -> None:
        folder = find(name)
        super().__init__(folder, self._strictly, lambda: [folder / "config.json", *weight_files(folder)])
        self.precision = precision
        with torch.device("meta"):
            self.outline = self._make()

    @property
    def config(self) -> Any:
        """Its options, defaults filled in."""
        return self.outline.config

    def option(self, *names: str, default: Any = None) -> Any:
        """The first of these that its config, or the network itself, has."""
        for name in names:
            value = self.config.get(name)
            value = _own(self.outline, name) if value is None else value
            if value is not None:
                return value
        return default

    @property
    def convolution_axes(self) -> int:
        """1, 2 or 3: what its convolutions run over."""
        return max(p.ndim for p in self.outline.parameters()) - 2

    def normalisation(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Mean and scale [C] or []: latents as generators take them are (z - mean) * scale."""
        network = self.network

        def values(*names: str, default: float) -> Tensor:
            found = next((v for n in names if isinstance(v := _own(network, n), Tensor)), None)
            found = self.option(*names, default=default) if found is None else found
            return torch.as_tensor(found, dtype=torch.float32, device=device)

        mean = values("latents_mean", "shift_factor", default=0.0)
        return mean, values("scaling_factor", default=1.0) / values("latents_std", default=1.0)

    def encode(self, x: Tensor) -> Tensor:
        """The mean of the posterior of x, float32: nothing is drawn."""
        network = self.on(x.device)
        out = network.encode(x.to(DTYPES[self.precision]))
        return (out.latent_dist.mode() if hasattr(out, "latent_dist") else out.latent).float()

    def decode(self, z: Tensor) -> Tensor:
        network = self.on(z.device)
        z = z.to(DTYPES[self.precision])
        more = {"temb": z.new_zeros(len(z))} if self.option("timestep_conditioning", default=False) else {}
        with torch.random.fork_rng(devices=[] if z.device.type == "cpu" else [z.device], device_type=z.device.type):
            torch.manual_seed(0)  # decoders that add noise of their own
            return network.decode(z, **more).sample.float()

    def _make(self) -> Any:
        try:
            import diffusers
        except ImportError:
            raise FlowgenError("an autoencoder needs the diffusers library: pip install 'flowgen[latent]'") from None
        config = read_json(self.folder / "config.json")
        name = config.get("_class_name")
        kind = getattr(diffusers, str(name), None)
        if kind is None or not str(name).startswith("Autoencoder"):
            raise FlowgenError(
                f"{self.folder / 'config.json'} is of {name!r}, which is no autoencoder of diffusers {diffusers.__version__}"
            )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # of torch, on how some of them are written
            return kind.from_config(config)

    def _strictly(self) -> Any:
        network = self._make()
        load_strictly(network, read_weights(self.folder), self.folder)
        return nn.Module.to(network, DTYPES[self.precision])  # its own warns of what does not apply here


def _own(network: nn.Module, name: str) -> Any:
    """An attribute or buffer of the network itself (diffusers also gives options of the config as attributes, and warns)."""
    return vars(network).get(name, network._buffers.get(name))

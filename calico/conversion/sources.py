"""Weights of others, read by the slice: safetensors or torch's zip files, whole or sharded, on disk or from the hub.

Of a file only the header is read until its tensors are asked for, and of a sharded model only the shards that are. A
pickle is opened by torch's `weights_only` reader, which builds tensors and refuses everything else before it runs.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from calico.checkpoints.fingerprint import fingerprint
from calico.errors import CheckpointError, InputError

INDEXES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
WHOLE = ("model.safetensors", "pytorch_model.bin")
TORCH_SUFFIXES = {".bin", ".pt", ".pth", ".ckpt"}
NESTED = ("model", "state_dict")
"""Under which a training checkpoint keeps its weights (LAVIS: `model`)."""

_HUB = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+)(?:@(?P<revision>\S+))?")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_SAFETENSORS_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
}

Locate = Callable[[str], Path | None]


class Spec(NamedTuple):
    """dtype None: one that is not plain floating point (integers, booleans, packed or 8-bit floats)."""

    shape: tuple[int, ...]
    dtype: torch.dtype | None
    dtype_name: str


class WeightSource:
    """The tensors of one model. keys: all their names; where an index lists them, no shard is opened for it."""

    def __init__(self, name: str, locate: Locate, whole: str | None = None) -> None:
        self.name = name
        self._locate = locate
        self._open: dict[str, _File] = {}
        self._file_of = dict.fromkeys(self._file(whole).names(), whole) if whole else self._find()
        self.keys = frozenset(self._file_of)

    def locate(self, name: str) -> Path | None:
        """Another file of the same model (tokenizer.json, config.json); None where there is none."""
        return self._locate(name)

    def spec(self, key: str) -> Spec:
        return self._file(self._file_of[key]).spec(key)

    def read(self, key: str, start: int = 0, stop: int | None = None) -> Tensor:
        """Rows start to stop of a tensor (dimension 0), memory-mapped where the format can be."""
        return self._file(self._file_of[key]).read(key, start, stop)

    def version(self, keys: set[str]) -> dict[str, str]:
        """A hash for each file that holds some of the keys."""
        return {name: fingerprint(self._path(name)) for name in sorted({self._file_of[key] for key in keys})}

    def _find(self) -> dict[str, str]:
        for name in INDEXES:
            if path := self._locate(name):
                return _read_index(path)
        for name in WHOLE:
            if self._locate(name):
                return dict.fromkeys(self._file(name).names(), name)
        raise CheckpointError(f"{self.name}: no weights there; expected one of {', '.join(INDEXES + WHOLE)}")

    def _path(self, name: str) -> Path:
        path = self._locate(name)
        if path is None:
            raise CheckpointError(f"{self.name}: {name} is missing, though the index lists it; copy it again")
        return path

    def _file(self, name: str) -> _File:
        if name not in self._open:
            path = self._path(name)
            file = _TorchFile(path) if path.suffix in TORCH_SUFFIXES else _SafetensorsFile(path)
            if file.is_in_memory:  # one such at a time
                self._open = {other: f for other, f in self._open.items() if not f.is_in_memory}
            self._open[name] = file
        return self._open[name]


class _File:
    is_in_memory = False

    def names(self) -> list[str]:
        raise NotImplementedError

    def spec(self, key: str) -> Spec:
        raise NotImplementedError

    def read(self, key: str, start: int, stop: int | None) -> Tensor:
        raise NotImplementedError


class _SafetensorsFile(_File):
    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._file = safe_open(path, framework="pt")
        except SafetensorError as error:
            raise CheckpointError(f"{path}: truncated or not a safetensors file ({error}); copy it again") from None

    def names(self) -> list[str]:
        return list(self._file.keys())

    def spec(self, key: str) -> Spec:
        view = self._get(key)
        dtype = str(view.get_dtype())
        return Spec(tuple(view.get_shape()), _SAFETENSORS_DTYPES.get(dtype), dtype)

    def read(self, key: str, start: int, stop: int | None) -> Tensor:
        view = self._get(key)
        return view[:] if not view.get_shape() or (start == 0 and stop is None) else view[start:stop]

    def _get(self, key: str) -> Any:
        try:
            return self._file.get_slice(key)
        except SafetensorError:
            raise CheckpointError(f"{self._path}: {key} is missing, though the index lists it; copy it again") from None


class _TorchFile(_File):
    def __init__(self, path: Path) -> None:
        self._path = path
        with path.open("rb") as file:
            is_zip = file.read(2) == b"PK"
        self.is_in_memory = not is_zip  # torch's format before 1.6 cannot be mapped
        try:
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=is_zip)
        except Exception as error:  # UnpicklingError cannot be named without importing pickle
            raise CheckpointError(f"{path}: {_why_unreadable(error)}; nothing of it was executed") from None
        for name in NESTED:
            if isinstance(content, Mapping) and isinstance(content.get(name), Mapping):
                content = content[name]
        if not isinstance(content, Mapping) or not any(isinstance(value, Tensor) for value in content.values()):
            raise CheckpointError(f"{path}: holds {type(content).__name__}, expected names with tensors")
        self._tensors = {str(key): value for key, value in content.items() if isinstance(value, Tensor)}

    def names(self) -> list[str]:
        return list(self._tensors)

    def spec(self, key: str) -> Spec:
        tensor = self._get(key)
        is_plain = tensor.dtype in _SAFETENSORS_DTYPES.values() and tensor.layout == torch.strided
        return Spec(tuple(tensor.shape), tensor.dtype if is_plain else None, str(tensor.dtype).removeprefix("torch."))

    def read(self, key: str, start: int, stop: int | None) -> Tensor:
        tensor = self._get(key)
        return tensor if not tensor.dim() else tensor[start:stop]

    def _get(self, key: str) -> Tensor:
        if key not in self._tensors:
            raise CheckpointError(f"{self._path}: {key} is missing, though the index lists it; copy it again")
        return self._tensors[key]


def _why_unreadable(error: Exception) -> str:
    if match := re.search(r"(?:Unsupported global: GLOBAL|Unsupported class|GLOBAL) ([\w.]+)", str(error)):
        return f"a pickle that wants to call {match[1]}, which may run code; get the weights as safetensors"
    if "weights" in str(error).lower() and "only" in str(error).lower():
        return "a pickle with more in it than tensors, which may run code; get the weights as safetensors"
    return f"truncated or not torch's format ({type(error).__name__}); copy it again"


def _read_index(path: Path) -> dict[str, str]:
    try:
        files = json.loads(path.read_text(encoding="utf-8"))["weight_map"]
        names = {str(key): str(name) for key, name in files.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path}: not an index of shards ({error!r}); copy it again") from None
    if outside := next((name for name in names.values() if Path(name).name != name), None):
        raise CheckpointError(f"{path}: names a shard {outside!r} outside its folder; do not use it")
    return names


def open_source(where: str, *, offline: bool = False) -> WeightSource:
    """where: a folder, a weights file, or a model on the hub as `owner/name@COMMIT`.

    offline: take the hub's files from its cache alone. Raises `InputError` for what is none of these, or for a model
    of the hub that is not pinned to a commit: a branch may be other weights tomorrow.
    """
    path = Path(where)
    if path.is_dir():
        if not any((path / name).exists() for name in INDEXES + WHOLE):
            only = [p.name for p in path.iterdir() if p.suffix in TORCH_SUFFIXES | {".safetensors"}]
            if len(only) == 1:
                return WeightSource(where, _in_folder(path), only[0])
        return WeightSource(where, _in_folder(path))
    if path.is_file():
        return WeightSource(where, _in_folder(path.parent), path.name)
    match = _HUB.fullmatch(where)
    if not match:
        raise InputError(f"{where}: no such folder or file, and not a model of the hub as owner/name@COMMIT")
    repo, revision = match["repo"], match["revision"] or ""
    if not _COMMIT.fullmatch(revision):
        raise InputError(
            f"{where}: no such folder, and not pinned; write {repo}@COMMIT with the 40 digits that "
            f"`git ls-remote https://huggingface.co/{repo} HEAD` prints"
        )
    return WeightSource(where, _in_hub(repo, revision, offline))


def _in_folder(folder: Path) -> Locate:
    return lambda name: path if (path := folder / name).is_file() else None


def _in_hub(repo: str, revision: str, offline: bool) -> Locate:
    def locate(name: str) -> Path | None:
        from huggingface_hub import constants, hf_hub_download
        from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, LocalEntryNotFoundError

        try:
            return Path(hf_hub_download(repo, name, revision=revision, local_files_only=offline))
        except LocalEntryNotFoundError:
            if offline or constants.HF_HUB_OFFLINE:
                return None
            raise CheckpointError(f"{repo}: {name} cannot be downloaded: the hub is out of reach") from None
        except EntryNotFoundError:
            return None
        except (HfHubHTTPError, OSError) as error:
            raise CheckpointError(f"{repo}@{revision}: {name} cannot be downloaded ({error})") from None

    return locate

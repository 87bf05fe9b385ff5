"""A checkpoint folder: config.json, tokenizer.json, and model.safetensors or its shards with their index.

Never a pickle, never a partial load.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from calico.checkpoints.fingerprint import EMBEDDED, MEMORY, MEMORY_CARD, WEIGHTS, weight_files
from calico.errors import CheckpointError
from calico.files import write_text, written_whole
from calico.language.tokenizer import CalicoTokenizer
from calico.model.builder import build
from calico.model.calico import CalicoModel
from calico.model.config import CalicoConfig
from calico.model.precision import serving_dtype

CONFIG = "config.json"
TOKENIZER = "tokenizer.json"
_FLOATS = {torch.float16, torch.bfloat16, torch.float32, torch.float64}


def save_checkpoint(
    folder: Path,
    model: CalicoModel,
    config: CalicoConfig,
    tokenizer: CalicoTokenizer,
    dtype: torch.dtype = torch.float16,
) -> None:
    """Writes all three files; each appears whole or not at all. Merge LoRA adapters first.

    A part memory of the weights that were there before is removed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name in (MEMORY, MEMORY_CARD):
        (folder / name).unlink(missing_ok=True)
    weights = {
        name: (tensor.to(dtype) if tensor.is_floating_point() else tensor).contiguous().cpu()
        for name, tensor in model.state_dict().items()
        if name not in tied_keys(model)
    }
    write_safetensors(folder / WEIGHTS, weights, {"preset": config.preset})
    write_text(folder / CONFIG, config.to_json())
    tokenizer.save(folder / TOKENIZER)


def tied_keys(model: CalicoModel) -> set[str]:
    """The output rows of a language model that shares them with its embedding are not stored twice."""
    return {"llm.lm_head.weight"} if model.llm.config.tie_word_embeddings else set()


def load_checkpoint(
    folder: Path | None = None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = torch.float32,
    llm_device: torch.device | str | None = None,
) -> tuple[CalicoModel, CalicoConfig, CalicoTokenizer]:
    """The model in evaluation mode, all of it in memory: its files may change. folder None: the embedded default.

    dtype: of all but the mask decoder, which stays float32; None: bfloat16 where the files hold it and the device is a
    GPU, else float32. llm_device: where the language model is left, for who quantises it; None: `device`.
    Raises `CheckpointError` naming the file: missing, truncated, a pickle, or with keys that do not fit the config.
    """
    folder = EMBEDDED if folder is None else Path(folder)
    config = read_config(folder)
    weights = read_weights(folder)
    tokenizer = CalicoTokenizer.from_file(folder / TOKENIZER)
    with torch.device("meta"):
        model = build(config)
    check_keys(folder / WEIGHTS, model.state_dict(), weights, tied_keys(model), config.preset)
    if dtype is None:
        stored = weights["cam_queries"].dtype
        dtype = stored if stored == torch.bfloat16 and torch.device(device).type == "cuda" else torch.float32
    for key, value in weights.items():
        place = llm_device if llm_device is not None and key.startswith("llm.") else device
        moved = value.to(place, serving_dtype(key, dtype)) if value.is_floating_point() else value.to(place)
        # What needed no conversion still lies in the mapped file: written over it would be other weights, cut short the
        # end of the process.
        weights[key] = moved.clone() if moved.data_ptr() == value.data_ptr() else moved
    model.load_state_dict(weights, strict=False, assign=True)
    model.llm.tie_weights()
    materialise_buffers(model, device)
    return model.eval().requires_grad_(False), config, tokenizer


def read_config(folder: Path) -> CalicoConfig:
    """Of a checkpoint's folder. Raises `CheckpointError`."""
    if not folder.is_dir():
        raise CheckpointError(
            f"{folder}: no such folder; a checkpoint is a folder with {CONFIG}, {WEIGHTS} and {TOKENIZER}"
        )
    return CalicoConfig.from_file(folder / CONFIG)


def stored_dtype(folder: Path) -> torch.dtype:
    """Of a checkpoint's weights, told by one of them. Raises `CheckpointError`."""
    if (queries := read_weights(folder).get("cam_queries")) is None:
        raise CheckpointError(f"{folder}: its weights lack cam_queries; use the {WEIGHTS} of a CALICO")
    return queries.dtype


def load_grown(folder: Path, config: CalicoConfig) -> tuple[CalicoModel, CalicoTokenizer]:
    """The weights in `folder` inside a larger model: encoders may have gained blocks, which start as identities.

    Raises `CheckpointError` where anything else differs.
    """
    weights = read_weights(folder)
    model = build(config)
    fresh = {key for key in model.state_dict() if key.split(".")[0].endswith("_encoder") and key not in weights}
    check_keys(folder / WEIGHTS, model.state_dict(), weights, tied_keys(model) | fresh, config.preset)
    model.load_state_dict({key: value.float() for key, value in weights.items()}, strict=False)
    return model, CalicoTokenizer.from_file(folder / TOKENIZER)


def materialise_buffers(model: CalicoModel, device: torch.device | str) -> None:
    """Buffers that no checkpoint holds (rotary frequencies) are computed anew after a build without memory."""
    rotary = model.llm.get_decoder().rotary_emb
    model.llm.get_decoder().rotary_emb = type(rotary)(config=model.llm.config).to(device)
    for name, module in model.named_modules():
        for key, buffer in list(module._buffers.items()):
            if buffer is not None and buffer.is_meta:
                if key not in module._non_persistent_buffers_set:
                    raise CheckpointError(f"buffer {name}.{key} is in no checkpoint file; report this as a bug")
                if key == "position_ids":  # of encoders that count their positions
                    module._buffers[key] = torch.arange(buffer.shape[-1], device=device).expand(buffer.shape).clone()
                else:
                    raise CheckpointError(f"buffer {name}.{key} cannot be computed anew; report this as a bug")


def read_weights(folder: Path) -> dict[str, Tensor]:
    """All tensors of a checkpoint folder, memory-mapped, of one file or of its shards."""
    files = weight_files(folder)
    if lost := [path.name for path in files if len(files) > 1 and not path.is_file()]:
        raise CheckpointError(f"{folder}: shard {lost[0]} is missing; copy the checkpoint again")
    return {key: tensor for path in files for key, tensor in read_safetensors(path).items()}


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """All tensors of one file, memory-mapped. A pickle or a truncated file is refused, nothing of it executed."""
    if not path.is_file():
        other = [p.name for p in path.parent.glob("*") if p.suffix in {".bin", ".pt", ".pth", ".pkl", ".ckpt"}]
        hint = f"; {other[0]} may hold code and is not read" if other else ""
        raise CheckpointError(f"{path}: no weights there{hint}; expected a {WEIGHTS} file")
    with path.open("rb") as file:
        head = file.read(9)
    # A safetensors file opens with the length of its header, which may look like a pickle, and then a brace.
    if head[8:] != b"{" and (head[:2] == b"PK" or head[:1] == b"\x80"):
        raise CheckpointError(
            f"{path}: this is a pickle, which may hold code and is not read; convert it to safetensors"
        )
    try:
        with safe_open(path, framework="pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a dict
    except SafetensorError as error:
        raise CheckpointError(f"{path}: truncated or not a safetensors file ({error}); copy it again") from None


def check_keys(
    path: Path, expected: Mapping[str, Tensor], tensors: Mapping[str, Tensor], optional: Iterable[str], preset: str
) -> None:
    """Every key in its place with its shape and its kind of number, or a `CheckpointError` that counts and names what
    does not fit. Floating point may be of any width but 8 bits, which mean nothing without their scales."""
    missing = sorted(set(expected) - set(tensors) - set(optional))
    extra = sorted(set(tensors) - set(expected))
    misshaped = sorted(k for k in set(expected) & set(tensors) if expected[k].shape != tensors[k].shape)
    other = [
        f"{key} is {str(tensors[key].dtype).removeprefix('torch.')}"
        for key in sorted(set(expected) & set(tensors))
        if tensors[key].dtype not in (_FLOATS if expected[key].is_floating_point() else {expected[key].dtype})
    ]
    kinds = (("missing", missing), ("unknown", extra), ("misshaped", misshaped), ("of another kind of number", other))
    faults = [f"{len(keys)} {what} (first: {keys[0]})" for what, keys in kinds if keys]
    if faults:
        raise CheckpointError(
            f"{path}: weights do not fit a {preset} model: {', '.join(faults)}; "
            "use the config.json written beside these weights"
        )


def write_safetensors(path: Path, weights: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Atomic, as `write_text` is. Raises `CheckpointError` where the file cannot be written."""
    with written_whole(path) as temporary:
        try:
            save_file(dict(weights), temporary, metadata={"format": "pt", **metadata})
            _order_metadata(temporary)
        except SafetensorError as error:
            raise CheckpointError(f"{path}: not written ({error}); make room on the disk and run it again") from None


def _order_metadata(path: Path) -> None:
    """safetensors writes metadata in an order of chance; a file's fingerprint is of its contents alone."""
    with path.open("r+b") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
        if len(text) <= length:
            file.seek(8)
            file.write(text.ljust(length))


def made_for(path: Path) -> str | None:
    """The fingerprint of the weights that a file beside them says it is for."""
    with safe_open(path, framework="pt") as file:
        name: str | None = (file.metadata() or {}).get("weights")
        return name

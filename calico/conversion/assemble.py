"""Sources -> a checkpoint folder."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from calico.checkpoints.files import CONFIG, TOKENIZER
from calico.conversion.coverage import BaseRequest, Coverage, cover, read_place
from calico.conversion.vocabulary import Vocabulary
from calico.conversion.writer import Slot, shards_of, write_shards
from calico.errors import CheckpointError
from calico.files import write_text
from calico.model.builder import build
from calico.model.cem import CorrespondenceExtraction
from calico.model.config import CalicoConfig

STARTING_POINT = "a starting point for training, not a usable model"
PARTIAL = "a partial load, not a usable model"
COVERAGE = "coverage.json"
SHARD_BYTES = 4 * 2**30
KEPT_IN_FLOAT32 = ("pixel_decoder.",)  # small, and masks suffer first

FROM_INSTRUCTBLIP = ("global_encoder", "qformer", "image_projection", "cam_queries")
FROM_GLAMM = ("llm", "seg_projection", "grounding_encoder", "pixel_decoder")
FROM_GLAMM_ALONE = ("seg_projection",)  # which a plain Llama and a SAM lack
FROM_SAM = ("grounding_encoder", "pixel_decoder")
FROM_DINOV2 = ("semantic_encoder",)
FROM_EVA_CLIP = ("global_encoder",)
NEW_BLOCKS = ("cem", "cams")
CAM_QUERIES_RULE = ("cam_queries", "query_tokens")
"""CAM's queries start as a copy of the Q-Former's."""


def fitted_config(
    config: CalicoConfig, requests: Sequence[BaseRequest], vocabulary: Vocabulary, fresh: Sequence[str] = ()
) -> CalicoConfig:
    """The config with as many token rows as are needed, and the settings of the language model that is taken.

    fresh: blocks that no source has, beside those that the config names; they and the rows of new tokens train.

    Raises `CheckpointError` where the source says a setting that would make other numbers of equal shapes.
    """
    llm = dict(config.llm)
    for request in requests:
        path = request.source.locate(CONFIG) if "llm" in request.blocks else None
        if path is None:
            continue
        try:
            theirs = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise CheckpointError(f"{path}: not readable as JSON ({error}); copy it again") from None
        for name in ("num_attention_heads", "num_key_value_heads", "rope_theta"):
            ours = llm.get(name, {"rope_theta": 10000.0}.get(name, llm["num_attention_heads"]))
            if theirs.get(name) is not None and theirs[name] != ours:
                raise CheckpointError(
                    f"{path}: {name} is {theirs[name]}, expected {ours} of {config.preset}; give --config FILE"
                )
        llm |= {name: theirs[name] for name in ("rms_norm_eps", "max_position_embeddings") if name in theirs}
    rows = [vocabulary.size]
    for request in requests:
        keys = (
            [key for key in request.source.keys if key.endswith("embed_tokens.weight")]
            if "llm" in request.blocks
            else []
        )
        rows += [request.source.spec(key).shape[0] for key in keys]
    return dataclasses.replace(
        config,
        llm={**llm, "vocab_size": max(rows)},
        fresh=tuple(dict.fromkeys((*config.fresh, *(f"{block}." for block in fresh)))),
        new_tokens=tuple(range(vocabulary.num_known, vocabulary.size)),
    )


def places_of(config: CalicoConfig) -> dict[str, Tensor]:
    """The model's state dict without memory."""
    with torch.device("meta"):
        model = build(config)
    tied = {"llm.lm_head.weight"} if config.llm.get("tie_word_embeddings") else set()
    return {name: tensor for name, tensor in model.state_dict().items() if name not in tied}


def plan_assembly(config: CalicoConfig, requests: Sequence[BaseRequest], vocabulary: Vocabulary) -> Coverage:
    """Bases -> coverage; CEM, CAM and what is `fresh` in the config start as a new model's do."""
    places = places_of(config)
    new = tuple(f"{block}." for block in NEW_BLOCKS) + config.fresh
    starts = {name: "new: no base has it" for name in places if name.startswith(new)}
    return cover(places, requests, starts, vocabulary)


def plan_conversion(config: CalicoConfig, request: BaseRequest, vocabulary: Vocabulary) -> Coverage:
    """A whole CALICO -> coverage; nothing may start anew, token rows included, unless partial loads are allowed."""
    coverage = cover(places_of(config), [request], {}, vocabulary)
    for token in vocabulary.new:
        coverage.unfilled.append(f"llm.model.embed_tokens.weight: row of {token.token}")
    return coverage


def write_checkpoint(
    folder: Path,
    config: CalicoConfig,
    vocabulary: Vocabulary,
    coverage: Coverage,
    *,
    status: str,
    allow_partial: bool = False,
    dtype: torch.dtype = torch.bfloat16,
    seed: int = 0,
    shard_bytes: int = SHARD_BYTES,
    on_shard: Callable[[str, int, bool], None] = lambda name, num_shards, was_there: None,
) -> dict[str, Any]:
    """Write the checkpoint and return the report that is also written beside it.

    status: what the checkpoint is, written into its config and its shards. allow_partial: start what found no key as a
    new model does. Raises `CheckpointError` for a partial load that is not allowed, before anything is written.
    """
    if not coverage.is_complete and not allow_partial:
        raise CheckpointError(f"partial load refused: {coverage.faults()}; --allow-partial writes it nevertheless")
    status = status if coverage.is_complete else f"{PARTIAL}; {status}"
    config = dataclasses.replace(config, data_version=status)
    places = places_of(config)
    slots = [
        Slot(name, like.shape, torch.float32 if name.startswith(KEPT_IN_FLOAT32) else dtype)
        for name, like in places.items()
    ]
    shards = shards_of(slots, shard_bytes)
    versions = _versions(coverage)
    content = [config.to_json(), str(dtype), seed, versions, {p: pieces for p, (_, pieces) in coverage.filled.items()}]
    plan = hashlib.sha256(json.dumps([*content, list(shards)], default=str).encode()).hexdigest()[:16]
    new = _new_blocks(config, seed)

    def read(slot: Slot) -> Tensor:
        if slot.name in coverage.filled:
            source, pieces = coverage.filled[slot.name]
            tensor = read_place(slot.name, tuple(slot.shape), source, pieces, vocabulary)
        else:
            tensor = new[slot.name] if slot.name in new else _new_tensor(slot, seed)
        if slot.dtype == torch.float16 and tensor.abs().max() > torch.finfo(torch.float16).max:
            raise CheckpointError(f"{slot.name}: too large for float16; write --dtype bfloat16")
        return tensor

    metadata = {"preset": config.preset, "status": status}
    write_shards(folder, shards, read, plan, metadata, lambda name, was: on_shard(name, len(shards), was))
    vocabulary.tokenizer.save(folder / TOKENIZER)
    report = {
        "status": status,
        "preset": config.preset,
        "sources": versions,
        "num_weights": sum(like.numel() for like in places.values()),
        "num_bytes": sum(slot.num_bytes for slot in slots),
        "shards": list(shards),
        "new_tokens": [token.token for token in vocabulary.new],
        "coverage": coverage.report(),
    }
    write_text(folder / COVERAGE, json.dumps(report, indent=1) + "\n")
    write_text(folder / CONFIG, config.to_json())  # last: without it the folder is no checkpoint
    return report


def _versions(coverage: Coverage) -> dict[str, dict[str, str]]:
    keys: dict[str, set[str]] = {}
    sources = {}
    for source, pieces in coverage.filled.values():
        sources[source.name] = source
        keys.setdefault(source.name, set()).update(piece.key for piece in pieces if piece.key)
    return {name: source.version(keys[name]) for name, source in sources.items()}


def _new_blocks(config: CalicoConfig, seed: int) -> Mapping[str, Tensor]:
    """CEM and CAM as the builder starts them: random projections in, zeros out; CAM all zeros."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        cem = CorrespondenceExtraction(
            config.global_encoder.hidden_size, config.semantic_encoder.hidden_size, config.cem_num_heads
        )
    return {f"cem.{name}": tensor.detach() for name, tensor in cem.state_dict().items()}


def _new_tensor(slot: Slot, seed: int) -> Tensor:
    """Matrices normal with 0.02, biases and CAM zero, other vectors one; the same for a name and a seed."""
    if slot.name.startswith("cams.") or slot.name.endswith("bias"):
        return torch.zeros(slot.shape)
    if len(slot.shape) == 1:
        return torch.ones(slot.shape)
    digest = hashlib.sha256(f"{seed} {slot.name}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
    return torch.randn(slot.shape, generator=generator) * 0.02

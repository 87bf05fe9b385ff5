"""A backbone by name, of a folder or of the hub, as a trunk: what of it stands at which stride, and its weights.

Weights are read from safetensors only, and no code that lies beside them is run.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.utils import logging as hub_logging
from torch import nn
from transformers import AutoConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_BACKBONE_MAPPING
from transformers.utils import cached_file
from transformers.utils import logging as transformers_logging

from calico.errors import InputError
from calico.model.backbone import BackboneTrunk
from calico.model.preprocessing import IMAGENET_MEAN_STD
from calico.model.sizes import NUM_LEVELS, PIXELS, BackboneLevels, MeanStd

_LATER = 3  # the first level that a map of another stride may stand in for; finer ones show the pixels


def backbone_levels(source: str, size: int) -> BackboneLevels:
    """source: a folder, or a name on the hub. size: of the frame in pixels, a side. Raises `InputError`."""
    backbone = _read(source)
    config = backbone.config
    scale = _scale(getattr(config, "patch_size", 1))
    view = torch.zeros(1, 3, round(size * scale), round(size * scale))
    try:
        with torch.inference_mode():
            stage_maps = backbone(view).feature_maps
    except Exception as error:  # libraries have many for a picture that does not suit
        raise InputError(f"--trunk {source}: does not take frames of {size} px ({_line(error)})") from None
    if any(level.dim() != 4 or level.shape[2] != level.shape[3] for level in stage_maps):
        raise InputError(f"--trunk {source}: gives no maps (I x C x h x w); expected a backbone that does")
    strides = [math.log2(size / level.shape[-1]) for level in stage_maps]
    names = list(backbone.out_features)
    stages = [
        names[number] if (number := _nearest(strides, k)) is not None else PIXELS for k in range(1, NUM_LEVELS + 1)
    ]
    channels = dict(zip(names, (level.shape[1] for level in stage_maps), strict=True))
    widths = [channels[stage] if stage else 3 * 4**k for k, stage in enumerate(stages, 1)]
    config.out_features = [name for name in names if name in stages]
    raw = config.to_diff_dict() | {"model_type": config.model_type, "out_features": list(config.out_features)}
    for key in ("out_indices", "transformers_version", "architectures", "_name_or_path", "torch_dtype", "dtype"):
        raw.pop(key, None)
    return BackboneLevels(raw, tuple(stages), tuple(widths), scale, _mean_std(source))


def _nearest(strides: list[float], level: int) -> int | None:
    """The number of the stage for a level: the deepest at its own stride; else the deepest of the nearest. Where the
    level is finer, it wants places more than kinds: the middle one of those; for the finest levels none."""
    distances = [abs(stride - level) for stride in strides]
    nearest = [k for k, distance in enumerate(distances) if distance < min(distances) + 0.25]
    if min(distances) < 0.25:
        return nearest[-1]
    if level < _LATER:
        return None
    return nearest[len(nearest) // 2] if strides[nearest[0]] > level else nearest[-1]


def _scale(patch: Any) -> float:
    """So that patches of any size end up at a stride of two, four, eight, ... pixels of the frame."""
    side = patch[0] if isinstance(patch, list | tuple) else patch
    return float(side) / 2 ** round(math.log2(side))


def load_backbone(trunk: nn.Module | None, source: str) -> None:
    """Fills the trunk. Raises `InputError`."""
    if not isinstance(trunk, BackboneTrunk):
        raise TypeError(f"expected a BackboneTrunk, got {type(trunk).__name__}")
    read = _read(source, trunk.levels.config["out_features"])
    trunk.backbone.load_state_dict(read.state_dict())


def _read(source: str, out_features: list[str] | None = None) -> Any:
    """With the maps of all stages, or of these. Raises `InputError`."""
    if not Path(source).is_dir() and (source[0] in "./~" or source.count("/") > 1):
        raise InputError(f"--trunk {source}: no folder there; expected one with a backbone's config.json and weights")
    verbosities = [(library, library.get_verbosity()) for library in (transformers_logging, hub_logging)]
    for library, _ in verbosities:
        library.set_verbosity_error()  # about heads that a backbone has not; about each try to reach the hub
    try:
        config = AutoConfig.from_pretrained(source, trust_remote_code=False)
        if type(config) not in MODEL_FOR_BACKBONE_MAPPING:
            raise ValueError(f"{config.model_type} is no backbone")
        # `AutoBackbone.from_pretrained` asks the hub even for a folder.
        chosen = out_features or list(config.stage_names[1:])
        kind = MODEL_FOR_BACKBONE_MAPPING[type(config)]
        read, loaded = kind.from_pretrained(
            source, use_safetensors=True, trust_remote_code=False, out_features=chosen, output_loading_info=True
        )
        # A backbone's norms after each stage are in no published file and start as plain ones; all else has to be.
        if lacking := sorted(key for key in loaded["missing_keys"] if "norms." not in key):
            raise ValueError(f"its weights lack {len(lacking)} of them, {lacking[0]} first")
        return read.float().eval()
    except Exception as error:  # of files, of the hub, of packages that a kind wants
        raise InputError(
            f"--trunk {source}: expected efficientnet-lite0, or a backbone of transformers with its weights as "
            f"safetensors: a folder, or a name on the hub ({_line(error)})"
        ) from None
    finally:
        for library, verbosity in verbosities:
            library.set_verbosity(verbosity)


def _mean_std(source: str) -> MeanStd:
    """What its pictures were normalised with; ImageNet's where no file says so."""
    try:
        path = cached_file(source, "preprocessor_config.json", _raise_exceptions_for_missing_entries=False)
        raw = json.loads(Path(path).read_text(encoding="utf-8")) if path else {}
        return tuple(map(float, raw["image_mean"])), tuple(map(float, raw["image_std"]))
    except (OSError, ValueError, KeyError, TypeError):
        return IMAGENET_MEAN_STD


def _line(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)[:200]

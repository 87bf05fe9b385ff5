"""CALICO: part-focused co-segmentation of a group of images (CVPR 2025).

    from calico import CoSegmenter, load_group

    result = CoSegmenter.from_checkpoint().segment(load_group(["chair.jpg", "stool.jpg"]))

The names below are the public API (docs/api.md). They are loaded when they are first used, so `import calico` needs no
torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from calico.correspondence import co_segmentation
    from calico.errors import CalicoError, CheckpointError, InputError
    from calico.images import load_group, load_image
    from calico.inference.options import ServingOptions
    from calico.inference.segmenter import CoSegmenter
    from calico.values import CoSegmentation, ImageGroup, NamedMask, Occurrence, PartRegion, Problem, RegionKey, SubTask

_HOMES = {
    "CoSegmenter": "calico.inference.segmenter",
    "ServingOptions": "calico.inference.options",
    "co_segmentation": "calico.correspondence",
    "load_group": "calico.images",
    "load_image": "calico.images",
    "CalicoError": "calico.errors",
    "CheckpointError": "calico.errors",
    "InputError": "calico.errors",
    "CoSegmentation": "calico.values",
    "ImageGroup": "calico.values",
    "NamedMask": "calico.values",
    "Occurrence": "calico.values",
    "PartRegion": "calico.values",
    "Problem": "calico.values",
    "RegionKey": "calico.values",
    "SubTask": "calico.values",
}
__all__ = [
    "CalicoError",
    "CheckpointError",
    "CoSegmentation",
    "CoSegmenter",
    "ImageGroup",
    "InputError",
    "NamedMask",
    "Occurrence",
    "PartRegion",
    "Problem",
    "RegionKey",
    "ServingOptions",
    "SubTask",
    "co_segmentation",
    "load_group",
    "load_image",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'calico' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])

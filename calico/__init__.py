"""CALICO: named parts of objects, common or unique in a group of images.

    from calico import CoSegmenter, load_group

    result = CoSegmenter.from_checkpoint().segment(load_group(["chair.jpg", "stool.jpg"]))

The names below are loaded when they are first used: `import calico` needs no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from calico.images import load_group
    from calico.inference.segmenter import CoSegmenter
    from calico.values import CoSegmentation, ImageGroup, PartRegion

__all__ = ["CoSegmentation", "CoSegmenter", "ImageGroup", "PartRegion", "load_group"]

_HOMES = {
    "CoSegmentation": "calico.values",
    "CoSegmenter": "calico.inference.segmenter",
    "ImageGroup": "calico.values",
    "PartRegion": "calico.values",
    "load_group": "calico.images",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

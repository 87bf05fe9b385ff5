"""Modules of a trained model put out of action, to see what it does without them.

This is no model trained without them: what stands behind a module has learnt to expect it. `benchmarks.ablation` trains
each variant anew.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from calico.errors import InputError
from calico.inference.segmenter import CoSegmenter
from calico.model.cem import NoExtraction

MODULES = ("cem", "cam", "base-memory")


def switch_off(segmenter: CoSegmenter, modules: Sequence[str]) -> None:
    """modules: of `MODULES`. cem: CAM then reads plain X_global. cam: the language model's states pass as they are.
    base-memory: the language model alone names things. Raises `InputError`."""
    if unknown := sorted(set(modules) - set(MODULES)):
        raise InputError(f"expected some of {', '.join(MODULES)}, got {', '.join(unknown)}")
    if "cem" in modules:
        segmenter.model.cem = NoExtraction()
    if "cam" in modules:
        segmenter.model.cams, segmenter.model.cam_layers = nn.ModuleList(), ()
    if "base-memory" in modules:
        segmenter.base_memory = None

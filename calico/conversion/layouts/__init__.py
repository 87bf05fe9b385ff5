"""The families that are known. A file is recognised by their anchors, not by its name."""

from __future__ import annotations

from calico.conversion.layouts import dinov2_hub, glamm, lavis, released, segment_anything, transformers
from calico.conversion.rules import Family

FAMILIES: tuple[Family, ...] = (
    *transformers.FAMILIES,
    *lavis.FAMILIES,
    *dinov2_hub.FAMILIES,
    *segment_anything.FAMILIES,
    *glamm.FAMILIES,
    *released.FAMILIES,
)

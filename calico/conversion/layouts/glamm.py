"""GLaMM, beside its Llama and its SAM: the projection of [SEG] states. LISA has the same."""

from __future__ import annotations

from calico.conversion.rules import Family

_OWN_EYES = "GLaMM's own way of seeing; CALICO sees through EVA-CLIP and the Q-Former"

SEG_PROJECTION = Family(
    "segmentation projection (GLaMM)",
    anchor="text_hidden_fcs.0.0.weight",
    rules=(("seg_projection.{rest}", "text_hidden_fcs.0.{rest}"),),
    left_out={"vision_tower.": _OWN_EYES, "mm_projector.{n}.": _OWN_EYES, "region_encoder.": _OWN_EYES},
)

FAMILIES = (SEG_PROJECTION,)

"""What the released CALICO adds to GLaMM's, LAVIS's and DINOv2's names: CEM, CAM, and a name for the projection.

The names of its modules are those of the first author's public code; the names of the weights inside them are a guess
(torch's own attention, one linear per CAM, in the order of the layers) and are not documented anywhere we could read.
What does not fit is reported and refused; `--map` says it better.
"""

from __future__ import annotations

from calico.conversion.rules import Family

CEM = Family(
    "CEM (released CALICO)",
    anchor="extraction_layer.in_proj_bias",
    rules=(("cem.attention.{rest}", "extraction_layer.{rest}"),),
)
CAM_EXTRACTION = Family(
    "CAM's extraction (released CALICO)",
    anchor="adaptive_layers.0.weight",
    rules=(("cams.{n}.extraction.{rest}", "adaptive_layers.{n}.{rest}"),),
)
CAM_REINTEGRATION = Family(
    "CAM's reintegration (released CALICO)",
    anchor="reintegration_layers.0.weight",
    rules=(("cams.{n}.reintegration.{rest}", "reintegration_layers.{n}.{rest}"),),
)

PROJECTION = Family(
    "projection (released CALICO, in LLaVA's name)",
    anchor="mm_projector.weight",
    rules=(("image_projection.{rest}", "mm_projector.{rest}"),),
)

FAMILIES = (CEM, CAM_EXTRACTION, CAM_REINTEGRATION, PROJECTION)

"""What the backend asks of a model: a protocol that `CoSegmenter` and the fakes of the tests keep."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from calico.values import CoSegmentation, ImageGroup


class Segmenter(Protocol):
    """version: what predictions carry; no other weights have it."""

    version: str

    def segment(self, group: ImageGroup, *, candidates: Sequence[str] | None = None) -> CoSegmentation: ...

    def segment_prompts(
        self,
        image: np.ndarray,
        points_xy: Sequence[tuple[float, float]],
        labels: Sequence[bool],
        box_xyxy: tuple[float, float, float, float] | None,
    ) -> tuple[np.ndarray, float]: ...  # HxW bool at the image's own size, score 0 to 1

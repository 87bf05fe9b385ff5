"""What the backend asks of a model: a protocol that `CoSegmenter` and the fakes of the tests keep.

Whatever keeps it may stand behind the worker, also a model that runs elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import numpy as np

from calico.values import CoSegmentation, ImageGroup

#: (project, model's version, group, prediction, names of a fixed vocabulary) -> the prediction in the light of what the
#: project has taught, and the version to say.
Remembered = Callable[[str, str, ImageGroup, CoSegmentation, Sequence[str]], tuple[CoSegmentation, str]]


class Segmenter(Protocol):
    """version: what predictions carry; no other weights have it. Calls come one at a time."""

    version: str

    def segment_many(
        self, groups: Sequence[ImageGroup], *, candidates: Sequence[Sequence[str] | None]
    ) -> Sequence[CoSegmentation]:
        """One for each group, in order; candidates: names that each question lists, None for none."""

    def segment_prompts(
        self,
        image: np.ndarray,
        points_xy: Sequence[tuple[float, float]],
        labels: Sequence[bool],
        box_xyxy: tuple[float, float, float, float] | None,
    ) -> tuple[np.ndarray, float]:
        """HxW bool at the image's own size, score 0 to 1. Points and box in pixels of the image (HxWx3 uint8 RGB)."""

    def segment_named(
        self, group: ImageGroup, name: str, objects: Mapping[int, str], *, shown: Sequence[int]
    ) -> Mapping[int, tuple[np.ndarray, float]]:
        """The part of that name on each image that is not `shown`: HxW bool and score, as above. objects: the object's
        name of each image."""

"""The best and the worst groups of an evaluation, kept to be drawn with the truth beside the prediction."""

from __future__ import annotations

import io
from dataclasses import dataclass, replace
from operator import itemgetter

import numpy as np
from PIL import Image

from calico.evaluation.cases import Case
from calico.masks import resize_mask
from calico.pictures.overlay import colours_of, draw_overlay
from calico.values import CoSegmentation

NUM_SHOWN = 4
MAX_SIDE = 640  # pixels, the longer side, of what is kept in memory
PICTURE_SIDE = 440  # pixels, the longer side, of a drawn picture


@dataclass(frozen=True, eq=False)
class Shown:
    """A group to look at. score: its strict mIoU after reconciliation. All of it reduced to `MAX_SIDE`."""

    group_id: str
    source: str
    score: float
    questions: tuple[str, ...]
    objects: tuple[str, ...]
    images: tuple[np.ndarray, ...]
    truth: CoSegmentation
    prediction: CoSegmentation

    def pictures(self) -> list[tuple[bytes, bytes]]:
        """(truth, prediction) of each image as JPEG; a name has one colour on all of them."""
        colours = colours_of(self.truth, self.prediction)
        return [
            (
                _jpeg(draw_overlay(image, self.truth, index, colours)),
                _jpeg(draw_overlay(image, self.prediction, index, colours)),
            )
            for index, image in enumerate(self.images)
        ]


class Gallery:
    """Keeps the best and the worst few of all that it is offered, in whatever order they come; drawn when asked for."""

    def __init__(self, num_shown: int = NUM_SHOWN) -> None:
        self._num_shown = num_shown
        self._best: list[tuple[tuple[float, str], Shown]] = []  # with what they are sorted by
        self._worst: list[tuple[tuple[float, str], Shown]] = []

    def offer(self, score: float, case: Case, prediction: CoSegmentation) -> None:
        ranks = (self._best, (-score, case.group_id)), (self._worst, (score, case.group_id))
        places = [(kept, rank) for kept, rank in ranks if len(kept) < self._num_shown or rank < kept[-1][0]]
        if not places:
            return
        entry = Shown(
            case.group_id,
            case.source,
            score,
            tuple(case.sub_tasks),
            tuple(region.object_name for region in case.truth.regions if region.kind == "object"),
            tuple(_reduced_image(image) for image in case.group.images),
            _reduced(case.asked),
            _reduced(prediction),
        )
        for kept, rank in places:
            kept.append((rank, entry))
            kept.sort(key=itemgetter(0))
            del kept[self._num_shown :]

    @property
    def best(self) -> list[Shown]:
        """The best first."""
        return [entry for _, entry in self._best]

    @property
    def worst(self) -> list[Shown]:
        """The worst first; of few groups none that is among the best."""
        best_ids = {entry.group_id for entry in self.best}
        return [entry for _, entry in self._worst if entry.group_id not in best_ids]


def _reduced_hw(size_hw: tuple[int, int]) -> tuple[int, int]:
    scale = min(1.0, MAX_SIDE / max(size_hw))
    return max(1, round(size_hw[0] * scale)), max(1, round(size_hw[1] * scale))


def _reduced_image(image: np.ndarray) -> np.ndarray:
    height, width = _reduced_hw((image.shape[0], image.shape[1]))
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.LANCZOS))


def _reduced(coseg: CoSegmentation) -> CoSegmentation:
    sizes_hw = tuple(_reduced_hw(size_hw) for size_hw in coseg.sizes_hw)
    regions = tuple(replace(r, mask=resize_mask(r.mask, sizes_hw[r.image])) for r in coseg.regions)
    return CoSegmentation(sizes_hw, regions, coseg.answers, coseg.problems)


def _jpeg(drawn: np.ndarray) -> bytes:
    """HxWx3 uint8 -> JPEG of `PICTURE_SIDE`."""
    picture = Image.fromarray(drawn)
    picture.thumbnail((PICTURE_SIDE, PICTURE_SIDE), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=85)
    return file.getvalue()
